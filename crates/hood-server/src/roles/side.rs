//! Health and metrics of a role that serves nothing else over HTTP: a small listener without a key, for
//! orchestrators and Prometheus. It tells of states and counts alone.

use std::net::SocketAddr;
use std::time::Instant;

use anyhow::Context as _;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use hood_wire::api::{CheckState, Health as Report};
use serde::Serialize;
use serde_json::{Map, Value};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock as _, SystemClock};
use crate::health::Health;
use crate::telemetry::Metrics;
use crate::telemetry::metrics::{Process, UPKEEP_EVERY};

#[derive(Clone, Debug)]
struct Side {
    role: Process,
    health: Health,
    metrics: Metrics,
    began: Instant,
}

/// What `/health/detailed` tells.
#[derive(Debug, Serialize)]
struct Detail {
    role: &'static str,
    uptime_ms: u64,
    /// For how long no evaluation has ended with a verdict of its program; of a worker.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_finished_age_ms: Option<u64>,
    /// What this role has: the queue, leases, places, deliveries.
    #[serde(flatten)]
    figures: Map<String, Value>,
    #[serde(flatten)]
    report: Report,
}

/// Listens where the operator wants it, if anywhere, until told to stop. Returns where.
pub(super) async fn start(
    listen: Option<SocketAddr>,
    role: Process,
    health: &Health,
    stop: &CancellationToken,
) -> anyhow::Result<Option<SocketAddr>> {
    // Installed even where nobody asks, so that counting has somewhere to go.
    let metrics = Metrics::of(role)?;
    let folded = metrics.clone();
    tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
        loop {
            tokio::time::sleep(UPKEEP_EVERY).await;
            folded.upkeep();
        }
    }));
    let Some(listen) = listen else { return Ok(None) };
    let listener = TcpListener::bind(listen)
        .await
        .with_context(|| format!("cannot listen on {listen} (metrics.listen)"))?;
    let address = listener.local_addr()?;
    let side = Side { role, health: health.clone(), metrics, began: Instant::now() };
    let router = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/health/detailed", get(detailed))
        .route("/metrics", get(figures))
        .with_state(side);
    let stopped = stop.clone().cancelled_owned();
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(stopped).await {
            tracing::error!(error = %error, "health and metrics are no longer served");
        }
    });
    Ok(Some(address))
}

async fn ready(State(side): State<Side>) -> (StatusCode, Json<Report>) {
    let report = side.health.check().await;
    let status = match report.status {
        CheckState::Ok | CheckState::Degraded => StatusCode::OK,
        CheckState::Failed => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, Json(report))
}

async fn detailed(State(side): State<Side>) -> Json<Detail> {
    let age = |at: hood_core::Timestamp| SystemClock.now().since(at);
    let finished = side.health.vitals().last_finished().map(age);
    Json(Detail {
        role: side.role.as_str(),
        uptime_ms: u64::try_from(side.began.elapsed().as_millis()).unwrap_or(u64::MAX),
        last_finished_age_ms: finished.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
        figures: side.health.figures().told().await,
        report: side.health.check().await,
    })
}

async fn figures(State(side): State<Side>) -> Response {
    side.health.figures().measure().await;
    let text = side.metrics.render();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}
