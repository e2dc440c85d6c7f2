use axum::extract::State;
use axum::http::StatusCode;
use hood_store::Delete;

use super::parse_id;
use crate::api::error::{ApiError, ErrorCode, problems};
use crate::api::guard::Caller;
use crate::api::path::Segment;
use crate::api::state::ApiState;

problems!(EvaluationNotFound, NotTerminal);

/// Delete a finished evaluation, its events and its output.
#[utoipa::path(
    delete, path = "/v1/evaluations/{id}", tag = "evaluations", operation_id = "delete_evaluation",
    params(("id" = String, Path, description = "`ev_` and 32 lowercase hexadecimal digits.")),
    responses((status = 204, description = "Deleted."), Problems),
)]
pub(crate) async fn delete(
    State(state): State<ApiState>,
    caller: Caller,
    Segment(id): Segment,
) -> Result<StatusCode, ApiError> {
    let id = parse_id(&id)?;
    match state.store().delete(&caller.tenant, id).await.map_err(ApiError::find)? {
        Delete::Deleted => Ok(StatusCode::NO_CONTENT),
        Delete::NotTerminal => Err(ApiError::new(
            ErrorCode::NotTerminal,
            "it has not finished: cancel it first and wait for its end",
        )),
    }
}
