//! Another life for what infrastructure failed. What has ended stays ended: its request begins again
//! under a new id, and who came of whom is kept.

use std::collections::BTreeMap;

use hood_core::lifecycle::{Evaluation, Queued};
use hood_core::{EvaluationId, State, Tenant, Timestamp, Verdict};

use super::archive;
use super::inputs;
use super::submit::{ROWS_BYTES, check_room, keep_labels};
use super::write_event;
use crate::config::StoreConfig;
use crate::db::{Connection, Row, Value, query};
use crate::error::{StoreError, SubmitError};
use crate::model::Requeued;
use crate::rows::{corrupt, get, number, priority, verdict};
use crate::wake::Signal;
use crate::writer::{Context, Operation, Turn, failed};

#[derive(Debug)]
pub(crate) struct Requeue {
    pub(crate) tenant: Tenant,
    pub(crate) now: Timestamp,
    pub(crate) old: EvaluationId,
    /// The id that it is to have.
    pub(crate) new: EvaluationId,
    /// The blob that its whole request was copied into, where the old one's is in one.
    pub(crate) input: Option<String>,
    pub(crate) config: StoreConfig,
}

impl Operation for Requeue {
    type Output = Requeued;
    type Error = SubmitError;

    fn turn(&self) -> Turn {
        // Whoever takes several takes them in the order of their keys.
        Turn::Accept { key: Some(self.old.to_string()), evaluations: 1 }
    }

    async fn run(self, db: &mut Connection<'_>, context: &mut Context<'_>) -> Result<Requeued, SubmitError> {
        let Some(row) = self.find(db).await? else { return Ok(self.gone(db).await?) };
        if verdict(&row)? != Some(Verdict::InfrastructureError) {
            return Ok(Requeued::NotDead);
        }
        if get::<Option<String>>(&row, "blob")?.is_some() != self.input.is_some() {
            // It had not ended yet when its request was looked for, or had another life already.
            let again = again(db, &self.tenant, self.old).await?;
            return Ok(again.map_or(Requeued::NotDead, Requeued::Already));
        }
        if !self.take(db).await? {
            let again = again(db, &self.tenant, self.old).await?;
            return Ok(again.map_or(Requeued::NotFound, Requeued::Already));
        }
        let bytes = ROWS_BYTES + usize::try_from(number(&row, "bytes")?).unwrap_or(usize::MAX / 4);
        check_room(context, &self.config, (bytes, 1))?;
        let labels: BTreeMap<String, String> = serde_json::from_str(get(&row, "labels")?)
            .map_err(|error| corrupt(format!("labels of {}: {error}", self.old)))?;
        if !self.copy(db).await? {
            self.give_back(db).await?;
            return Ok(self.gone(db).await?);
        }
        let kept: Vec<&String> = self.input.iter().collect();
        inputs::keep(db, &kept).await?;
        keep_labels(db, (&self.tenant, self.new), &labels).await?;
        let step = Evaluation::<Queued>::submit(self.now);
        write_event(db, (&self.tenant, self.new), step.transition.event()).await?;
        context.grow(bytes);
        context.moved((&self.tenant, priority(&row)?), None, State::Queued);
        context.signal(Signal::Work);
        context.signal(Signal::Changed(self.old));
        Ok(Requeued::As(self.new))
    }
}

impl Requeue {
    async fn find(&self, db: &mut Connection<'_>) -> Result<Option<Row>, StoreError> {
        const SQL: &str = "SELECT e.verdict, e.priority, e.labels, CAST(LENGTH(r.document) AS BIGINT) AS bytes, r.blob \
             FROM evaluations e JOIN requests r ON r.tenant = e.tenant AND r.evaluation = e.id \
             WHERE e.tenant = $1 AND e.id = $2";
        let found = query(SQL).bind(self.tenant.as_str()).bind(self.old.as_uuid()).fetch_optional(db).await;
        found.map_err(failed("finding an evaluation"))
    }

    /// The guard of what follows: of all who give this one another life, one does.
    async fn take(&self, db: &mut Connection<'_>) -> Result<bool, StoreError> {
        const SQL: &str = "INSERT INTO requeues (tenant, evaluation, again, requeued_at) \
             VALUES ($1, $2, $3, $4) ON CONFLICT (tenant, evaluation) DO NOTHING";
        let taken = query(SQL)
            .bind(self.tenant.as_str())
            .bind(self.old.as_uuid())
            .bind(self.new.as_uuid())
            .bind(self.now.as_micros())
            .execute(db)
            .await
            .map_err(failed("requeueing an evaluation"))?;
        Ok(taken == 1)
    }

    /// There is no row to copy.
    async fn gone(&self, db: &mut Connection<'_>) -> Result<Requeued, StoreError> {
        if !archive::is_archived(db, (&self.tenant, self.old)).await? {
            return Ok(Requeued::NotFound);
        }
        let again = again(db, &self.tenant, self.old).await?;
        Ok(again.map_or(Requeued::Archived, Requeued::Already))
    }

    async fn give_back(&self, db: &mut Connection<'_>) -> Result<(), StoreError> {
        for (sql, id) in [
            ("DELETE FROM requests WHERE tenant = $1 AND evaluation = $2", self.new),
            ("DELETE FROM requeues WHERE tenant = $1 AND evaluation = $2", self.old),
        ] {
            query(sql)
                .bind(self.tenant.as_str())
                .bind(id.as_uuid())
                .execute(&mut *db)
                .await
                .map_err(failed("requeueing an evaluation"))?;
        }
        Ok(())
    }

    /// Everything that was asked for, and nothing of what came of it. Not the batch, whose counts were
    /// told as final, nor the idempotency key, which stands for the old one. False where the old one was
    /// archived or deleted since it was found.
    async fn copy(&self, db: &mut Connection<'_>) -> Result<bool, StoreError> {
        const ROW: &str = "INSERT INTO evaluations (tenant, id, state, priority, environment, labels, callback, \
             position, created_at, queued_at, ready, last_event, attempts, losses_infrastructure, \
             losses_own_death, losses_suspect, lease_token, lease_epoch) \
             SELECT tenant, $3, 'queued', priority, environment, labels, callback, 0, $4, $4, 1, 1, 0, 0, 0, 0, 0, 0 \
             FROM evaluations WHERE tenant = $1 AND id = $2";
        const REQUEST: &str = "INSERT INTO requests (tenant, evaluation, document, blob) \
             SELECT tenant, $3, document, $4 FROM requests WHERE tenant = $1 AND evaluation = $2";
        let (blob, now) = (Value::from(self.input.as_ref()), Value::from(self.now.as_micros()));
        for (sql, fourth) in [(REQUEST, blob), (ROW, now)] {
            let copy = query(sql).bind(self.tenant.as_str()).bind(self.old.as_uuid());
            let copied = copy
                .bind(self.new.as_uuid())
                .bind(fourth)
                .execute(&mut *db)
                .await
                .map_err(failed("requeueing an evaluation"))?;
            if copied != 1 {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

async fn again(
    db: &mut Connection<'_>,
    tenant: &Tenant,
    old: EvaluationId,
) -> Result<Option<EvaluationId>, StoreError> {
    let row = query("SELECT again FROM requeues WHERE tenant = $1 AND evaluation = $2")
        .bind(tenant.as_str())
        .bind(old.as_uuid())
        .fetch_optional(db)
        .await
        .map_err(failed("reading a requeue"))?;
    row.map(|row| get(&row, "again").map(EvaluationId::from_uuid)).transpose()
}
