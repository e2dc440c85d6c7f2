use std::time::Duration;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use crate::api::admission::PRIORITY_MAX;
use crate::api::error::{ApiError, problems};
use crate::api::guard::Caller;
use crate::api::state::ApiState;
use crate::telemetry::metrics;

problems!();

/// Get metrics, as Prometheus reads them.
#[utoipa::path(
    get, path = "/metrics", tag = "health", operation_id = "get_metrics",
    responses((status = 200, description = "Prometheus' text format.", body = String, content_type = "text/plain"), Problems),
)]
pub(crate) async fn get(State(state): State<ApiState>, caller: Caller) -> Result<Response, ApiError> {
    let queue = state.store().queue(&caller.tenant).await?;
    let oldest = queue.oldest.map_or(Duration::ZERO, |(_, since)| state.now().since(since));
    metrics::set_queue(&queue.depth, PRIORITY_MAX, oldest);
    let storage = state.store().storage().await?;
    for (what, bytes) in
        [("used", storage.used_bytes), ("limit", storage.limit_bytes), ("reserve", storage.reserve_bytes)]
    {
        ::metrics::gauge!(metrics::STORAGE_BYTES, "what" => what).set(bytes as f64);
    }
    ::metrics::gauge!(metrics::LEASES_HELD).set(state.health().vitals().leases_held() as f64);
    let text = state.metrics().render();
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response())
}
