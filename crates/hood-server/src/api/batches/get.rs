use axum::Json;
use axum::extract::State;
use hood_core::BatchId;
use hood_store::FindError;
use hood_wire::api::Batch;

use crate::api::error::{ApiError, ErrorCode, problems};
use crate::api::guard::Caller;
use crate::api::path::Segment;
use crate::api::state::ApiState;
use crate::document::batch_view;

problems!(BatchNotFound);

/// Get a batch: how many of its evaluations are in which state.
#[utoipa::path(
    get, path = "/v1/batches/{id}", tag = "batches", operation_id = "get_batch",
    params(("id" = String, Path, description = "`ba_` and 32 lowercase hexadecimal digits.")),
    responses((status = 200, description = "As it stands.", body = Batch), Problems),
)]
pub(crate) async fn get(
    State(state): State<ApiState>,
    caller: Caller,
    Segment(id): Segment,
) -> Result<Json<Batch>, ApiError> {
    let not_found = |detail: String| ApiError::new(ErrorCode::BatchNotFound, detail);
    let id: BatchId = id.parse().map_err(|error: hood_core::id::IdError| not_found(error.to_string()))?;
    match state.store().batch(&caller.tenant, id).await {
        Ok(batch) => Ok(Json(batch_view(&batch))),
        Err(FindError::NotFound) => Err(not_found("no such batch".to_owned())),
        Err(FindError::Store(source)) => Err(source.into()),
    }
}
