//! Accepting: one evaluation, or a whole batch, or nothing.

use hood_core::lifecycle::{Evaluation, Queued};
use hood_core::{BatchId, EvaluationId, State, Tenant, Timestamp};
use sqlx::SqliteConnection;
use uuid::Uuid;

use super::{add_depth, write_event};
use crate::config::StoreConfig;
use crate::error::{StoreError, SubmitError};
use crate::model::{Accepted, Idempotency, NewEvaluation, NewSubmission};
use crate::rows::{corrupt, get, number, sql_number};
use crate::wake::Signal;
use crate::writer::{Context, Operation, failed};

/// What the rows and index entries of an evaluation take beside its documents, roughly: between two
/// transactions only, since each measures the database anew.
const ROWS_BYTES: u64 = 1024;

fn bytes(new: &NewEvaluation) -> u64 {
    // Each label is in its row, in the table by which it is found, and in that table's index.
    let labels: usize = new.labels.iter().map(|(name, value)| 3 * (name.len() + value.len())).sum();
    ROWS_BYTES + (new.request.len() + labels) as u64
}

#[derive(Debug)]
pub(crate) struct Submit {
    pub(crate) tenant: Tenant,
    pub(crate) now: Timestamp,
    pub(crate) submission: NewSubmission,
    pub(crate) config: StoreConfig,
}

impl Operation for Submit {
    type Output = Accepted;
    type Error = SubmitError;

    async fn run(self, db: &mut SqliteConnection, context: &mut Context) -> Result<Accepted, SubmitError> {
        self.submit(db, context).await
    }
}

impl Submit {
    async fn submit(self, db: &mut SqliteConnection, context: &mut Context) -> Result<Accepted, SubmitError> {
        let count = self.submission.evaluations.len() as u64;
        if count == 0 || (self.submission.batch.is_none() && count > 1) {
            return Err(SubmitError::Malformed);
        }
        if let Some(idempotency) = &self.submission.idempotency
            && let Some(existing) = existing(db, &self.tenant, idempotency).await?
        {
            return Ok(existing);
        }
        self.check_room(db, context, count).await?;
        if let Some(batch) = self.submission.batch {
            insert_batch(db, &self.tenant, batch, self.now).await?;
        }
        let key = self.submission.idempotency.as_ref().map(|idempotency| idempotency.key.as_str());
        for (position, evaluation) in self.submission.evaluations.iter().enumerate() {
            self.insert(db, evaluation, key, position).await?;
            context.used_bytes += bytes(evaluation);
        }
        if let Some(idempotency) = &self.submission.idempotency {
            remember(db, &self.tenant, idempotency, self.submission.batch).await?;
        }
        context.signals.insert(Signal::Work);
        Ok(Accepted::New)
    }

    async fn check_room(
        &self,
        db: &mut SqliteConnection,
        context: &Context,
        count: u64,
    ) -> Result<(), SubmitError> {
        let bytes: u64 = self.submission.evaluations.iter().map(bytes).sum();
        let limit_bytes = self.config.storage_bytes.saturating_sub(self.config.storage_reserve_bytes);
        if context.used_bytes.saturating_add(bytes) > limit_bytes {
            return Err(SubmitError::StorageFull { used_bytes: context.used_bytes, limit_bytes });
        }
        let row = sqlx::query("SELECT COALESCE(SUM(evaluations), 0) AS queued FROM depths WHERE state = $1")
            .bind(State::Queued.as_str())
            .fetch_one(db)
            .await
            .map_err(failed("measuring the queue"))?;
        let (queued, limit) = (number(&row, "queued")?, self.config.queue_max);
        if queued.saturating_add(count) > limit {
            return Err(SubmitError::QueueFull { queued, limit });
        }
        Ok(())
    }

    async fn insert(
        &self,
        db: &mut SqliteConnection,
        new: &NewEvaluation,
        key: Option<&str>,
        position: usize,
    ) -> Result<(), StoreError> {
        let step = Evaluation::<Queued>::submit(self.now);
        let labels = serde_json::to_string(&new.labels).map_err(|error| corrupt(error.to_string()))?;
        sqlx::query(
            "INSERT INTO evaluations (tenant, id, state, priority, environment, labels, batch, idempotency_key, \
             position, created_at, queued_at, ready, last_event, attempts, losses_infrastructure, \
             losses_own_death, losses_suspect, lease_token, lease_epoch) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $10, 1, 1, 0, 0, 0, 0, 0, 0)",
        )
        .bind(self.tenant.as_str())
        .bind(new.id.as_uuid())
        .bind(step.transition.to().as_str())
        .bind(i64::from(new.priority))
        .bind(&new.environment)
        .bind(labels)
        .bind(self.submission.batch.map(BatchId::as_uuid))
        .bind(key)
        .bind(sql_number(position as u64))
        .bind(self.now.as_micros())
        .execute(&mut *db)
        .await
        .map_err(failed("accepting an evaluation"))?;
        sqlx::query("INSERT INTO requests (tenant, evaluation, document) VALUES ($1, $2, $3)")
            .bind(self.tenant.as_str())
            .bind(new.id.as_uuid())
            .bind(&new.request)
            .execute(&mut *db)
            .await
            .map_err(failed("keeping a request"))?;
        for (name, value) in &new.labels {
            sqlx::query(
                "INSERT INTO labels (tenant, label_key, label_value, evaluation) VALUES ($1, $2, $3, $4)",
            )
            .bind(self.tenant.as_str())
            .bind(name)
            .bind(value)
            .bind(new.id.as_uuid())
            .execute(&mut *db)
            .await
            .map_err(failed("keeping labels"))?;
        }
        write_event(db, &self.tenant, new.id, &step.transition).await?;
        add_depth(db, &self.tenant, new.priority, State::Queued, 1).await
    }
}

/// What this key stands for already.
pub(crate) async fn existing(
    db: &mut SqliteConnection,
    tenant: &Tenant,
    idempotency: &Idempotency,
) -> Result<Option<Accepted>, SubmitError> {
    let known = sqlx::query(
        "SELECT fingerprint, batch FROM idempotency_keys WHERE tenant = $1 AND idempotency_key = $2",
    )
    .bind(tenant.as_str())
    .bind(&idempotency.key)
    .fetch_optional(&mut *db)
    .await
    .map_err(failed("looking an idempotency key up"))?;
    let Some(known) = known else { return Ok(None) };
    if get::<Vec<u8>>(&known, "fingerprint")? != idempotency.fingerprint {
        return Err(SubmitError::IdempotencyConflict);
    }
    let rows = sqlx::query(
        "SELECT id FROM evaluations WHERE tenant = $1 AND idempotency_key = $2 ORDER BY position",
    )
    .bind(tenant.as_str())
    .bind(&idempotency.key)
    .fetch_all(db)
    .await
    .map_err(failed("looking an idempotency key up"))?;
    let ids = rows.iter().map(|row| get(row, "id").map(EvaluationId::from_uuid));
    let evaluations = ids.collect::<Result<Vec<_>, _>>()?;
    let batch = get::<Option<Uuid>>(&known, "batch")?.map(BatchId::from_uuid);
    Ok(Some(Accepted::Existing { batch, evaluations }))
}

async fn remember(
    db: &mut SqliteConnection,
    tenant: &Tenant,
    idempotency: &Idempotency,
    batch: Option<BatchId>,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO idempotency_keys (tenant, idempotency_key, fingerprint, batch) VALUES ($1, $2, $3, $4)",
    )
    .bind(tenant.as_str())
    .bind(&idempotency.key)
    .bind(&idempotency.fingerprint[..])
    .bind(batch.map(BatchId::as_uuid))
    .execute(db)
    .await
    .map_err(failed("keeping an idempotency key"))?;
    Ok(())
}

async fn insert_batch(
    db: &mut SqliteConnection,
    tenant: &Tenant,
    id: BatchId,
    now: Timestamp,
) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO batches (tenant, id, created_at) VALUES ($1, $2, $3)")
        .bind(tenant.as_str())
        .bind(id.as_uuid())
        .bind(now.as_micros())
        .execute(db)
        .await
        .map_err(failed("keeping a batch"))?;
    Ok(())
}
