use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use hood_core::Timestamp;
use hood_wire::api::{CapacityStatus, Check, CheckState, Health, HealthDetail, StorageStatus};

use super::queue;
use crate::api::catalogue;
use crate::api::error::{ApiError, problems};
use crate::api::guard::Caller;
use crate::api::state::ApiState;

problems!();

/// Is the process alive? It answers, so it is: nothing is looked at.
#[utoipa::path(
    get, path = "/healthz", tag = "health", operation_id = "get_alive", security(()),
    responses((status = 200, description = "Alive.", body = String, content_type = "text/plain")),
)]
pub(crate) async fn alive() -> &'static str {
    "ok\n"
}

/// Can it serve? Each check has a timeout, and its result is kept for a while.
#[utoipa::path(
    get, path = "/readyz", tag = "health", operation_id = "get_ready", security(()),
    responses(
        (status = 200, description = "Every check is well, or what is not can be done without (`degraded`).", body = Health),
        (status = 503, description = "Some check failed; `checks` says which and why.", body = Health),
    ),
)]
pub(crate) async fn ready(State(state): State<ApiState>) -> (StatusCode, Json<Health>) {
    let mut health = state.health().check().await;
    if state.leaving().is_cancelled() {
        health.status = CheckState::Failed;
        health.checks.push(leaving());
    }
    (status(health.status), Json(health))
}

fn leaving() -> Check {
    Check {
        name: "leaving".to_owned(),
        status: CheckState::Failed,
        detail: "this process is about to stop: ask another one".to_owned(),
        age_ms: 0,
        took_ms: 0.0,
        last_ok_age_ms: None,
    }
}

const fn status(state: CheckState) -> StatusCode {
    match state {
        CheckState::Ok | CheckState::Degraded => StatusCode::OK,
        CheckState::Failed => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// Get health with the figures that explain it.
#[utoipa::path(
    get, path = "/health/detailed", tag = "health", operation_id = "get_health_detail",
    responses((status = 200, description = "Whether it is well or not, the figures.", body = HealthDetail), Problems),
)]
pub(crate) async fn detailed(
    State(state): State<ApiState>,
    caller: Caller,
) -> Result<Json<HealthDetail>, ApiError> {
    let health = state.health().check().await;
    let storage = state.store().storage().await?;
    let catalogue = catalogue::find(&state).await?;
    let vitals = state.health().vitals();
    let now = state.now();
    let age_ms = |at: Timestamp| u64::try_from(now.since(at).as_millis()).unwrap_or(u64::MAX);
    Ok(Json(HealthDetail {
        status: health.status,
        checks: health.checks,
        uptime_ms: u64::try_from(state.began().elapsed().as_millis()).unwrap_or(u64::MAX),
        queue: queue::status(&state, &caller.tenant).await?,
        leases_held: vitals.leases_held(),
        last_finished_age_ms: vitals.last_finished().map(age_ms),
        capacity: catalogue.map(|catalogue| CapacityStatus {
            version: catalogue.version,
            age_ms: age_ms(catalogue.taken_at),
            places: catalogue.places(),
        }),
        storage: StorageStatus {
            used_bytes: storage.used_bytes,
            limit_bytes: storage.limit_bytes,
            reserve_bytes: storage.reserve_bytes,
        },
        durability: state.store().durability().await?.into_iter().collect(),
    }))
}
