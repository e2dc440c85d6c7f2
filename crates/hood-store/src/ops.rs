//! Everything that writes, as operations of the one writer.

pub(crate) mod archive;
pub(crate) mod blobs;
pub(crate) mod client;
pub(crate) mod commit;
pub(crate) mod deliver;
pub(crate) mod depth;
pub(crate) mod inputs;
pub(crate) mod lease;
pub(crate) mod output;
#[cfg(test)]
mod plans;
pub(crate) mod requeue;
pub(crate) mod submit;

use hood_core::{EvaluationId, Event, Tenant, Timestamp};

use crate::db::{Connection, Rows, row};
use crate::error::StoreError;
use crate::rows::{event_parts, sql_number};
use crate::wake::Signal;
use crate::writer::{Context, failed};

/// Whose event it is, and the event.
type Told<'a> = (&'a Tenant, EvaluationId, &'a Event);

/// Writes one event.
async fn write_event(
    db: &mut Connection<'_>,
    (tenant, id): (&Tenant, EvaluationId),
    event: &Event,
) -> Result<(), StoreError> {
    write_events(db, &[(tenant, id, event)]).await
}

/// Writes events. Their numbers are in the key: a second one of a number cannot be written.
async fn write_events(db: &mut Connection<'_>, events: &[Told<'_>]) -> Result<(), StoreError> {
    let mut rows = Rows::of(
        "INSERT INTO events (tenant, evaluation, number, kind, occurred_at, attempt, not_before, verdict) VALUES",
        "",
    );
    for (tenant, id, event) in events {
        let (attempt, not_before, verdict) = event_parts(event.kind);
        rows.push(row![
            tenant.as_str(),
            id.as_uuid(),
            sql_number(event.number),
            event.kind.as_str(),
            event.at.as_micros(),
            attempt.map(i64::from),
            not_before.map(Timestamp::as_micros),
            verdict.map(|verdict| verdict.as_str()),
        ]);
    }
    rows.execute(db).await.map_err(failed("writing events")).map(drop)
}

/// Writes what an evaluation came to: with its end, whatever is full.
async fn write_result(
    db: &mut Connection<'_>,
    context: &mut Context<'_>,
    (tenant, id): (&Tenant, EvaluationId),
    document: &str,
) -> Result<(), StoreError> {
    write_results(db, context, [(tenant, id, document)]).await
}

async fn write_results(
    db: &mut Connection<'_>,
    context: &mut Context<'_>,
    results: impl IntoIterator<Item = (&'_ Tenant, EvaluationId, &'_ str)>,
) -> Result<(), StoreError> {
    let mut rows = Rows::of("INSERT INTO results (tenant, evaluation, document) VALUES", "");
    for (tenant, id, document) in results {
        rows.push(row![tenant.as_str(), id.as_uuid(), document]);
        context.grow(document.len());
        context.signal(Signal::Changed(id));
    }
    rows.execute(db).await.map_err(failed("writing results")).map(drop)
}
