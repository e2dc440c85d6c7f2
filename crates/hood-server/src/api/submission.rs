//! What single submissions and batches have in common: their headers, their ids and their way into
//! the store.

use axum::http::HeaderMap;
use hood_core::{BatchId, EvaluationId, Timestamp};
use hood_store::{Accepted, Idempotency, NewEvaluation, NewSubmission};
use hood_wire::api::{IDEMPOTENCY_KEY, TRACEPARENT};
use serde::Serialize;

use super::admission::Admitted;
use super::error::ApiError;
use super::guard::Caller;
use super::state::ApiState;
use crate::document::to_json;
use crate::telemetry::metrics::{SubmissionOutcome, record_submissions};
use crate::telemetry::traces::is_traceparent;

/// What the headers of a submission say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SubmissionHeaders {
    idempotency_key: Option<String>,
    traceparent: Option<String>,
}

impl SubmissionHeaders {
    pub(crate) fn of(headers: &HeaderMap, key_bytes_max: usize) -> Result<Self, ApiError> {
        let idempotency_key = match headers.get(IDEMPOTENCY_KEY) {
            None => None,
            Some(value) => {
                let key = value.to_str().unwrap_or_default();
                let sound =
                    (1..=key_bytes_max).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic());
                if !sound || headers.get_all(IDEMPOTENCY_KEY).iter().count() > 1 {
                    let message =
                        format!("is 1 to {key_bytes_max} visible ASCII characters without spaces, once");
                    return Err(ApiError::parameter("Idempotency-Key", message));
                }
                Some(key.to_owned())
            }
        };
        // A trace context that is wrong starts no trace: it is not the submission's fault.
        let traceparent = headers.get(TRACEPARENT).and_then(|value| value.to_str().ok());
        let traceparent = traceparent.filter(|text| is_traceparent(text)).map(str::to_owned);
        Ok(Self { idempotency_key, traceparent })
    }

    /// The key with what it stands for: `kind` and the body's meaning, whatever its spacing was.
    pub(crate) fn idempotency(
        &self,
        kind: &str,
        body: &impl Serialize,
    ) -> Result<Option<Idempotency>, ApiError> {
        let Some(key) = &self.idempotency_key else { return Ok(None) };
        let mut hasher = blake3::Hasher::new();
        hasher.update(kind.as_bytes()).update(b"\0");
        serde_json::to_writer(&mut hasher, body).map_err(ApiError::internal)?;
        Ok(Some(Idempotency { key: key.clone(), fingerprint: *hasher.finalize().as_bytes() }))
    }
}

/// An id for this moment. The time within the millisecond goes before the randomness (RFC 9562,
/// 6.2, method 3), so that ids sort as they were made and the queue is first come, first served.
pub(crate) fn id(now: Timestamp) -> EvaluationId {
    let mut random: [u8; 10] = rand::random();
    let micros = now.as_micros().rem_euclid(1000);
    let [high, low] = u16::try_from(micros * 4096 / 1000).unwrap_or(0).to_be_bytes();
    random[..2].copy_from_slice(&[high, low]);
    EvaluationId::new(now, random)
}

/// Ids for `count` evaluations of one moment, in the order of the request: lists and the queue go
/// by id.
pub(crate) fn ids(count: usize, now: Timestamp) -> Vec<EvaluationId> {
    let mut ids: Vec<EvaluationId> = (0..count).map(|_| id(now)).collect();
    ids.sort_unstable();
    ids
}

/// What is longer than `in_rows_max` bytes as a document is kept apart from what is shown of it.
pub(crate) fn new_evaluation(
    id: EvaluationId,
    mut admitted: Admitted,
    (headers, in_rows_max): (&SubmissionHeaders, usize),
) -> Result<NewEvaluation, ApiError> {
    admitted.document.traceparent.clone_from(&headers.traceparent);
    let whole = serde_json::to_string(&admitted.document).map_err(ApiError::internal)?;
    let (request, input) = match whole.len() {
        large if large > in_rows_max => (to_json(&admitted.document.outline()), Some(whole)),
        _ => (whole, None),
    };
    Ok(NewEvaluation {
        id,
        environment: admitted.document.environment.clone(),
        priority: admitted.document.priority,
        labels: admitted.labels,
        callback: admitted.document.submission.callback_url.clone(),
        request,
        input,
    })
}

/// What a body came to.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// Evaluations in it.
    pub(crate) count: usize,
    pub(crate) idempotency: Option<Idempotency>,
    /// What is to be stored, or why it may not be.
    pub(crate) new: Result<Vec<NewEvaluation>, ApiError>,
}

/// Stores it; when this returns, it is durable. What came before under the same key stays accepted,
/// though it would be refused today.
pub(crate) async fn store(
    state: &ApiState,
    caller: &Caller,
    batch: Option<BatchId>,
    prepared: Prepared,
) -> Result<Accepted, ApiError> {
    let Prepared { count, idempotency, new } = prepared;
    let stored = match new {
        Ok(evaluations) => {
            let submission = NewSubmission { batch, evaluations, idempotency };
            let submitted = state.store().submit(&caller.tenant, state.now(), submission).await;
            submitted.map_err(ApiError::from)
        }
        Err(refusal) => replayed(state, caller, idempotency).await.and_then(|known| known.ok_or(refusal)),
    };
    let outcome = match &stored {
        Ok(Accepted::New) => SubmissionOutcome::Accepted,
        Ok(Accepted::Existing { .. }) => SubmissionOutcome::Replayed,
        Err(_) => SubmissionOutcome::Refused,
    };
    record_submissions(outcome, count);
    stored
}

async fn replayed(
    state: &ApiState,
    caller: &Caller,
    idempotency: Option<Idempotency>,
) -> Result<Option<Accepted>, ApiError> {
    let Some(idempotency) = idempotency else { return Ok(None) };
    Ok(state.store().find_submission(&caller.tenant, &idempotency).await?)
}

/// Runs work that a large body makes long off the threads that serve everybody.
pub(crate) async fn off_thread<T: Send + 'static>(
    large: bool,
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    if large { tokio::task::spawn_blocking(work).await.map_err(ApiError::internal)? } else { work() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_sort_by_the_microsecond_that_they_were_made_in() {
        let made: Vec<EvaluationId> =
            (0..3000).map(|micros| id(Timestamp::from_micros(1_700_000_000_000_000 + micros))).collect();
        assert!(made.windows(2).all(|pair| pair[0] < pair[1]));
        assert_ne!(id(Timestamp::from_micros(0)), id(Timestamp::from_micros(0)));
    }

    #[test]
    fn ids_of_a_batch_ascend() {
        let ids = ids(1000, Timestamp::from_micros(1_700_000_000_000_000));
        assert!(ids.windows(2).all(|pair| pair[0] < pair[1]));
    }

    #[test]
    fn an_idempotency_key_is_bounded_and_visible() {
        let with = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(IDEMPOTENCY_KEY, value.parse().expect("a header can hold it"));
            SubmissionHeaders::of(&headers, 8).map(|headers| headers.idempotency_key)
        };
        assert_eq!(with("12345678").expect("at the bound"), Some("12345678".to_owned()));
        for wrong in ["", "123456789", "a b"] {
            with(wrong).expect_err(wrong);
        }
    }
}
