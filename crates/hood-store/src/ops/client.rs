//! What clients and the house-keeping write.

use std::collections::BTreeMap;

use hood_core::lifecycle::{AnyEvaluation, QueueEnd};
use hood_core::{EvaluationId, State, Tenant, Timestamp};

use super::{archive, blobs, deliver, write_event, write_result};
use crate::db::{Connection, Locking, Row, Value, locking, query};
use crate::error::{FindError, StoreError};
use crate::model::{Cancel, CancelWish, Delete, NewKey};
use crate::read;
use crate::rows::{corrupt, evaluation, get, number, priority, sql_number};
use crate::wake::Signal;
use crate::writer::{Context, Operation, Turn, failed};

/// What ends something that is queued reads of its row.
macro_rules! columns {
    () => {
        "tenant, id, state, verdict, priority, not_before, last_event, attempts, losses_infrastructure, \
         losses_own_death, losses_suspect, callback"
    };
}

/// Ends one that is queued, in the transaction that this is part of.
async fn end_queued(
    db: &mut Connection<'_>,
    context: &mut Context<'_>,
    row: &Row,
    (end, now, result): (QueueEnd, Timestamp, &str),
) -> Result<(), StoreError> {
    const SQL: &str = "UPDATE evaluations SET state = $4, verdict = $5, last_event = $6, finished_at = $7, \
         not_before = NULL, ready = 0 \
         WHERE tenant = $1 AND id = $2 AND last_event = $3 AND state = 'queued'";
    let AnyEvaluation::Queued(queued) = evaluation(row)? else {
        return Err(corrupt("ended, and not queued"));
    };
    let tenant = Tenant::new(get::<String>(row, "tenant")?);
    let id = EvaluationId::from_uuid(get(row, "id")?);
    let step = queued.end(now, end);
    let changed = query(SQL)
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
    if changed != 1 {
        return Err(corrupt("a queued row was not there"));
    }
    write_event(db, (&tenant, id), step.transition.event()).await?;
    write_result(db, context, (&tenant, id), result).await?;
    if get::<Option<String>>(row, "callback")?.is_some() {
        deliver::note(db, context, (&tenant, id), step.transition.event()).await?;
    }
    context.moved((&tenant, priority(row)?), Some(State::Queued), step.transition.to());
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

    fn turn(&self) -> Turn {
        Turn::Row(self.id.as_uuid())
    }

    async fn run(self, db: &mut Connection<'_>, context: &mut Context<'_>) -> Result<Cancel, FindError> {
        let Some(row) = self.note(db).await? else {
            if !archive::is_archived(db, (&self.tenant, self.id)).await? {
                read::exists(db, &self.tenant, self.id).await?;
            }
            return Ok(Cancel::AlreadyTerminal);
        };
        if let AnyEvaluation::Queued(_) = evaluation(&row)? {
            let end = (QueueEnd::Cancelled, self.wish.now, self.wish.result_if_queued.as_str());
            end_queued(db, context, &row, end).await?;
            return Ok(Cancel::EndedNow);
        }
        context.signal(Signal::Cancel(self.id));
        context.signal(Signal::Changed(self.id));
        Ok(Cancel::Requested)
    }
}

impl RequestCancel {
    /// The first wish keeps its time. Of graces that were asked for the shortest stands; any stands
    /// over the evaluation's own (null), which the store does not know.
    async fn note(&self, db: &mut Connection<'_>) -> Result<Option<Row>, StoreError> {
        const SQL: &str = concat!(
            "UPDATE evaluations SET cancel_grace_ms = CASE WHEN cancel_grace_ms IS NULL THEN $4 \
             WHEN $4 IS NULL OR $4 > cancel_grace_ms THEN cancel_grace_ms ELSE $4 END, \
             cancel_requested_at = COALESCE(cancel_requested_at, $3) \
             WHERE tenant = $1 AND id = $2 AND state IN ('queued', 'provisioning', 'running') RETURNING ",
            columns!()
        );
        query(SQL)
            .bind(self.tenant.as_str())
            .bind(self.id.as_uuid())
            .bind(self.wish.now.as_micros())
            .bind(self.wish.grace_ms.map(sql_number))
            .fetch_optional(db)
            .await
            .map_err(failed("noting a cancel"))
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

    async fn run(self, db: &mut Connection<'_>, context: &mut Context<'_>) -> Result<Delete, FindError> {
        const SQL: &str = "DELETE FROM evaluations WHERE tenant = $1 AND id = $2 \
             AND state IN ('succeeded', 'failed', 'cancelled') RETURNING labels, batch, idempotency_key";
        let row = query(SQL)
            .bind(self.tenant.as_str())
            .bind(self.id.as_uuid())
            .fetch_optional(&mut *db)
            .await
            .map_err(failed("deleting an evaluation"))?;
        let key = (&self.tenant, self.id);
        let row = match row {
            Some(row) => {
                // In the order of who moves output into a blob.
                blobs::doom(db, key).await?;
                forget_rows(db, key).await?;
                forget_labels(db, key, &row).await?;
                row
            }
            None => match archive::forget(db, key).await? {
                Some(row) => {
                    blobs::doom(db, key).await?;
                    row
                }
                None => {
                    read::exists(db, &self.tenant, self.id).await?;
                    return Ok(Delete::NotTerminal);
                }
            },
        };
        self.forget_lives(db).await?;
        self.forget_last_of(db, &row).await?;
        context.signal(Signal::Changed(self.id));
        Ok(Delete::Deleted)
    }
}

/// The rows that hang on an evaluation alone.
pub(super) async fn forget_rows(
    db: &mut Connection<'_>,
    (tenant, id): (&Tenant, EvaluationId),
) -> Result<(), StoreError> {
    for sql in [
        "DELETE FROM output WHERE tenant = $1 AND evaluation = $2",
        "DELETE FROM attempts WHERE tenant = $1 AND evaluation = $2",
        "DELETE FROM events WHERE tenant = $1 AND evaluation = $2",
        "DELETE FROM requests WHERE tenant = $1 AND evaluation = $2",
        "DELETE FROM results WHERE tenant = $1 AND evaluation = $2",
        "DELETE FROM deliveries WHERE tenant = $1 AND evaluation = $2",
    ] {
        query(sql)
            .bind(tenant.as_str())
            .bind(id.as_uuid())
            .execute(&mut *db)
            .await
            .map_err(failed("deleting an evaluation"))?;
    }
    Ok(())
}

/// One by one: their table is ordered by label, and to look for an evaluation in it would be to
/// look through all of it.
pub(super) async fn forget_labels(
    db: &mut Connection<'_>,
    (tenant, id): (&Tenant, EvaluationId),
    row: &Row,
) -> Result<(), StoreError> {
    const SQL: &str = "DELETE FROM labels \
         WHERE tenant = $1 AND label_key = $2 AND label_value = $3 AND evaluation = $4";
    let labels: BTreeMap<String, String> = serde_json::from_str(get(row, "labels")?)
        .map_err(|error| corrupt(format!("labels of {id}: {error}")))?;
    for (key, value) in labels {
        query(SQL)
            .bind(tenant.as_str())
            .bind(key)
            .bind(value)
            .bind(id.as_uuid())
            .execute(&mut *db)
            .await
            .map_err(failed("deleting labels"))?;
    }
    Ok(())
}

impl Forget {
    async fn forget_lives(&self, db: &mut Connection<'_>) -> Result<(), StoreError> {
        query("DELETE FROM requeues WHERE tenant = $1 AND evaluation = $2")
            .bind(self.tenant.as_str())
            .bind(self.id.as_uuid())
            .execute(db)
            .await
            .map_err(failed("deleting an evaluation"))
            .map(drop)
    }

    /// The batch and the idempotency key, if this was the last that they stood for.
    async fn forget_last_of(&self, db: &mut Connection<'_>, row: &Row) -> Result<(), StoreError> {
        const KEY: &str = "DELETE FROM idempotency_keys WHERE tenant = $1 AND idempotency_key = $2 \
             AND NOT EXISTS (SELECT 1 FROM evaluations WHERE tenant = $1 AND idempotency_key = $2) \
             AND NOT EXISTS (SELECT 1 FROM archived WHERE tenant = $1 AND idempotency_key = $2)";
        const HOLD_KEY: &str = "UPDATE idempotency_keys SET batch = batch \
             WHERE tenant = $1 AND idempotency_key = $2";
        const HOLD_BATCH: &str = "UPDATE batches SET created_at = created_at WHERE tenant = $1 AND id = $2";
        const BATCH: &str = "DELETE FROM batches WHERE tenant = $1 AND id = $2 \
             AND NOT EXISTS (SELECT 1 FROM evaluations WHERE tenant = $1 AND batch = $2) \
             AND NOT EXISTS (SELECT 1 FROM archived WHERE tenant = $1 AND batch = $2)";
        if let Some(key) = get::<Option<String>>(row, "idempotency_key")? {
            if db.is_shared() {
                self.hold(db, HOLD_KEY, key.as_str()).await?;
            }
            let forget = query(KEY).bind(self.tenant.as_str()).bind(key);
            forget.execute(&mut *db).await.map_err(failed("deleting an idempotency key"))?;
        }
        if let Some(batch) = get::<Option<uuid::Uuid>>(row, "batch")? {
            if db.is_shared() {
                self.hold(db, HOLD_BATCH, batch).await?;
            }
            let forget = query(BATCH).bind(self.tenant.as_str()).bind(batch);
            forget.execute(db).await.map_err(failed("deleting a batch"))?;
        }
        Ok(())
    }

    /// Two who each forget one of the last two would both see the other's, and leave what they
    /// stood for: the second waits here until the first is done.
    async fn hold(
        &self,
        db: &mut Connection<'_>,
        sql: &'static str,
        of: impl Into<Value>,
    ) -> Result<(), StoreError> {
        let held = query(sql).bind(self.tenant.as_str()).bind(of).execute(db).await;
        held.map(drop).map_err(failed("deleting an evaluation"))
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

/// Of its own index, which no claim may use; see the migration that made it.
pub(super) const OLD: Locking = locking!(
    concat!(
        "SELECT ",
        columns!(),
        " FROM evaluations WHERE COALESCE(state, '') = 'queued' AND queued_at <= $1 ORDER BY queued_at LIMIT $2"
    ),
    ""
);

impl Operation for Expire {
    type Output = u64;
    type Error = StoreError;

    fn turn(&self) -> Turn {
        Turn::Sweep
    }

    async fn run(self, db: &mut Connection<'_>, context: &mut Context<'_>) -> Result<u64, StoreError> {
        let rows = query(OLD)
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

    async fn run(self, db: &mut Connection<'_>, _context: &mut Context<'_>) -> Result<(), StoreError> {
        let Self(key) = self;
        // One key of a name: a new one takes the old one's place, which was lost or is to be lost.
        query("DELETE FROM api_keys WHERE tenant = $1 AND name = $2")
            .bind(key.tenant.as_str())
            .bind(&key.name)
            .execute(&mut *db)
            .await
            .map_err(failed("withdrawing a key"))?;
        query("INSERT INTO api_keys (hash, tenant, name, created_at) VALUES ($1, $2, $3, $4)")
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

    async fn run(self, db: &mut Connection<'_>, _context: &mut Context<'_>) -> Result<(), StoreError> {
        query(
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

    async fn run(self, db: &mut Connection<'_>, _context: &mut Context<'_>) -> Result<u64, StoreError> {
        let row = query(
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

/// Asks the writing connection how what it commits is kept.
#[derive(Debug)]
pub(crate) struct Durability;

impl Operation for Durability {
    type Output = Vec<(String, String)>;
    type Error = StoreError;

    async fn run(
        self,
        db: &mut Connection<'_>,
        _context: &mut Context<'_>,
    ) -> Result<Self::Output, StoreError> {
        db.durability().await.map_err(failed("asking how the database is kept"))
    }
}
