//! Accepting: one evaluation, or a whole batch, or nothing.

use std::collections::{BTreeMap, HashMap, HashSet};

use hood_core::lifecycle::{Evaluation, Queued};
use hood_core::{BatchId, EvaluationId, State, Tenant, Timestamp};
use uuid::Uuid;

use super::{inputs, write_events};
use crate::config::StoreConfig;
use crate::db::{Connection, Row, Rows, query, row};
use crate::error::{StoreError, SubmitError};
use crate::model::{Accepted, Idempotency, NewEvaluation, NewSubmission};
use crate::rows::{corrupt, get, sql_number};
use crate::wake::Signal;
use crate::writer::{Asked, Context, Results, Together, Turn, Waiting, failed};

/// What rows and index entries of one evaluation take beside its documents, about: measured at 1.2 KiB
/// with its whole life, and rounded up.
pub(super) const ROWS_BYTES: usize = 1536;

#[derive(Debug)]
pub(crate) struct Submit {
    pub(crate) tenant: Tenant,
    pub(crate) now: Timestamp,
    pub(crate) submission: NewSubmission,
    /// The blobs that whole requests are in, which are durable.
    pub(crate) inputs: HashMap<EvaluationId, String>,
    pub(crate) config: StoreConfig,
}

/// A key, or an id that is to be new.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) enum Subject {
    Key(Tenant, String),
    Evaluation(EvaluationId),
}

impl Together for Submit {
    type Output = Accepted;
    type Error = SubmitError;
    type Subject = Subject;

    fn turn(&self) -> Turn {
        let key = self.key().map(str::to_owned);
        Turn::Accept { key, evaluations: self.submission.evaluations.len() as u64 }
    }

    fn weight(&self) -> usize {
        self.submission.evaluations.iter().map(bytes).sum()
    }

    fn subjects(&self) -> Vec<Subject> {
        let key = self.key().map(|key| Subject::Key(self.tenant.clone(), key.to_owned()));
        let ids = self.submission.evaluations.iter().map(|new| Subject::Evaluation(new.id));
        key.into_iter().chain(ids).collect()
    }

    async fn run(
        operations: &[&Self],
        db: &mut Connection<'_>,
        context: &mut Context<'_>,
    ) -> Result<Results<Self>, StoreError> {
        let taken = take_keys(db, operations).await?;
        let mut results = Vec::with_capacity(operations.len());
        let mut accepted = Vec::with_capacity(operations.len());
        for operation in operations {
            let result = operation.admit(db, context, &taken).await;
            if let Err(SubmitError::Store(error)) = result {
                return Err(error);
            }
            if matches!(result, Ok(Accepted::New)) {
                accepted.push(*operation);
            }
            results.push(result);
        }
        insert_batches(db, &accepted).await?;
        insert(db, &accepted).await?;
        if !accepted.is_empty() {
            context.signal(Signal::Work);
        }
        Ok(results)
    }

    fn waiting(asked: Box<Asked<Self>>) -> Waiting {
        Waiting::Submit(asked)
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

const LABELS: &str = "INSERT INTO labels (tenant, label_key, label_value, evaluation) VALUES";

pub(super) async fn keep_labels(
    db: &mut Connection<'_>,
    (tenant, id): (&Tenant, EvaluationId),
    labels: &BTreeMap<String, String>,
) -> Result<(), StoreError> {
    let mut rows = Rows::of(LABELS, "");
    for (name, value) in labels {
        rows.push(row![tenant.as_str(), name, value, id.as_uuid()]);
    }
    rows.execute(db).await.map_err(failed("keeping labels")).map(drop)
}

impl Submit {
    fn key(&self) -> Option<&str> {
        self.submission.idempotency.as_ref().map(|idempotency| idempotency.key.as_str())
    }

    /// Whether it is accepted, before anything but its key is written; `taken` are the keys that are new.
    async fn admit(
        &self,
        db: &mut Connection<'_>,
        context: &mut Context<'_>,
        taken: &HashSet<(Tenant, String)>,
    ) -> Result<Accepted, SubmitError> {
        if !self.is_well_formed() {
            return Err(SubmitError::Malformed);
        }
        let NewSubmission { evaluations, idempotency, .. } = &self.submission;
        if let Some(idempotency) = idempotency
            && !taken.contains(&(self.tenant.clone(), idempotency.key.clone()))
        {
            loop {
                if let Some(existing) = existing(db, &self.tenant, idempotency).await? {
                    return Ok(existing);
                }
                // A key that somebody has may be given up before its evaluations are read.
                if !take_keys(db, &[self]).await?.is_empty() {
                    break;
                }
            }
        }
        if let Err(full) = check_room(context, &self.config, (self.weight(), evaluations.len())) {
            if let Some(key) = self.key() {
                give_up(db, &self.tenant, key).await?;
            }
            return Err(full);
        }
        for evaluation in evaluations {
            context.grow(bytes(evaluation));
            context.moved((&self.tenant, evaluation.priority), None, State::Queued);
        }
        Ok(Accepted::New)
    }

    fn is_well_formed(&self) -> bool {
        let NewSubmission { batch, evaluations, .. } = &self.submission;
        evaluations.len() == 1 || (batch.is_some() && !evaluations.is_empty())
    }
}

async fn insert(db: &mut Connection<'_>, accepted: &[&Submit]) -> Result<(), StoreError> {
    let mut rows = Rows::of(
        "INSERT INTO evaluations (tenant, id, state, priority, environment, labels, batch, idempotency_key, \
         position, created_at, queued_at, ready, last_event, attempts, losses_infrastructure, \
         losses_own_death, losses_suspect, lease_token, lease_epoch, callback) VALUES",
        "",
    );
    let mut requests = Rows::of("INSERT INTO requests (tenant, evaluation, document, blob) VALUES", "");
    let mut labels = Rows::of(LABELS, "");
    let (mut steps, mut kept) = (Vec::new(), Vec::new());
    for Submit { tenant, now, submission, inputs, .. } in accepted {
        let step = Evaluation::<Queued>::submit(*now);
        let key = submission.idempotency.as_ref().map(|idempotency| idempotency.key.as_str());
        let (batch, now, zero) = (submission.batch.map(BatchId::as_uuid), now.as_micros(), 0);
        for (position, new) in submission.evaluations.iter().enumerate() {
            let shown = serde_json::to_string(&new.labels).map_err(|error| corrupt(error.to_string()))?;
            let (tenant, id, position) = (tenant.as_str(), new.id.as_uuid(), sql_number(position as u64));
            rows.push(row![
                tenant,
                id,
                step.transition.to().as_str(),
                i64::from(new.priority),
                &new.environment,
                shown,
                batch,
                key,
                position,
                now,
                now,
                1,
                1,
                zero,
                zero,
                zero,
                zero,
                zero,
                zero,
                &new.callback
            ]);
            requests.push(row![tenant, id, &new.request, inputs.get(&new.id)]);
            for (name, value) in &new.labels {
                labels.push(row![tenant, name, value, id]);
            }
        }
        steps.push((tenant, &submission.evaluations, step));
        kept.extend(inputs.values());
    }
    rows.execute(db).await.map_err(failed("accepting evaluations"))?;
    requests.execute(db).await.map_err(failed("keeping requests"))?;
    inputs::keep(db, &kept).await?;
    labels.execute(db).await.map_err(failed("keeping labels"))?;
    let mut events = Vec::new();
    for (tenant, evaluations, step) in &steps {
        events.extend(evaluations.iter().map(|new| (*tenant, new.id, step.transition.event())));
    }
    write_events(db, &events).await
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
    let rows = query(
        "SELECT id, position FROM evaluations WHERE tenant = $1 AND idempotency_key = $2 \
         UNION ALL SELECT evaluation, position FROM archived WHERE tenant = $1 AND idempotency_key = $2 \
         ORDER BY position",
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

/// Takes keys, and tells which were free. The first of two who come at once gets one, and the other
/// waits here until the first is done; everybody takes several in their order.
async fn take_keys(
    db: &mut Connection<'_>,
    operations: &[&Submit],
) -> Result<HashSet<(Tenant, String)>, StoreError> {
    let mut rows = Rows::of(
        "INSERT INTO idempotency_keys (tenant, idempotency_key, fingerprint, batch) VALUES",
        " ON CONFLICT (tenant, idempotency_key) DO NOTHING RETURNING tenant, idempotency_key",
    );
    let mut keyed: Vec<_> = operations
        .iter()
        .filter(|operation| operation.is_well_formed())
        .filter_map(|operation| Some((operation, operation.submission.idempotency.as_ref()?)))
        .collect();
    keyed.sort_by_key(|(_, idempotency)| &idempotency.key);
    for (operation, idempotency) in keyed {
        let batch = operation.submission.batch.map(BatchId::as_uuid);
        rows.push(row![operation.tenant.as_str(), &idempotency.key, &idempotency.fingerprint[..], batch]);
    }
    let taken = rows.fetch_all(db).await.map_err(failed("keeping idempotency keys"))?;
    let key = |row: &Row| Ok((Tenant::new(get::<String>(row, "tenant")?), get(row, "idempotency_key")?));
    taken.iter().map(key).collect()
}

/// Of one that was refused: its key stands for nothing.
async fn give_up(db: &mut Connection<'_>, tenant: &Tenant, key: &str) -> Result<(), StoreError> {
    query("DELETE FROM idempotency_keys WHERE tenant = $1 AND idempotency_key = $2")
        .bind(tenant.as_str())
        .bind(key)
        .execute(db)
        .await
        .map_err(failed("giving an idempotency key up"))
        .map(drop)
}

async fn insert_batches(db: &mut Connection<'_>, accepted: &[&Submit]) -> Result<(), StoreError> {
    let mut rows = Rows::of("INSERT INTO batches (tenant, id, created_at) VALUES", "");
    for Submit { tenant, now, submission, .. } in accepted {
        if let Some(batch) = submission.batch {
            rows.push(row![tenant.as_str(), batch.as_uuid(), now.as_micros()]);
        }
    }
    rows.execute(db).await.map_err(failed("keeping batches")).map(drop)
}
