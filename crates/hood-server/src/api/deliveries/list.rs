use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use hood_wire::api::DeliveryList;

use super::view;
use crate::api::error::{ApiError, problems};
use crate::api::guard::Caller;
use crate::api::query::{Query, encode_cursor};
use crate::api::state::ApiState;

problems!(InvalidParameter);

/// List webhook deliveries, newest first.
#[utoipa::path(
    get, path = "/v1/deliveries", tag = "deliveries", operation_id = "list_deliveries",
    params(
        ("state" = Option<Vec<String>>, Query, description = "`pending`, `delivered` or `dead`; repeated, any of them."),
        ("evaluation" = Option<String>, Query, description = "Of this evaluation."),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before."),
        ("limit" = Option<u32>, Query, description = "Deliveries on a page."),
    ),
    responses((status = 200, description = "One page.", body = DeliveryList), Problems),
)]
pub(crate) async fn list(
    State(state): State<ApiState>,
    caller: Caller,
    uri: Uri,
) -> Result<Json<DeliveryList>, ApiError> {
    let pages = &state.config().limits.page;
    let mut query = Query::of(&uri)?;
    let states = query.delivery_states();
    let evaluation = query.evaluation("evaluation");
    let cursor = query.evaluation_cursor();
    let limit = query.limit(pages.default, pages.max);
    query.finish()?;
    let page = state.store().deliveries(&caller.tenant, &states, (evaluation, cursor), limit).await?;
    let items = page.items.iter().map(view).collect();
    Ok(Json(DeliveryList { items, next_cursor: page.next.map(|id| encode_cursor(&id.to_string())) }))
}
