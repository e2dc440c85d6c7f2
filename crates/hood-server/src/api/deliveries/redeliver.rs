use axum::extract::State;
use axum::http::StatusCode;
use hood_store::FindError;

use crate::api::error::{ApiError, ErrorCode, problems};
use crate::api::guard::Caller;
use crate::api::path::Segment;
use crate::api::state::ApiState;
use crate::notifier::parse_delivery_id;

problems!(DeliveryNotFound);

/// Tell it once more, with as many tries as in the beginning.
#[utoipa::path(
    post, path = "/v1/deliveries/{id}/redeliver", tag = "deliveries", operation_id = "redeliver",
    params(("id" = String, Path, description = "The delivery's id, as in `webhook-id`.")),
    responses((status = 202, description = "It is due at once."), Problems),
)]
pub(crate) async fn redeliver(
    State(state): State<ApiState>,
    caller: Caller,
    Segment(id): Segment,
) -> Result<StatusCode, ApiError> {
    let unknown = || ApiError::new(ErrorCode::DeliveryNotFound, "no delivery has this id");
    let id = parse_delivery_id(&caller.tenant, &id).ok_or_else(unknown)?;
    match state.store().redeliver(&id, state.now()).await {
        Ok(()) => Ok(StatusCode::ACCEPTED),
        Err(FindError::NotFound) => Err(unknown()),
        Err(FindError::Store(error)) => Err(error.into()),
    }
}
