//! Everything that writes, as operations of the one writer.

pub(crate) mod blobs;
pub(crate) mod client;
pub(crate) mod commit;
pub(crate) mod deliver;
pub(crate) mod depth;
pub(crate) mod lease;
pub(crate) mod output;
pub(crate) mod requeue;
pub(crate) mod submit;

use hood_core::{EvaluationId, Event, EventKind, Tenant, Timestamp};

use crate::db::{Connection, query};
use crate::error::StoreError;
use crate::rows::sql_number;
use crate::wake::Signal;
use crate::writer::{Context, failed};

/// Writes one event. Its number is in the key: a second one of that number cannot be written.
async fn write_event(
    db: &mut Connection<'_>,
    (tenant, id): (&Tenant, EvaluationId),
    event: &Event,
) -> Result<(), StoreError> {
    const SQL: &str = "INSERT INTO events \
         (tenant, evaluation, number, kind, occurred_at, attempt, not_before, verdict) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
    let (attempt, not_before, verdict) = match event.kind {
        EventKind::Submitted => (None, None, None),
        EventKind::AttemptStarted { attempt } | EventKind::Started { attempt } => (Some(attempt), None, None),
        EventKind::RetryScheduled { attempt, not_before } => (Some(attempt), Some(not_before), None),
        EventKind::Finished { verdict } => (None, None, Some(verdict)),
    };
    query(SQL)
        .bind(tenant.as_str())
        .bind(id.as_uuid())
        .bind(sql_number(event.number))
        .bind(event.kind.as_str())
        .bind(event.at.as_micros())
        .bind(attempt.map(i64::from))
        .bind(not_before.map(Timestamp::as_micros))
        .bind(verdict.map(|verdict| verdict.as_str()))
        .execute(db)
        .await
        .map_err(failed("writing an event"))
        .map(drop)
}

/// Writes what an evaluation came to: with its end, whatever is full.
async fn write_result(
    db: &mut Connection<'_>,
    context: &mut Context<'_>,
    (tenant, id): (&Tenant, EvaluationId),
    document: &str,
) -> Result<(), StoreError> {
    const SQL: &str = "INSERT INTO results (tenant, evaluation, document) VALUES ($1, $2, $3)";
    query(SQL)
        .bind(tenant.as_str())
        .bind(id.as_uuid())
        .bind(document)
        .execute(db)
        .await
        .map_err(failed("writing a result"))?;
    context.grow(document.len());
    context.signal(Signal::Changed(id));
    Ok(())
}
