use std::collections::VecDeque;
use std::convert::Infallible;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::sse::{Event as SseEvent, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::Stream;
use hood_core::{EvaluationId, Event, Tenant, Timestamp};
use hood_wire::api::{self, EventList};

use super::building::News;
use super::parse_id;
use crate::api::error::{ApiError, problems};
use crate::api::guard::{Caller, StreamPermit};
use crate::api::path::Segment;
use crate::api::query::{Query, encode_cursor};
use crate::api::state::ApiState;
use crate::api::watch::{Watch, Woken, is_last};
use crate::document::event_views;
use crate::telemetry::metrics;

problems!(InvalidParameter, EvaluationNotFound, TooManyStreams);

const LAST_EVENT_ID: &str = "last-event-id";

/// How long a browser waits before it connects again.
const RECONNECT: std::time::Duration = std::time::Duration::from_secs(1);

/// List an evaluation's events, or listen to them.
///
/// With `Accept: text/event-stream` they come as Server-Sent Events, each when it has been
/// committed, and the stream ends after the terminal one. `id` is the event's number: who connects
/// again with `Last-Event-ID` misses nothing and gets nothing twice; after the terminal event the
/// answer is 204. While the evaluation waits for its environment to be built, the stream also says
/// how far that is: `event: building`, its data a `Building`, without an `id`, since it is news and no event.
#[utoipa::path(
    get, path = "/v1/evaluations/{id}/events", tag = "evaluations", operation_id = "list_events",
    params(
        ("id" = String, Path, description = "`ev_` and 32 lowercase hexadecimal digits."),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before (JSON)."),
        ("limit" = Option<u32>, Query, description = "Events on a page (JSON)."),
        ("Last-Event-ID" = Option<u64>, Header, description = "Number of the last event that you have (event stream)."),
    ),
    responses(
        (status = 200, description = "One page, or the stream.", content(
            (EventList = "application/json"),
            (String = "text/event-stream"),
        )),
        (status = 204, description = "Event stream: there is nothing after `Last-Event-ID`, and there never will be."),
        Problems,
    ),
)]
pub(crate) async fn events(
    State(state): State<ApiState>,
    caller: Caller,
    Segment(id): Segment,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let id = parse_id(&id)?;
    let mut query = Query::of(&uri)?;
    if wants_stream(&headers) {
        query.finish()?;
        let watch = Watch::new(&state, &caller, id);
        return listen(watch, caller.events()?, last_event_id(&headers)?).await;
    }
    let pages = &state.config().limits.page;
    let after = query.event_cursor().unwrap_or(0);
    let limit = query.limit(pages.default, pages.max);
    query.finish()?;
    // One more than the page: whether it is there says whether there is a next one.
    let found = state.store().events(&caller.tenant, id, after, limit + 1).await;
    let mut found = found.map_err(ApiError::find)?;
    let more = found.len() > limit as usize;
    found.truncate(limit as usize);
    let items = views(&state, &caller.tenant, id, &found).await?;
    let next_cursor = found.last().filter(|_| more).map(|last| encode_cursor(&last.number.to_string()));
    Ok(Json(EventList { items, next_cursor }).into_response())
}

/// Events with what the evaluation's record, as it is now, knows of them.
async fn views(
    state: &ApiState,
    tenant: &Tenant,
    id: EvaluationId,
    events: &[Event],
) -> Result<Vec<api::Event>, ApiError> {
    if events.is_empty() {
        return Ok(Vec::new());
    }
    let record = state.store().get(tenant, id).await.map_err(ApiError::find)?;
    event_views(&record, events).map_err(ApiError::internal)
}

fn wants_stream(headers: &HeaderMap) -> bool {
    let accepts = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut types = accepts.flat_map(|value| value.split(','));
    types.any(|one| one.split(';').next().is_some_and(|t| t.trim().eq_ignore_ascii_case("text/event-stream")))
}

/// The number of the last event that the client has; 0 for none.
fn last_event_id(headers: &HeaderMap) -> Result<u64, ApiError> {
    let Some(value) = headers.get(LAST_EVENT_ID) else { return Ok(0) };
    match value.to_str().unwrap_or_default() {
        // What a browser sends that has seen none.
        "" => Ok(0),
        text => text.parse().map_err(|_| ApiError::parameter("Last-Event-ID", "is the number of an event")),
    }
}

async fn listen(watch: Watch, permit: StreamPermit, after: u64) -> Result<Response, ApiError> {
    let mut state = hood_core::State::Queued;
    if after > 0 {
        // The event that the client has, and the one after it.
        let known = watch.events(after - 1).await?;
        match known.first() {
            Some(event) if is_last(event) => return Ok(StatusCode::NO_CONTENT.into_response()),
            Some(event) => state = event.kind.state(),
            None => {
                return Err(ApiError::parameter("Last-Event-ID", "is beyond this evaluation's last event"));
            }
        }
    }
    let first = look(&watch, after).await?;
    let keep_alive = watch.state().config().limits.stream.keep_alive;
    let opened = watch.state().now();
    let listener = Listener {
        watch,
        pending: first,
        sent: after,
        state,
        news: News::default(),
        done: false,
        opened,
        _permit: permit,
    };
    Ok(Sse::new(listener.into_stream()).keep_alive(KeepAlive::new().interval(keep_alive)).into_response())
}

/// The events after one, each with how it is shown.
async fn look(watch: &Watch, after: u64) -> Result<VecDeque<(Event, api::Event)>, ApiError> {
    let found = watch.events(after).await?;
    let views = views(watch.state(), watch.tenant(), watch.id(), &found).await?;
    Ok(found.into_iter().zip(views).collect())
}

/// One who listens. It holds the events of one look at the store, and looks again only when they
/// were taken: a slow reader slows nobody but itself.
struct Listener {
    watch: Watch,
    pending: VecDeque<(Event, api::Event)>,
    sent: u64,
    /// After the last event that was sent.
    state: hood_core::State,
    news: News,
    done: bool,
    opened: Timestamp,
    _permit: StreamPermit,
}

impl Listener {
    fn into_stream(self) -> impl Stream<Item = Result<SseEvent, Infallible>> {
        futures::stream::unfold(self, async |mut listener| {
            let message = listener.next().await?;
            Some((Ok(sse(&message)), listener))
        })
    }

    /// The next event, or news of what it waits for; `None` after the terminal event, and where the
    /// client had better connect again: it goes on where it was.
    async fn next(&mut self) -> Option<Message> {
        loop {
            if let Some((event, view)) = self.pending.pop_front() {
                self.sent = event.number;
                self.state = event.kind.state();
                self.done = is_last(&event);
                self.measure(&event);
                return Some(Message::Event(Box::new(view)));
            }
            if self.done {
                return None;
            }
            match look(&self.watch, self.sent).await {
                Ok(found) if found.is_empty() => {
                    if let Some(news) = self.news.look(&self.watch, self.state).await {
                        return Some(Message::Building(news));
                    }
                    match self.watch.changed().await {
                        Woken::Look => {}
                        Woken::Shutdown => return None,
                    }
                }
                Ok(found) => self.pending = found,
                Err(error) => {
                    tracing::debug!(error.code = error.code.as_str(), "event stream ended early");
                    return None;
                }
            }
        }
    }

    /// How late a live event is. Those from before the connection say nothing.
    fn measure(&self, event: &Event) {
        if event.at >= self.opened {
            let late = self.watch.state().now().since(event.at);
            ::metrics::histogram!(metrics::EVENT_DELIVERY).record(late.as_secs_f64());
        }
    }
}

/// What a stream carries.
enum Message {
    Event(Box<api::Event>),
    Building(api::Building),
}

/// Both are numbers and text: serialising them cannot fail, and JSON has no line end in it.
fn sse(message: &Message) -> SseEvent {
    let bare = SseEvent::default().retry(RECONNECT);
    match message {
        Message::Event(event) => {
            let data = serde_json::to_string(event).unwrap_or_default();
            bare.id(event.number.to_string()).event(event.kind.as_str()).data(data)
        }
        // Without an id: a client that connects again has missed nothing that it could ask for.
        Message::Building(building) => {
            let data = serde_json::to_string(building).unwrap_or_default();
            bare.event(api::Building::EVENT).data(data)
        }
    }
}
