//! Which handler answers which path. The OpenAPI document is made from the same lines, so the two
//! cannot drift apart.

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::OpenApi as _;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::error::{ApiError, ErrorCode};
use super::guard::{authenticate, check_host, check_origin, observe, part};
use super::openapi::Description;
use super::state::ApiState;
use super::{batches, dead, deliveries, docs, environments, evaluations, service};

/// What needs an API key.
fn keyed() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(evaluations::create::create, evaluations::list::list))
        .routes(routes!(evaluations::get::get, evaluations::delete::delete))
        .routes(routes!(evaluations::cancel::cancel))
        .routes(routes!(evaluations::events::events))
        .routes(routes!(evaluations::output::stdout))
        .routes(routes!(evaluations::output::stderr))
        .routes(routes!(evaluations::output::build))
        .routes(routes!(batches::create::create))
        .routes(routes!(batches::get::get))
        .routes(routes!(dead::list::list))
        .routes(routes!(dead::requeue::requeue))
        .routes(routes!(deliveries::list::list))
        .routes(routes!(deliveries::redeliver::redeliver))
        .routes(routes!(environments::list::list))
        .routes(routes!(environments::get::get))
        .routes(routes!(service::queue::get))
        .routes(routes!(service::version::get))
        .routes(routes!(service::health::detailed))
        .routes(routes!(service::metrics::get))
}

/// What tells nothing of anybody and needs none.
fn open() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(service::health::alive))
        .routes(routes!(service::health::ready))
        .routes(routes!(service::proof::get))
}

/// The document of every route.
pub(super) fn document() -> OpenApi {
    let routes = OpenApiRouter::with_openapi(Description::openapi()).merge(keyed()).merge(open());
    let (_router, mut document): (Router<ApiState>, OpenApi) = routes.split_for_parts();
    super::openapi::finish(&mut document);
    document
}

/// The whole API.
pub fn router(state: ApiState) -> Router {
    let (keyed, _) = keyed().split_for_parts();
    let (open, _) = open().split_for_parts();
    let guards = ServiceBuilder::new()
        .layer(from_fn_with_state(state.clone(), part))
        .layer(from_fn(observe))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(from_fn_with_state(state.clone(), check_host))
        .layer(from_fn_with_state(state.clone(), check_origin));
    keyed
        .route_layer(from_fn_with_state(state.clone(), authenticate))
        .merge(open)
        .merge(docs::router())
        .fallback(async || ApiError::new(ErrorCode::NotFound, "nothing is served under this path; see /docs"))
        .method_not_allowed_fallback(async || {
            ApiError::new(ErrorCode::MethodNotAllowed, "this path has no such method; see the header `Allow`")
        })
        .layer(guards)
        .with_state(state)
}

#[derive(Debug, thiserror::Error)]
#[error("a handler panicked: {0}")]
struct Panicked(String);

/// A panic is our fault and one request's end, not the server's.
fn panicked(panic: Box<dyn std::any::Any + Send>) -> Response {
    let message = panic
        .downcast_ref::<&str>()
        .map(|&text| text.to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_default();
    ApiError::internal(Panicked(message)).into_response()
}
