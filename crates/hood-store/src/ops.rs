//! Everything that writes, as operations of the one writer.

pub(crate) mod client;
pub(crate) mod commit;
pub(crate) mod lease;
pub(crate) mod submit;

use hood_core::{EvaluationId, EventKind, State, Tenant, Timestamp, Transition};
use sqlx::SqliteConnection;

use crate::error::StoreError;
use crate::rows::sql_number;
use crate::writer::failed;

/// Writes the event of a transition; its number is the key, so that a second one of that number
/// cannot be written.
async fn write_event(
    db: &mut SqliteConnection,
    tenant: &Tenant,
    id: EvaluationId,
    transition: &Transition,
) -> Result<(), StoreError> {
    let event = transition.event();
    let (attempt, not_before, verdict) = match event.kind {
        EventKind::Submitted => (None, None, None),
        EventKind::AttemptStarted { attempt } | EventKind::Started { attempt } => (Some(attempt), None, None),
        EventKind::RetryScheduled { attempt, not_before } => (Some(attempt), Some(not_before), None),
        EventKind::Finished { verdict } => (None, None, Some(verdict)),
    };
    sqlx::query(
        "INSERT INTO events (tenant, evaluation, number, kind, occurred_at, attempt, not_before, verdict) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
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
    .map_err(failed("writing an event"))?;
    Ok(())
}

/// Moves one evaluation between the counted states.
async fn move_depth(
    db: &mut SqliteConnection,
    tenant: &Tenant,
    priority: u8,
    from: Option<State>,
    to: State,
) -> Result<(), StoreError> {
    for (state, by) in [(from, -1), (Some(to), 1)] {
        let Some(state) = state.filter(|state| !state.is_terminal()) else { continue };
        add_depth(db, tenant, priority, state, by).await?;
    }
    Ok(())
}

async fn add_depth(
    db: &mut SqliteConnection,
    tenant: &Tenant,
    priority: u8,
    state: State,
    by: i64,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO depths (tenant, state, priority, evaluations) VALUES ($1, $2, $3, $4) \
         ON CONFLICT (tenant, state, priority) DO UPDATE SET evaluations = depths.evaluations + $4",
    )
    .bind(tenant.as_str())
    .bind(state.as_str())
    .bind(i64::from(priority))
    .bind(by)
    .execute(db)
    .await
    .map_err(failed("counting the queue"))?;
    Ok(())
}
