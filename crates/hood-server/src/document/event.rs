//! Events as the API shows them, each with what is known of its hop.

use hood_core::{Event, EventKind, Timestamp};
use hood_store::{AttemptRecord, Record};
use hood_wire::api;

use super::{Moments, ResultDocument, ViewError, rfc3339, state_to_wire, verdict_to_wire};

/// Events of one evaluation. The record is read after them, so that it knows as much as they do.
pub fn event_views(record: &Record, events: &[Event]) -> Result<Vec<api::Event>, ViewError> {
    events.iter().map(|event| event_view(record, event)).collect()
}

fn event_view(record: &Record, event: &Event) -> Result<api::Event, ViewError> {
    let (kind, attempt, not_before, verdict) = match event.kind {
        EventKind::Submitted => (api::EventType::Submitted, None, None, None),
        EventKind::AttemptStarted { attempt } => (api::EventType::AttemptStarted, Some(attempt), None, None),
        EventKind::Started { attempt } => (api::EventType::Started, Some(attempt), None, None),
        EventKind::RetryScheduled { attempt, not_before } => {
            (api::EventType::RetryScheduled, Some(attempt), Some(rfc3339(not_before)), None)
        }
        EventKind::Finished { verdict } => {
            (api::EventType::Finished, None, None, Some(verdict_to_wire(verdict)))
        }
    };
    Ok(api::Event {
        number: event.number,
        kind,
        at: rfc3339(event.at),
        state: state_to_wire(event.kind.state()),
        attempt,
        not_before,
        verdict,
        detail: detail(record, event)?,
    })
}

fn detail(record: &Record, event: &Event) -> Result<api::EventDetail, ViewError> {
    let number = match event.kind {
        EventKind::Submitted => return Ok(of_submitted(record, event)),
        EventKind::AttemptStarted { attempt }
        | EventKind::Started { attempt }
        | EventKind::RetryScheduled { attempt, .. } => attempt,
        EventKind::Finished { .. } => record.history.attempts,
    };
    let unreadable = |what| move |source| ViewError { what, id: record.id.to_string(), source };
    let of = |number: u32| record.attempts.iter().find(|attempt| attempt.number == number);
    let (attempt, before) = (of(number), number.checked_sub(1).and_then(of));
    let mut detail = api::EventDetail {
        attempt: attempt.map(|attempt| attempt.number),
        hops: hops(record, event, (attempt, before)),
        ..api::EventDetail::default()
    };
    if matches!(event.kind, EventKind::AttemptStarted { .. }) {
        return Ok(detail);
    }
    let decision = attempt.and_then(|attempt| attempt.decision.as_deref()).map(serde_json::from_str);
    let decision: Option<api::Decision> = decision.transpose().map_err(unreadable("decision"))?;
    detail.executor = decision.map(|decision| decision.place);
    if matches!(event.kind, EventKind::Started { .. }) {
        return Ok(detail);
    }
    let lost = attempt.and_then(|attempt| attempt.lost.as_deref()).map(serde_json::from_str);
    detail.lost = lost.transpose().map_err(unreadable("loss"))?;
    if matches!(event.kind, EventKind::Finished { .. })
        && let Some(result) = &record.result
    {
        let result: ResultDocument = serde_json::from_str(result).map_err(unreadable("result"))?;
        (detail.exit_code, detail.signal) = (result.exit_code, result.signal);
        detail.usage = Some(result.usage);
        let Moments { started_at, ended_at } = result.moments;
        let moment = |micros: i64| rfc3339(Timestamp::from_micros(micros));
        detail.hops.started_at = started_at.map(moment);
        detail.hops.ended_at = ended_at.map(moment);
    }
    Ok(detail)
}

fn of_submitted(record: &Record, event: &Event) -> api::EventDetail {
    let (accepted, committed) = (rfc3339(record.created_at), rfc3339(event.at));
    let hops = api::Hops {
        queued_at: Some(accepted.clone()),
        accepted_at: Some(accepted),
        committed_at: Some(committed),
        ..api::Hops::default()
    };
    api::EventDetail { hops, ..api::EventDetail::default() }
}

/// The hops that were reached when this event was: what came later is a later event's to tell.
fn hops(
    record: &Record,
    event: &Event,
    (attempt, before): (Option<&AttemptRecord>, Option<&AttemptRecord>),
) -> api::Hops {
    let by_then = |at: Option<Timestamp>| at.filter(|at| *at <= event.at).map(rfc3339);
    let queued = before.map_or(Some(record.created_at), |before| before.ended_at);
    let lost = attempt.filter(|_| matches!(event.kind, EventKind::RetryScheduled { .. }));
    api::Hops {
        accepted_at: Some(rfc3339(record.created_at)),
        queued_at: by_then(queued),
        leased_at: by_then(attempt.map(|attempt| attempt.leased_at)),
        ready_at: by_then(attempt.and_then(|attempt| attempt.started_at)),
        started_at: None,
        ended_at: by_then(lost.and_then(|attempt| attempt.ended_at)),
        committed_at: Some(rfc3339(event.at)),
    }
}
