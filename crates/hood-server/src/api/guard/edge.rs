//! The outermost layer: gives the request its id, records it, and finishes the answer. A handler's
//! error becomes its body here, since here the id is known.

use std::time::Instant;

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, Method, Response, StatusCode, header};
use axum::middleware::Next;
use hood_wire::api::{REQUEST_ID, TRACEPARENT};
use tracing::Instrument;

use super::request_id::RequestId;
use crate::api::error::{ApiError, PROBLEM_JSON};
use crate::api::state::ApiState;
use crate::telemetry::metrics;
use crate::telemetry::traces::{Part, Trace, trace_id};

/// For answers that say nothing else: nothing here is a page, so nothing may be loaded or framed.
const NO_CONTENT_POLICY: &str = "default-src 'none'; frame-ancestors 'none'";

pub(crate) async fn observe(mut request: Request, next: Next) -> Response<Body> {
    let began = Instant::now();
    let id = RequestId::of(request.headers(), rand::random());
    let method = known_method(request.method());
    let route = request.extensions().get::<MatchedPath>().map_or("unmatched", MatchedPath::as_str).to_owned();
    let trace = traced(&mut request, method, &route, &id);
    let span = tracing::info_span!(
        "http.request",
        request.id = %id,
        http.method = method,
        http.route = route,
        trace.id = request.headers().get(TRACEPARENT).and_then(|sent| trace_id(sent.to_str().ok()?)),
    );
    async move {
        let mut response = next.run(request).await;
        finish(&mut response, &id);
        record(&response, method, route, began);
        if let Some(trace) = trace {
            trace.note("http.response.status_code", i64::from(response.status().as_u16()));
            if response.status().is_server_error() {
                trace.fail(response.status().as_str().to_owned());
            }
        }
        response
    }
    .instrument(span)
    .await
}

/// While the server leaves, each answer is the last of its connection: a client that would ask once more over
/// it does so elsewhere, instead of at the moment when it is closed.
pub(crate) async fn part(State(state): State<ApiState>, request: Request, next: Next) -> Response<Body> {
    let mut response = next.run(request).await;
    if state.leaving().is_cancelled() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// The span of one request, put in place of what the client sent: what is accepted belongs beneath it.
/// What asks for the server's own state is no part of anybody's trace.
fn traced(request: &mut Request, method: &'static str, route: &str, id: &RequestId) -> Option<Trace> {
    if !route.starts_with("/v1/") {
        return None;
    }
    let parent = request.headers().get(TRACEPARENT).and_then(|sent| sent.to_str().ok());
    let trace = Trace::begin(format!("{method} {route}"), Part::Server, parent);
    let context = trace.traceparent().and_then(|context| HeaderValue::from_str(&context).ok())?;
    request.headers_mut().insert(TRACEPARENT, context);
    trace.note("http.request.method", method);
    trace.note("http.route", route.to_owned());
    trace.note("request.id", id.as_str().to_owned());
    Some(trace)
}

/// The method as a metric's label: a made-up one must not make a series.
fn known_method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "OTHER",
    }
}

fn finish(response: &mut Response<Body>, id: &RequestId) {
    if let Some(error) = response.extensions_mut().remove::<ApiError>() {
        let problem = error.problem(id.as_str());
        // A problem is strings and numbers: serialising it cannot fail.
        *response.body_mut() = Body::from(serde_json::to_vec(&problem).unwrap_or_default());
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        log(&error);
    }
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, id.to_header());
    let defaults: [(HeaderName, &'static str); 5] = [
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CONTENT_SECURITY_POLICY, NO_CONTENT_POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ];
    for (name, value) in defaults {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
}

fn log(error: &ApiError) {
    let code = error.code.as_str();
    if error.code.status() == StatusCode::INTERNAL_SERVER_ERROR {
        tracing::error!(error.code = code, error.causes = error.causes(), "request failed");
    } else if error.code.status().is_server_error() {
        tracing::warn!(error.code = code, error.detail = error.detail, "request refused");
    } else {
        tracing::debug!(error.code = code, "request refused");
    }
}

fn record(response: &Response<Body>, method: &'static str, route: String, began: Instant) {
    let status = response.status();
    let took = began.elapsed();
    tracing::debug!(http.status = status.as_u16(), took_ms = took.as_secs_f64() * 1e3, "request answered");
    ::metrics::counter!(metrics::HTTP_REQUESTS, "method" => method, "route" => route.clone(),
        "status" => status.as_u16().to_string())
    .increment(1);
    ::metrics::histogram!(metrics::HTTP_SECONDS, "method" => method, "route" => route)
        .record(took.as_secs_f64());
}
