use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use crate::api::error::{ApiError, problems};
use crate::api::guard::Caller;
use crate::api::state::ApiState;

problems!();

/// Get metrics, as Prometheus reads them.
#[utoipa::path(
    get, path = "/metrics", tag = "health", operation_id = "get_metrics",
    responses((status = 200, description = "Prometheus' text format.", body = String, content_type = "text/plain"), Problems),
)]
pub(crate) async fn get(State(state): State<ApiState>, _caller: Caller) -> Result<Response, ApiError> {
    state.health().figures().measure().await;
    let text = state.metrics().render();
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response())
}
