use axum::Json;
use axum::extract::{Path, State};
use hood_wire::api::Proof;

use crate::api::error::{ApiError, ErrorCode, problems};
use crate::api::state::ApiState;

problems!();

/// Get a proof that this is the server which announced itself in a data directory.
#[utoipa::path(
    get, path = "/v1/proof/{challenge}", tag = "service", operation_id = "get_proof", security(()),
    params(("challenge" = String, Path, description = "Whatever the caller draws, and never asked before.")),
    responses(
        (status = 200, description = "What only a server can answer that knows the `seal` of `server.json`.", body = Proof),
        Problems,
    ),
)]
pub(crate) async fn get(
    State(state): State<ApiState>,
    Path(challenge): Path<String>,
) -> Result<Json<Proof>, ApiError> {
    let seal = state.seal();
    let seal =
        seal.ok_or_else(|| ApiError::new(ErrorCode::NotFound, "this server announced itself nowhere"))?;
    Ok(Json(Proof { proof: seal.prove(&challenge) }))
}
