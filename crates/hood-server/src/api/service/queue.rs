use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use hood_core::{State as Stage, Tenant};
use hood_store::QueueRecord;
use hood_wire::api::{OldestQueued, QueueDepth, QueueStatus};

use crate::api::error::{ApiError, problems};
use crate::api::guard::Caller;
use crate::api::state::ApiState;
use crate::document::state_to_wire;

problems!();

/// Get what waits and what runs.
#[utoipa::path(
    get, path = "/v1/queue", tag = "service", operation_id = "get_queue",
    responses((status = 200, description = "Depth by state and priority, and the oldest that waits.", body = QueueStatus), Problems),
)]
pub(crate) async fn get(
    State(state): State<ApiState>,
    caller: Caller,
) -> Result<Json<QueueStatus>, ApiError> {
    status(&state, &caller.tenant).await.map(Json)
}

pub(super) async fn status(state: &ApiState, tenant: &Tenant) -> Result<QueueStatus, ApiError> {
    let queue = state.store().queue(tenant).await?;
    let mut states: BTreeMap<String, u64> = Stage::ALL
        .iter()
        .filter(|stage| !stage.is_terminal())
        .map(|stage| (stage.as_str().to_owned(), 0))
        .collect();
    for (stage, _, count) in &queue.depth {
        *states.entry(stage.as_str().to_owned()).or_default() += count;
    }
    let oldest = queue.oldest.map(|(id, since)| {
        let age = state.now().since(since).as_millis();
        OldestQueued { id: id.to_string(), age_ms: u64::try_from(age).unwrap_or(u64::MAX) }
    });
    Ok(QueueStatus { states, depth: depth(&queue), oldest, queue_max: state.config().queue_max })
}

/// Queued first, and within a state the highest priority first.
fn depth(queue: &QueueRecord) -> Vec<QueueDepth> {
    let mut depth = queue.depth.clone();
    depth.sort_unstable_by(|(a, p, _), (b, q, _)| a.cmp(b).then(q.cmp(p)));
    let shown = depth.into_iter().filter(|(_, _, count)| *count > 0);
    shown
        .map(|(stage, priority, count)| QueueDepth { state: state_to_wire(stage), priority, count })
        .collect()
}
