use axum::Json;
use axum::extract::State;
use hood_wire::api::Environment;

use crate::api::catalogue;
use crate::api::error::{ApiError, ErrorCode, problems};
use crate::api::guard::Caller;
use crate::api::path::Segment;
use crate::api::state::ApiState;

problems!(EnvironmentNotFound);

/// Get an environment.
#[utoipa::path(
    get, path = "/v1/environments/{name}", tag = "environments", operation_id = "get_environment",
    params(("name" = String, Path, description = "Its name.", example = "minimal")),
    responses((status = 200, description = "As it stands.", body = Environment), Problems),
)]
pub(crate) async fn get(
    State(state): State<ApiState>,
    _caller: Caller,
    Segment(name): Segment,
) -> Result<Json<Environment>, ApiError> {
    let catalogue = catalogue::find(&state).await?;
    let found = catalogue.as_ref().and_then(|catalogue| catalogue.environment(Some(&name)));
    let not_found = || ApiError::new(ErrorCode::EnvironmentNotFound, "no such environment");
    found.cloned().map(Json).ok_or_else(not_found)
}
