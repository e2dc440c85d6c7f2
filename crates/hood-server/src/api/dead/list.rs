use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use hood_core::{EvaluationId, Tenant};
use hood_store::{Dead, Filter};
use hood_wire::api::{DeadEvaluation, DeadList};

use crate::api::error::{ApiError, problems};
use crate::api::guard::Caller;
use crate::api::query::{Query, encode_cursor};
use crate::api::state::ApiState;
use crate::document::{Heads, evaluation_view};

problems!(InvalidParameter);

/// Each is read with all its attempts.
const PAGE_MAX: u32 = 100;

/// List evaluations that infrastructure failed, newest first, with every attempt.
#[utoipa::path(
    get, path = "/v1/dead", tag = "dead", operation_id = "list_dead",
    params(
        ("all" = Option<bool>, Query, description = "Also those that were requeued."),
        ("label" = Option<Vec<String>>, Query, description = "`name=value`; repeated, each must hold. At most 16."),
        ("since" = Option<String>, Query, description = "Submitted then or later; RFC 3339."),
        ("batch" = Option<String>, Query, description = "Of this batch."),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before."),
        ("limit" = Option<u32>, Query, description = "Evaluations on a page, at most 100."),
    ),
    responses((status = 200, description = "One page.", body = DeadList), Problems),
)]
pub(crate) async fn list(
    State(state): State<ApiState>,
    caller: Caller,
    uri: Uri,
) -> Result<Json<DeadList>, ApiError> {
    let pages = &state.config().limits.page;
    let mut query = Query::of(&uri)?;
    let dead = if query.flag("all") { Dead::All } else { Dead::Left };
    let (labels, since, batch) = (query.labels(), query.since(), query.batch());
    let filter = Filter { labels, since, batch, dead: Some(dead), ..Filter::default() };
    let cursor = query.evaluation_cursor();
    let limit = query.limit(pages.default.min(PAGE_MAX), pages.max.min(PAGE_MAX));
    query.finish()?;
    let page = state.store().list(&caller.tenant, &filter, cursor, limit).await?;
    let mut items = Vec::with_capacity(page.items.len());
    for found in &page.items {
        items.push(dead_view(&state, &caller.tenant, found.id).await?);
    }
    Ok(Json(DeadList { items, next_cursor: page.next.map(|id| encode_cursor(&id.to_string())) }))
}

async fn dead_view(state: &ApiState, tenant: &Tenant, id: EvaluationId) -> Result<DeadEvaluation, ApiError> {
    let record = state.store().get(tenant, id).await.map_err(ApiError::find)?;
    let lives = state.store().lives(tenant, id).await?;
    let shown = evaluation_view(&record, Heads::default()).map_err(ApiError::internal)?;
    Ok(DeadEvaluation {
        id: shown.id,
        environment: shown.environment.name,
        priority: shown.priority,
        labels: shown.labels,
        batch: shown.batch,
        created_at: shown.created_at,
        finished_at: shown.finished_at,
        attempts: shown.attempts,
        evidence: shown.evidence,
        requeued_as: lives.after.map(|id| id.to_string()),
        requeue_of: lives.before.map(|id| id.to_string()),
    })
}
