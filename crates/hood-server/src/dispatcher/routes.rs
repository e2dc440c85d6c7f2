//! What is served under which path. The OpenAPI document is made from the same lines.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use futures::StreamExt as _;
use hood_core::EvaluationId;
use hood_dispatch::AttemptKey;
use hood_dispatch::remote::{Answer, Call, Service};
use hood_wire::dispatch::{self as wire, ProblemCode};
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::problem::Refused;
use crate::tls::{Identity, Role, may_call};

/// The unit in which room for orders is handed out: permits are counted in 32 bits.
const ROOM_UNIT: usize = 1024;

/// Bodies that are no order: a token and two numbers.
const SMALL_BODY_BYTES_MAX: usize = 16 * 1024;

/// Cheap to clone; one for each request.
#[derive(Clone, Debug)]
pub struct DispatcherState {
    service: Service,
    order_bytes_max: usize,
    /// Room for the orders that are read at once, in [`ROOM_UNIT`]s.
    room: Arc<Semaphore>,
}

impl DispatcherState {
    /// `order_bytes_max` is the largest order, `all_bytes_max` what all of them may hold at once.
    pub fn new(service: Service, order_bytes_max: usize, all_bytes_max: usize) -> Self {
        let units = (all_bytes_max.max(order_bytes_max) / ROOM_UNIT + 1).min(Semaphore::MAX_PERMITS);
        Self { service, order_bytes_max, room: Arc::new(Semaphore::new(units)) }
    }
}

pub(super) fn documented() -> OpenApiRouter<DispatcherState> {
    OpenApiRouter::new()
        .routes(routes!(execute))
        .routes(routes!(status))
        .routes(routes!(frames))
        .routes(routes!(acknowledge))
        .routes(routes!(cancel))
        .routes(routes!(capacity))
}

/// Everything, for connections whose peer is known: an [`Identity`] is in each request's extensions.
pub fn router(state: DispatcherState) -> Router {
    let (router, _) = documented().split_for_parts();
    router
        .layer(DefaultBodyLimit::max(SMALL_BODY_BYTES_MAX))
        .fallback(async || Refused::new(ProblemCode::NotFound, "see openapi/dispatcher.json"))
        .layer(from_fn(speak_our_version))
        .layer(from_fn_with_state(Role::Dispatcher, authorise))
        .with_state(state)
}

/// The peer's role decides: the certificate's chain was checked in the handshake.
async fn authorise(State(ours): State<Role>, request: Request, next: Next) -> Response {
    match request.extensions().get::<Identity>() {
        Some(peer) if may_call(peer.role, ours) => next.run(request).await,
        Some(peer) => {
            tracing::warn!(peer = %peer, "refused: its role may not call a dispatcher");
            Refused::new(ProblemCode::Forbidden, format!("`{peer}` may not")).into_response()
        }
        None => Refused::new(ProblemCode::Forbidden, "nobody is known to call").into_response(),
    }
}

async fn speak_our_version(request: Request, next: Next) -> Response {
    let said = request.headers().get(wire::VERSION_HEADER).and_then(|value| value.to_str().ok());
    match said.and_then(|text| text.parse::<u32>().ok()) {
        Some(version) if version >= wire::OLDEST => next.run(request).await,
        _ => {
            let detail = format!("versions from {} on are understood here", wire::OLDEST);
            Refused::new(ProblemCode::Version, detail).into_response()
        }
    }
}

fn key((evaluation, attempt): (String, u32)) -> Result<AttemptKey, Refused> {
    let evaluation: EvaluationId = evaluation
        .parse()
        .map_err(|error: hood_core::id::IdError| Refused::new(ProblemCode::Malformed, error.to_string()))?;
    Ok(AttemptKey { evaluation, attempt })
}

fn json<T: DeserializeOwned>(body: &Bytes) -> Result<T, Refused> {
    serde_json::from_slice(body).map_err(|error| Refused::new(ProblemCode::Malformed, error.to_string()))
}

type Place = Path<(String, u32)>;

/// Make a place and run the order there
///
/// The same attempt twice is one place. The body is the length of the head in four bytes, little
/// endian; the head, an `OrderHead` in JSON; the files' bytes in the head's order; stdin. The program
/// runs once the first frame is acknowledged.
#[utoipa::path(
    put, path = "/v1/places/{evaluation}/{attempt}", tag = "places", operation_id = "execute",
    params(("evaluation" = String, Path), ("attempt" = u32, Path)),
    request_body(content = wire::OrderHead, content_type = "application/vnd.fumehood.order"),
    responses(
        (status = 200, description = "The place is there.", body = wire::Opened),
        (status = 409, description = "A higher token was seen.", body = wire::Problem, content_type = "application/problem+json"),
        (status = 422, description = "The environment cannot be had.", body = wire::Problem, content_type = "application/problem+json"),
        (status = 413, description = "It asks for more memory or output than a place here may have, or is itself too large.", body = wire::Problem, content_type = "application/problem+json"),
        (status = 503, description = "No place can be made, or it is still being made, or the dispatcher is about to end.", body = wire::Problem, content_type = "application/problem+json"),
    ),
)]
async fn execute(
    State(state): State<DispatcherState>,
    Path(place): Place,
    request: Request,
) -> Result<Json<wire::Opened>, Refused> {
    let key = key(place)?;
    let order = read_order(&state, request).await?;
    match state.service.call(Call::Execute { key, order: Arc::new(order) }).await? {
        Answer::Opened(opened) => Ok(Json(opened)),
        _ => Err(Refused::new(ProblemCode::Unknown, "")),
    }
}

async fn read_order(state: &DispatcherState, request: Request) -> Result<wire::Order, Refused> {
    let length = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    let length: usize = length
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| Refused::new(ProblemCode::Malformed, "an order says how long it is"))?;
    if length > state.order_bytes_max {
        let detail = format!("{length} bytes; the largest order has {}", state.order_bytes_max);
        return Err(Refused::new(ProblemCode::TooLarge, detail));
    }
    let units = u32::try_from(length / ROOM_UNIT + 1).unwrap_or(u32::MAX);
    // The semaphore is never closed; whoever asks waits for its turn.
    let _room = state.room.acquire_many(units).await.ok();
    let bytes = axum::body::to_bytes(request.into_body(), state.order_bytes_max)
        .await
        .map_err(|error| Refused::new(ProblemCode::Malformed, error.to_string()))?;
    wire::decode_order(&bytes).map_err(|error| Refused::new(ProblemCode::Malformed, error.to_string()))
}

/// Say whether a place of the attempt is here
///
/// `gone` is a promise: nothing of this token or a lower one is taken afterwards.
#[utoipa::path(
    post, path = "/v1/places/{evaluation}/{attempt}/status", tag = "places", operation_id = "status",
    params(("evaluation" = String, Path), ("attempt" = u32, Path)),
    request_body = wire::StatusRequest,
    responses(
        (status = 200, description = "Here, or gone.", body = wire::Status),
        (status = 409, description = "A higher token was seen.", body = wire::Problem, content_type = "application/problem+json"),
    ),
)]
async fn status(
    State(state): State<DispatcherState>,
    Path(place): Place,
    body: Bytes,
) -> Result<Json<wire::Status>, Refused> {
    let call = Call::Status { key: key(place)?, request: json(&body)? };
    match state.service.call(call).await? {
        Answer::Status(status) => Ok(Json(status)),
        _ => Err(Refused::new(ProblemCode::Unknown, "")),
    }
}

/// Listen to the place
///
/// The frames after `after`, from the first that is not acknowledged, each with its number. On the
/// wire a frame is two lengths of four bytes, little endian; its head, a `Frame` in JSON; and, of
/// output, its bytes. Whoever listened before is heard no more.
#[utoipa::path(
    post, path = "/v1/places/{evaluation}/{attempt}/frames", tag = "places", operation_id = "frames",
    params(("evaluation" = String, Path), ("attempt" = u32, Path)),
    request_body = wire::Listen,
    responses(
        (status = 200, description = "Frames, until the last.", body = wire::Frame, content_type = "application/vnd.fumehood.frames"),
        (status = 409, description = "A higher token was seen.", body = wire::Problem, content_type = "application/problem+json"),
        (status = 410, description = "No place of this attempt is here.", body = wire::Problem, content_type = "application/problem+json"),
    ),
)]
async fn frames(
    State(state): State<DispatcherState>,
    Path(place): Place,
    body: Bytes,
) -> Result<Response, Refused> {
    let frames = state.service.listen(key(place)?, json(&body)?).await?;
    let bytes = frames.map(|frame| {
        let mut bytes = Vec::new();
        wire::encode_frame(&frame, &mut bytes).map(|()| Bytes::from(bytes))
    });
    Ok(([(header::CONTENT_TYPE, wire::FRAMES_TYPE)], Body::from_stream(bytes)).into_response())
}

/// Say that frames are durable
///
/// Everything up to `number` is written down and may be forgotten. Of the first frame this releases
/// the program.
#[utoipa::path(
    post, path = "/v1/places/{evaluation}/{attempt}/acknowledge", tag = "places", operation_id = "acknowledge",
    params(("evaluation" = String, Path), ("attempt" = u32, Path)),
    request_body = wire::Acknowledge,
    responses(
        (status = 204, description = "Passed on, or nothing is there to be told."),
        (status = 409, description = "A higher token was seen.", body = wire::Problem, content_type = "application/problem+json"),
    ),
)]
async fn acknowledge(
    State(state): State<DispatcherState>,
    Path(place): Place,
    body: Bytes,
) -> Result<StatusCode, Refused> {
    state.service.call(Call::Acknowledge { key: key(place)?, acknowledge: json(&body)? }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// End the program
///
/// SIGTERM now, the kill after the grace. Of a place that is gone or has ended: nothing.
#[utoipa::path(
    post, path = "/v1/places/{evaluation}/{attempt}/cancel", tag = "places", operation_id = "cancel",
    params(("evaluation" = String, Path), ("attempt" = u32, Path)),
    request_body = wire::Cancel,
    responses(
        (status = 204, description = "It is being ended, or nothing is there to end."),
        (status = 409, description = "A higher token was seen.", body = wire::Problem, content_type = "application/problem+json"),
    ),
)]
async fn cancel(
    State(state): State<DispatcherState>,
    Path(place): Place,
    body: Bytes,
) -> Result<StatusCode, Refused> {
    state.service.call(Call::Cancel { key: key(place)?, cancel: json(&body)? }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What is offered
#[utoipa::path(
    get, path = "/v1/capacity", tag = "capacity", operation_id = "capacity",
    responses((status = 200, description = "Everything on offer.", body = wire::Catalogue)),
)]
async fn capacity(State(state): State<DispatcherState>) -> Result<Json<wire::Catalogue>, Refused> {
    match state.service.call(Call::Capacity).await? {
        Answer::Capacity(catalogue) => Ok(Json(catalogue)),
        _ => Err(Refused::new(ProblemCode::Unknown, "")),
    }
}
