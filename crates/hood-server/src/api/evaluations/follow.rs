//! Output as it is written: from an offset to the end of one attempt, in order, nothing twice.

use axum::body::Body;
use axum::http::HeaderValue;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use hood_core::State;
use hood_store::{OutputSlice, Span};

use super::output::{ATTEMPT, OutputError, Target, attempt_not_found};
use crate::api::error::ApiError;
use crate::api::guard::{Caller, StreamPermit};
use crate::api::state::ApiState;
use crate::api::watch::{Watch, Woken};

pub(super) async fn follow(
    state: &ApiState,
    caller: &Caller,
    target: Target,
    offset: u64,
) -> Result<Response, ApiError> {
    let permit = caller.output()?;
    let watch = Watch::new(state, caller, target.id);
    let record = state.store().get(&caller.tenant, target.id).await.map_err(ApiError::find)?;
    let begun = record.history.attempts;
    // While it is queued the attempt that anybody waits for is the next one.
    let next = begun + u32::from(record.state == State::Queued);
    let attempt = target.attempt.unwrap_or(next);
    if attempt > next {
        return Err(attempt_not_found(attempt));
    }
    let follower = Follower { watch, target, attempt, offset, _permit: permit };
    let mut response = Body::from_stream(follower.into_stream()).into_response();
    response.headers_mut().insert(ATTEMPT, HeaderValue::from(attempt));
    Ok(response)
}

/// One who follows. It holds one piece at a time and reads the next only when that was taken.
struct Follower {
    watch: Watch,
    target: Target,
    attempt: u32,
    offset: u64,
    _permit: StreamPermit,
}

impl Follower {
    fn into_stream(self) -> impl futures::Stream<Item = Result<Bytes, OutputError>> {
        futures::stream::unfold(Some(self), async |follower| {
            let mut follower = follower?;
            match follower.next().await {
                Ok(Some(bytes)) => Some((Ok(bytes), Some(follower))),
                Ok(None) => None,
                // An error breaks the transfer off, so that nobody takes it for the attempt's end.
                Err(error) => Some((Err(error), None)),
            }
        })
    }

    /// The next bytes; `None` once the attempt has written its last.
    async fn next(&mut self) -> Result<Option<Bytes>, OutputError> {
        loop {
            let slice = self.read().await?;
            if !slice.bytes.is_empty() {
                self.offset += slice.bytes.len() as u64;
                return Ok(Some(Bytes::from(slice.bytes)));
            }
            if slice.ended {
                return Ok(None);
            }
            if self.watch.changed().await == Woken::Shutdown {
                return Err(OutputError::Shutdown);
            }
        }
    }

    async fn read(&self) -> Result<OutputSlice, OutputError> {
        let max = self.watch.state().config().limits.stream.chunk_bytes;
        let (store, tenant) = (self.watch.state().store(), self.watch.tenant());
        let Target { id, stream, .. } = self.target;
        let span = Span { stream, attempt: Some(self.attempt), offset: self.offset, max };
        Ok(store.output(tenant, id, span).await?)
    }
}
