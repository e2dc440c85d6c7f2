//! What clients and the house-keeping write.

use hood_core::lifecycle::{AnyEvaluation, QueueEnd};
use hood_core::{EvaluationId, State, Tenant, Timestamp};
use sqlx::SqliteConnection;
use sqlx::sqlite::SqliteRow;

use super::{move_depth, write_event};
use crate::error::{FindError, StoreError};
use crate::model::{Cancel, CancelWish, Delete, NewKey};
use crate::rows::{corrupt, evaluation, get, number, sql_number, state};
use crate::wake::Signal;
use crate::writer::{Context, Operation, failed};

const COLUMNS: &str = "tenant, id, state, verdict, priority, not_before, last_event, attempts, \
     losses_infrastructure, losses_own_death, losses_suspect, cancel_requested_at, cancel_grace_ms, batch, \
     idempotency_key";

async fn find(db: &mut SqliteConnection, tenant: &Tenant, id: EvaluationId) -> Result<SqliteRow, FindError> {
    let query = format!("SELECT {COLUMNS} FROM evaluations WHERE tenant = $1 AND id = $2");
    sqlx::query(sqlx::AssertSqlSafe(query))
        .bind(tenant.as_str())
        .bind(id.as_uuid())
        .fetch_optional(db)
        .await
        .map_err(failed("finding an evaluation"))?
        .ok_or(FindError::NotFound)
}

/// Ends one that is queued, in the transaction that this is part of.
async fn end_queued(
    db: &mut SqliteConnection,
    context: &mut Context,
    row: &SqliteRow,
    end: (QueueEnd, Timestamp, &str),
) -> Result<(), StoreError> {
    let (end, now, result) = end;
    let AnyEvaluation::Queued(queued) = evaluation(row)? else {
        return Err(corrupt("ended, and not queued"));
    };
    let tenant = Tenant::new(get::<String>(row, "tenant")?);
    let id = EvaluationId::from_uuid(get(row, "id")?);
    let step = queued.end(now, end);
    let changed = sqlx::query(
        "UPDATE evaluations SET state = $4, verdict = $5, last_event = $6, finished_at = $7, not_before = NULL, \
         ready = 1 WHERE tenant = $1 AND id = $2 AND last_event = $3 AND state = 'queued'",
    )
    .bind(tenant.as_str())
    .bind(id.as_uuid())
    .bind(sql_number(queued.history().last_event))
    .bind(step.transition.to().as_str())
    .bind(step.evaluation.stage().verdict.as_str())
    .bind(sql_number(step.transition.event().number))
    .bind(now.as_micros())
    .execute(&mut *db)
    .await
    .map_err(failed("ending an evaluation"))?;
    if changed.rows_affected() != 1 {
        return Err(corrupt("a queued row was not there"));
    }
    write_event(db, &tenant, id, &step.transition).await?;
    let priority = u8::try_from(number(row, "priority")?).map_err(|_| corrupt("priority"))?;
    move_depth(db, &tenant, priority, Some(State::Queued), step.transition.to()).await?;
    sqlx::query("INSERT INTO results (tenant, evaluation, document) VALUES ($1, $2, $3)")
        .bind(tenant.as_str())
        .bind(id.as_uuid())
        .bind(result)
        .execute(db)
        .await
        .map_err(failed("writing a result"))?;
    context.signals.insert(Signal::Changed(id));
    Ok(())
}

/// Stores the wish to cancel. One that is queued ends here; whoever holds the lease of one that is
/// not is told.
#[derive(Debug)]
pub(crate) struct RequestCancel {
    pub(crate) tenant: Tenant,
    pub(crate) id: EvaluationId,
    pub(crate) wish: CancelWish,
}

impl Operation for RequestCancel {
    type Output = Cancel;
    type Error = FindError;

    async fn run(self, db: &mut SqliteConnection, context: &mut Context) -> Result<Cancel, FindError> {
        let row = find(db, &self.tenant, self.id).await?;
        match state(&row)? {
            State::Succeeded | State::Failed | State::Cancelled => return Ok(Cancel::AlreadyTerminal),
            State::Queued => {
                self.note(db).await?;
                end_queued(
                    db,
                    context,
                    &row,
                    (QueueEnd::Cancelled, self.wish.now, &self.wish.result_if_queued),
                )
                .await?;
                return Ok(Cancel::EndedNow);
            }
            State::Provisioning | State::Running => self.note(db).await?,
        }
        context.signals.extend([Signal::Cancel(self.id), Signal::Changed(self.id)]);
        Ok(Cancel::Requested)
    }
}

impl RequestCancel {
    /// The first wish keeps its time; a shorter grace replaces a longer one, and the evaluation's own
    /// grace (null).
    async fn note(&self, db: &mut SqliteConnection) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE evaluations SET cancel_grace_ms = CASE WHEN cancel_grace_ms IS NULL THEN $4 \
             WHEN $4 IS NULL OR $4 > cancel_grace_ms THEN cancel_grace_ms ELSE $4 END, \
             cancel_requested_at = COALESCE(cancel_requested_at, $3) WHERE tenant = $1 AND id = $2",
        )
        .bind(self.tenant.as_str())
        .bind(self.id.as_uuid())
        .bind(self.wish.now.as_micros())
        .bind(self.wish.grace_ms.map(sql_number))
        .execute(db)
        .await
        .map_err(failed("noting a cancel"))?;
        Ok(())
    }
}

/// Forgets one that has ended, with everything that hangs on it.
#[derive(Debug)]
pub(crate) struct Forget {
    pub(crate) tenant: Tenant,
    pub(crate) id: EvaluationId,
}

impl Operation for Forget {
    type Output = Delete;
    type Error = FindError;

    async fn run(self, db: &mut SqliteConnection, context: &mut Context) -> Result<Delete, FindError> {
        let row = find(db, &self.tenant, self.id).await?;
        if !state(&row)?.is_terminal() {
            return Ok(Delete::NotTerminal);
        }
        self.delete(db, &row).await?;
        context.signals.insert(Signal::Changed(self.id));
        Ok(Delete::Deleted)
    }
}

impl Forget {
    async fn delete(&self, db: &mut SqliteConnection, row: &SqliteRow) -> Result<(), StoreError> {
        for statement in [
            "DELETE FROM output WHERE tenant = $1 AND evaluation = $2",
            "DELETE FROM attempts WHERE tenant = $1 AND evaluation = $2",
            "DELETE FROM events WHERE tenant = $1 AND evaluation = $2",
            "DELETE FROM labels WHERE tenant = $1 AND evaluation = $2",
            "DELETE FROM requests WHERE tenant = $1 AND evaluation = $2",
            "DELETE FROM results WHERE tenant = $1 AND evaluation = $2",
            "DELETE FROM evaluations WHERE tenant = $1 AND id = $2",
        ] {
            sqlx::query(statement)
                .bind(self.tenant.as_str())
                .bind(self.id.as_uuid())
                .execute(&mut *db)
                .await
                .map_err(failed("deleting an evaluation"))?;
        }
        if let Some(key) = get::<Option<String>>(row, "idempotency_key")? {
            sqlx::query(
                "DELETE FROM idempotency_keys WHERE tenant = $1 AND idempotency_key = $2 AND NOT EXISTS \
                 (SELECT 1 FROM evaluations WHERE tenant = $1 AND idempotency_key = $2)",
            )
            .bind(self.tenant.as_str())
            .bind(key)
            .execute(&mut *db)
            .await
            .map_err(failed("deleting an evaluation"))?;
        }
        if let Some(batch) = get::<Option<uuid::Uuid>>(row, "batch")? {
            sqlx::query(
                "DELETE FROM batches WHERE tenant = $1 AND id = $2 AND NOT EXISTS \
                 (SELECT 1 FROM evaluations WHERE tenant = $1 AND batch = $2)",
            )
            .bind(self.tenant.as_str())
            .bind(batch)
            .execute(db)
            .await
            .map_err(failed("deleting an evaluation"))?;
        }
        Ok(())
    }
}

/// Gives up on what has been queued for too long.
#[derive(Debug)]
pub(crate) struct Expire {
    pub(crate) older_than: Timestamp,
    pub(crate) now: Timestamp,
    pub(crate) limit: u32,
    pub(crate) result: String,
}

impl Operation for Expire {
    type Output = u64;
    type Error = StoreError;

    async fn run(self, db: &mut SqliteConnection, context: &mut Context) -> Result<u64, StoreError> {
        let query = format!(
            "SELECT {COLUMNS} FROM evaluations WHERE state = 'queued' AND queued_at <= $1 \
             ORDER BY queued_at LIMIT $2"
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(query))
            .bind(self.older_than.as_micros())
            .bind(i64::from(self.limit))
            .fetch_all(&mut *db)
            .await
            .map_err(failed("looking for the oldest"))?;
        for row in &rows {
            end_queued(db, context, row, (QueueEnd::GivenUp, self.now, &self.result)).await?;
        }
        Ok(rows.len() as u64)
    }
}

#[derive(Debug)]
pub(crate) struct InsertKey(pub(crate) NewKey);

impl Operation for InsertKey {
    type Output = ();
    type Error = StoreError;

    async fn run(self, db: &mut SqliteConnection, _context: &mut Context) -> Result<(), StoreError> {
        let Self(key) = self;
        // One key of a name: a new one takes the old one's place, which was lost or is to be lost.
        sqlx::query("DELETE FROM api_keys WHERE tenant = $1 AND name = $2")
            .bind(key.tenant.as_str())
            .bind(&key.name)
            .execute(&mut *db)
            .await
            .map_err(failed("withdrawing a key"))?;
        sqlx::query("INSERT INTO api_keys (hash, tenant, name, created_at) VALUES ($1, $2, $3, $4)")
            .bind(&key.hash[..])
            .bind(key.tenant.as_str())
            .bind(&key.name)
            .bind(key.created_at.as_micros())
            .execute(db)
            .await
            .map_err(failed("keeping a key"))?;
        Ok(())
    }
}

#[derive(Debug)]
pub(crate) struct PutCapacity {
    pub(crate) version: u64,
    pub(crate) at: Timestamp,
    pub(crate) document: String,
}

impl Operation for PutCapacity {
    type Output = ();
    type Error = StoreError;

    async fn run(self, db: &mut SqliteConnection, _context: &mut Context) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO capacity (slot, version, noted_at, document) VALUES (0, $1, $2, $3) \
             ON CONFLICT (slot) DO UPDATE SET version = $1, noted_at = $2, document = $3",
        )
        .bind(sql_number(self.version))
        .bind(self.at.as_micros())
        .bind(self.document)
        .execute(db)
        .await
        .map_err(failed("keeping the catalogue"))?;
        Ok(())
    }
}

/// Counts up, and gives the new count. It is also the write by which health checks prove that
/// writing works.
#[derive(Debug)]
pub(crate) struct Count(pub(crate) &'static str);

impl Operation for Count {
    type Output = u64;
    type Error = StoreError;

    async fn run(self, db: &mut SqliteConnection, _context: &mut Context) -> Result<u64, StoreError> {
        let row = sqlx::query(
            "INSERT INTO counters (name, value) VALUES ($1, 1) \
             ON CONFLICT (name) DO UPDATE SET value = counters.value + 1 RETURNING value",
        )
        .bind(self.0)
        .fetch_one(db)
        .await
        .map_err(failed("counting"))?;
        number(&row, "value")
    }
}
