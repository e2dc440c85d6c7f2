use axum::Json;
use axum::extract::State;
use hood_wire::api::EnvironmentList;

use crate::api::catalogue;
use crate::api::error::{ApiError, problems};
use crate::api::guard::Caller;
use crate::api::state::ApiState;

problems!();

/// List environments.
///
/// All of them, on one page; none as long as no worker has reported any.
#[utoipa::path(
    get, path = "/v1/environments", tag = "environments", operation_id = "list_environments",
    responses((status = 200, description = "All of them.", body = EnvironmentList), Problems),
)]
pub(crate) async fn list(
    State(state): State<ApiState>,
    _caller: Caller,
) -> Result<Json<EnvironmentList>, ApiError> {
    let catalogue = catalogue::find(&state).await?;
    let items = catalogue.map(|catalogue| catalogue.environments().to_vec()).unwrap_or_default();
    Ok(Json(EnvironmentList { items, next_cursor: None }))
}
