//! Between rows and types.

use std::collections::BTreeMap;

use hood_core::lifecycle::{AnyEvaluation, History};
use hood_core::retry::Losses;
use hood_core::{BatchId, EvaluationId, Event, EventKind, State, Timestamp, Verdict};
use sqlx::{Decode, Postgres, Sqlite, Type};
use uuid::Uuid;

use crate::db::Row;
use crate::error::StoreError;
use crate::model::{CancelIntent, RecordSummary};
use crate::writer::failed;

/// What [`summary`] reads, of `evaluations e` and `results s`.
macro_rules! summary_columns {
    () => {
        "e.id, e.state, e.verdict, e.priority, e.environment, e.environment_digest, e.labels, e.batch, \
         e.created_at, e.not_before, e.leased_at, e.started_at, e.finished_at, e.last_event, e.attempts, \
         e.losses_infrastructure, e.losses_own_death, e.losses_suspect, e.cancel_requested_at, \
         e.cancel_grace_ms, s.document AS result"
    };
}
pub(crate) use summary_columns;

pub(crate) fn corrupt(what: impl Into<String>) -> StoreError {
    StoreError::Corrupt { what: what.into() }
}

/// A column by name. What does not fit its type is a database that is not ours.
pub(crate) fn get<'r, T>(row: &'r Row, column: &'static str) -> Result<T, StoreError>
where
    T: Decode<'r, Sqlite> + Type<Sqlite> + Decode<'r, Postgres> + Type<Postgres>,
{
    row.try_get(column).map_err(failed("reading a row"))
}

/// A count or a size, which is never negative.
pub(crate) fn number(row: &Row, column: &'static str) -> Result<u64, StoreError> {
    u64::try_from(get::<i64>(row, column)?).map_err(|_| corrupt(format!("{column} is negative")))
}

pub(crate) fn small(row: &Row, column: &'static str) -> Result<u32, StoreError> {
    u32::try_from(get::<i64>(row, column)?).map_err(|_| corrupt(format!("{column} is out of range")))
}

pub(crate) fn priority(row: &Row) -> Result<u8, StoreError> {
    u8::try_from(get::<i64>(row, "priority")?).map_err(|_| corrupt("priority is out of range"))
}

pub(crate) fn time(row: &Row, column: &'static str) -> Result<Option<Timestamp>, StoreError> {
    Ok(get::<Option<i64>>(row, column)?.map(Timestamp::from_micros))
}

pub(crate) fn moment(row: &Row, column: &'static str) -> Result<Timestamp, StoreError> {
    Ok(Timestamp::from_micros(get(row, column)?))
}

pub(crate) fn state(row: &Row) -> Result<State, StoreError> {
    let text: String = get(row, "state")?;
    State::parse(&text).ok_or_else(|| corrupt(format!("there is no state {text}")))
}

pub(crate) fn verdict(row: &Row) -> Result<Option<Verdict>, StoreError> {
    let Some(text) = get::<Option<String>>(row, "verdict")? else { return Ok(None) };
    Verdict::parse(&text).map(Some).ok_or_else(|| corrupt(format!("there is no verdict {text}")))
}

pub(crate) fn history(row: &Row) -> Result<History, StoreError> {
    Ok(History {
        last_event: number(row, "last_event")?,
        attempts: small(row, "attempts")?,
        losses: Losses {
            infrastructure: small(row, "losses_infrastructure")?,
            own_death: small(row, "losses_own_death")?,
            suspect: small(row, "losses_suspect")?,
        },
    })
}

pub(crate) fn evaluation(row: &Row) -> Result<AnyEvaluation, StoreError> {
    let (state, verdict) = (state(row)?, verdict(row)?);
    AnyEvaluation::restore(state, history(row)?, time(row, "not_before")?, verdict)
        .ok_or_else(|| corrupt(format!("state {} with verdict {verdict:?}", state.as_str())))
}

pub(crate) fn cancel(row: &Row) -> Result<Option<CancelIntent>, StoreError> {
    let asked = time(row, "cancel_requested_at")?.is_some();
    let grace: Option<i64> = get(row, "cancel_grace_ms")?;
    Ok(asked.then(|| CancelIntent { grace_ms: grace.map(i64::unsigned_abs) }))
}

pub(crate) fn summary(row: &Row) -> Result<RecordSummary, StoreError> {
    let labels: String = get(row, "labels")?;
    let labels: BTreeMap<String, String> =
        serde_json::from_str(&labels).map_err(|error| corrupt(format!("labels: {error}")))?;
    Ok(RecordSummary {
        id: EvaluationId::from_uuid(get(row, "id")?),
        state: state(row)?,
        verdict: verdict(row)?,
        history: history(row)?,
        environment: get(row, "environment")?,
        environment_digest: get(row, "environment_digest")?,
        priority: priority(row)?,
        labels,
        batch: get::<Option<Uuid>>(row, "batch")?.map(BatchId::from_uuid),
        cancel_requested: cancel(row)?,
        created_at: moment(row, "created_at")?,
        leased_at: time(row, "leased_at")?,
        started_at: time(row, "started_at")?,
        finished_at: time(row, "finished_at")?,
        not_before: time(row, "not_before")?,
        result: get(row, "result")?,
        archived: false,
    })
}

/// What an event's kind says beside its name: attempt, no earlier than, verdict.
pub(crate) type EventParts = (Option<u32>, Option<Timestamp>, Option<Verdict>);

pub(crate) const fn event_parts(kind: EventKind) -> EventParts {
    match kind {
        EventKind::Submitted => (None, None, None),
        EventKind::AttemptStarted { attempt } | EventKind::Started { attempt } => (Some(attempt), None, None),
        EventKind::RetryScheduled { attempt, not_before } => (Some(attempt), Some(not_before), None),
        EventKind::Finished { verdict } => (None, None, Some(verdict)),
    }
}

/// The kind again, from its name and its parts.
pub(crate) fn event_kind(
    name: &str,
    (attempt, not_before, verdict): EventParts,
) -> Result<EventKind, StoreError> {
    let lacks = |what: &str| corrupt(format!("an event {name} without {what}"));
    let attempt = || attempt.ok_or_else(|| lacks("attempt"));
    Ok(match name {
        "submitted" => EventKind::Submitted,
        "attempt_started" => EventKind::AttemptStarted { attempt: attempt()? },
        "started" => EventKind::Started { attempt: attempt()? },
        "retry_scheduled" => {
            let not_before = not_before.ok_or_else(|| lacks("time"))?;
            EventKind::RetryScheduled { attempt: attempt()?, not_before }
        }
        "finished" => EventKind::Finished { verdict: verdict.ok_or_else(|| lacks("verdict"))? },
        other => return Err(corrupt(format!("there is no event {other}"))),
    })
}

pub(crate) fn event(row: &Row) -> Result<Event, StoreError> {
    let kind: String = get(row, "kind")?;
    let attempt = get::<Option<i64>>(row, "attempt")?.map(u32::try_from).transpose();
    let attempt = attempt.map_err(|_| corrupt("attempt is out of range"))?;
    let kind = event_kind(&kind, (attempt, time(row, "not_before")?, verdict(row)?))?;
    Ok(Event { number: number(row, "number")?, at: moment(row, "occurred_at")?, kind })
}

pub(crate) fn sql_number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
