use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use hood_store::Filter;
use hood_wire::api::EvaluationList;

use crate::api::error::{ApiError, problems};
use crate::api::guard::Caller;
use crate::api::query::{Query, encode_cursor};
use crate::api::state::ApiState;
use crate::document::summary_view;

problems!(InvalidParameter);

/// List evaluations, newest first.
///
/// Pages are stable: what is submitted while you turn them appears on none of those that follow.
#[utoipa::path(
    get, path = "/v1/evaluations", tag = "evaluations", operation_id = "list_evaluations",
    params(
        ("state" = Option<Vec<String>>, Query, description = "In any of these states; repeated, or with commas between them."),
        ("label" = Option<Vec<String>>, Query, description = "`name=value`; repeated, each must hold. At most 16."),
        ("since" = Option<String>, Query, description = "Submitted then or later; RFC 3339.", example = "2026-01-31T12:00:00Z"),
        ("batch" = Option<String>, Query, description = "Of this batch."),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before."),
        ("limit" = Option<u32>, Query, description = "Evaluations on a page."),
    ),
    responses((status = 200, description = "One page.", body = EvaluationList), Problems),
)]
pub(crate) async fn list(
    State(state): State<ApiState>,
    caller: Caller,
    uri: Uri,
) -> Result<Json<EvaluationList>, ApiError> {
    let pages = &state.config().limits.page;
    let mut query = Query::of(&uri)?;
    let filter = Filter {
        states: query.states(),
        labels: query.labels(),
        since: query.since(),
        batch: query.batch(),
        ..Filter::default()
    };
    let cursor = query.evaluation_cursor();
    let limit = query.limit(pages.default, pages.max);
    query.finish()?;
    let page = state.store().list(&caller.tenant, &filter, cursor, limit).await?;
    let items = page.items.iter().map(summary_view).collect::<Result<_, _>>().map_err(ApiError::internal)?;
    Ok(Json(EvaluationList { items, next_cursor: page.next.map(|id| encode_cursor(&id.to_string())) }))
}
