use axum::Router;
use hood_wire::dispatch::{Frame, FrameBody, Observation, Problem};
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;

use super::routes::{DispatcherState, documented};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Fumehood dispatcher",
        version = "1.0.0",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
        description = "What a worker asks of a dispatcher, over HTTP/2 with certificates on both sides; no other role may call. Every request carries its version in the header `fumehood-dispatch-version`; what a reader does not know is ignored. Every request may be made twice."
    ),
    components(schemas(Frame, FrameBody, Observation, Problem)),
    tags(
        (name = "places", description = "One place for each attempt."),
        (name = "capacity", description = "What the dispatcher offers."),
    ),
)]
struct Description;

/// The document as it is committed in `openapi/dispatcher.json`.
pub fn openapi() -> String {
    let routes = OpenApiRouter::with_openapi(Description::openapi()).merge(documented());
    let (_router, document): (Router<DispatcherState>, _) = routes.split_for_parts();
    let mut text = document.to_pretty_json().unwrap_or_default();
    text.push('\n');
    text
}
