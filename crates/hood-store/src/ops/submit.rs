//! Accepting: one evaluation, or a whole batch, or nothing.

use std::collections::BTreeMap;

use hood_core::lifecycle::{Evaluation, Queued};
use hood_core::{BatchId, EvaluationId, State, Tenant, Timestamp};
use uuid::Uuid;

use super::write_event;
use crate::config::StoreConfig;
use crate::db::{Connection, query};
use crate::error::{StoreError, SubmitError};
use crate::model::{Accepted, Idempotency, NewEvaluation, NewSubmission};
use crate::rows::{corrupt, get, sql_number};
use crate::wake::Signal;
use crate::writer::{Context, Operation, Turn, failed};

/// What rows and index entries of one evaluation take beside its documents, about: measured at 1.2 KiB
/// with its whole life, and rounded up.
pub(super) const ROWS_BYTES: usize = 1536;

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

    fn turn(&self) -> Turn {
        let key = self.submission.idempotency.as_ref().map(|idempotency| idempotency.key.clone());
        Turn::Accept { key, evaluations: self.submission.evaluations.len() as u64 }
    }

    fn weight(&self) -> usize {
        self.submission.evaluations.iter().map(bytes).sum()
    }

    async fn run(self, db: &mut Connection<'_>, context: &mut Context<'_>) -> Result<Accepted, SubmitError> {
        let count = self.submission.evaluations.len();
        if count == 0 || (self.submission.batch.is_none() && count > 1) {
            return Err(SubmitError::Malformed);
        }
        if let Some(idempotency) = &self.submission.idempotency {
            // A key that somebody has may be given up before its evaluations are read.
            while !remember(db, &self.tenant, idempotency, self.submission.batch).await? {
                if let Some(existing) = existing(db, &self.tenant, idempotency).await? {
                    return Ok(existing);
                }
            }
        }
        check_room(context, &self.config, (self.weight(), self.submission.evaluations.len()))?;
        if let Some(batch) = self.submission.batch {
            insert_batch(db, &self.tenant, batch, self.now).await?;
        }
        for (position, evaluation) in self.submission.evaluations.iter().enumerate() {
            self.insert(db, evaluation, position).await?;
            context.grow(bytes(evaluation));
            context.moved((&self.tenant, evaluation.priority), None, State::Queued);
        }
        context.signal(Signal::Work);
        Ok(Accepted::New)
    }
}

/// What an evaluation will take of the storage, about.
fn bytes(new: &NewEvaluation) -> usize {
    // Labels are kept twice: to be shown, and to be found by.
    let labels: usize = new.labels.iter().map(|(key, value)| 2 * (key.len() + value.len())).sum();
    new.request.len() + labels + ROWS_BYTES
}

/// Whether so many bytes and evaluations more have room.
pub(super) fn check_room(
    context: &Context<'_>,
    config: &StoreConfig,
    (bytes, evaluations): (usize, usize),
) -> Result<(), SubmitError> {
    let StoreConfig { storage_bytes, storage_reserve_bytes, queue_max, .. } = *config;
    let limit_bytes = storage_bytes.saturating_sub(storage_reserve_bytes);
    if !context.fits(bytes, limit_bytes) {
        let used_bytes = context.used_bytes();
        return Err(SubmitError::StorageFull { used_bytes, limit_bytes });
    }
    let queued = context.queued();
    if queued.saturating_add(evaluations as u64) > queue_max {
        return Err(SubmitError::QueueFull { queued, limit: queue_max });
    }
    Ok(())
}

pub(super) async fn keep_labels(
    db: &mut Connection<'_>,
    (tenant, id): (&Tenant, EvaluationId),
    labels: &BTreeMap<String, String>,
) -> Result<(), StoreError> {
    for (name, value) in labels {
        query("INSERT INTO labels (tenant, label_key, label_value, evaluation) VALUES ($1, $2, $3, $4)")
            .bind(tenant.as_str())
            .bind(name)
            .bind(value)
            .bind(id.as_uuid())
            .execute(&mut *db)
            .await
            .map_err(failed("keeping labels"))?;
    }
    Ok(())
}

impl Submit {
    async fn insert(
        &self,
        db: &mut Connection<'_>,
        new: &NewEvaluation,
        position: usize,
    ) -> Result<(), StoreError> {
        let key = self.submission.idempotency.as_ref().map(|idempotency| idempotency.key.as_str());
        let step = Evaluation::<Queued>::submit(self.now);
        let labels = serde_json::to_string(&new.labels).map_err(|error| corrupt(error.to_string()))?;
        query(
            "INSERT INTO evaluations (tenant, id, state, priority, environment, labels, batch, idempotency_key, \
             position, created_at, queued_at, ready, last_event, attempts, losses_infrastructure, \
             losses_own_death, losses_suspect, lease_token, lease_epoch, callback) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $10, 1, 1, 0, 0, 0, 0, 0, 0, $11)",
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
        .bind(&new.callback)
        .execute(&mut *db)
        .await
        .map_err(failed("accepting an evaluation"))?;
        query("INSERT INTO requests (tenant, evaluation, document) VALUES ($1, $2, $3)")
            .bind(self.tenant.as_str())
            .bind(new.id.as_uuid())
            .bind(&new.request)
            .execute(&mut *db)
            .await
            .map_err(failed("keeping a request"))?;
        keep_labels(db, (&self.tenant, new.id), &new.labels).await?;
        write_event(db, (&self.tenant, new.id), step.transition.event()).await
    }
}

/// What this key stands for already.
pub(crate) async fn existing(
    db: &mut Connection<'_>,
    tenant: &Tenant,
    idempotency: &Idempotency,
) -> Result<Option<Accepted>, SubmitError> {
    let known =
        query("SELECT fingerprint, batch FROM idempotency_keys WHERE tenant = $1 AND idempotency_key = $2")
            .bind(tenant.as_str())
            .bind(&idempotency.key)
            .fetch_optional(&mut *db)
            .await
            .map_err(failed("looking an idempotency key up"))?;
    let Some(known) = known else { return Ok(None) };
    if get::<Vec<u8>>(&known, "fingerprint")? != idempotency.fingerprint {
        return Err(SubmitError::IdempotencyConflict);
    }
    let rows =
        query("SELECT id FROM evaluations WHERE tenant = $1 AND idempotency_key = $2 ORDER BY position")
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

/// Takes the key; false where somebody has it. The first of two who come at once gets it, and the
/// other one waits here until the first is done.
async fn remember(
    db: &mut Connection<'_>,
    tenant: &Tenant,
    idempotency: &Idempotency,
    batch: Option<BatchId>,
) -> Result<bool, StoreError> {
    let taken = query(
        "INSERT INTO idempotency_keys (tenant, idempotency_key, fingerprint, batch) VALUES ($1, $2, $3, $4) \
         ON CONFLICT (tenant, idempotency_key) DO NOTHING",
    )
    .bind(tenant.as_str())
    .bind(&idempotency.key)
    .bind(&idempotency.fingerprint[..])
    .bind(batch.map(BatchId::as_uuid))
    .execute(db)
    .await
    .map_err(failed("keeping an idempotency key"))?;
    Ok(taken == 1)
}

async fn insert_batch(
    db: &mut Connection<'_>,
    tenant: &Tenant,
    id: BatchId,
    now: Timestamp,
) -> Result<(), StoreError> {
    query("INSERT INTO batches (tenant, id, created_at) VALUES ($1, $2, $3)")
        .bind(tenant.as_str())
        .bind(id.as_uuid())
        .bind(now.as_micros())
        .execute(db)
        .await
        .map_err(failed("keeping a batch"))?;
    Ok(())
}
