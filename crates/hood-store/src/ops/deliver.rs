//! What is to be told of ends: noted in the transaction of the end, claimed and settled by whoever
//! sends.

use std::collections::BTreeMap;

use hood_core::{BatchId, EvaluationId, Event, EventKind, Tenant, Timestamp, Verdict};
use uuid::Uuid;

use crate::db::{Connection, Row, locking, query};
use crate::error::{FindError, StoreError};
use crate::model::{Delivery, DeliveryId, DeliveryState, Settled, Tenure};
use crate::rows::{corrupt, get, moment, number, small, sql_number, time, verdict};
use crate::wake::Signal;
use crate::writer::{Context, Operation, Turn, failed};

/// Notes that an end is to be told, with all that is to be told of it.
pub(super) async fn note(
    db: &mut Connection<'_>,
    context: &mut Context<'_>,
    (tenant, id): (&Tenant, EvaluationId),
    event: &Event,
) -> Result<(), StoreError> {
    const SQL: &str = "INSERT INTO deliveries (tenant, evaluation, event, url, state, token, tries, due_at, \
         created_at, outcome, verdict, attempts, labels, batch, accepted_at, leased_at, ready_at, result) \
         SELECT e.tenant, e.id, $3, e.callback, 'pending', 0, 0, $4, $4, e.state, e.verdict, e.attempts, \
         e.labels, e.batch, e.created_at, e.leased_at, e.started_at, s.document FROM evaluations e \
         JOIN results s ON s.tenant = e.tenant AND s.evaluation = e.id WHERE e.tenant = $1 AND e.id = $2";
    if !matches!(event.kind, EventKind::Finished { .. }) {
        return Ok(());
    }
    let noted = query(SQL)
        .bind(tenant.as_str())
        .bind(id.as_uuid())
        .bind(sql_number(event.number))
        .bind(event.at.as_micros())
        .execute(db)
        .await
        .map_err(failed("noting a delivery"))?;
    if noted != 1 {
        return Err(corrupt(format!("the end of {id} has no row to tell of")));
    }
    context.signal(Signal::Deliveries);
    Ok(())
}

/// Takes what is due, the longest due first: nobody else gets it before the tenure's time is over.
#[derive(Debug)]
pub(crate) struct ClaimDeliveries {
    pub(crate) tenure: Tenure,
    pub(crate) limit: u32,
}

const CLAIM: crate::db::Locking = locking!(
    "WITH c AS MATERIALIZED (SELECT tenant, evaluation, event FROM deliveries WHERE state = 'pending' \
     AND due_at <= $1 ORDER BY due_at LIMIT $2",
    ") UPDATE deliveries SET due_at = $3, token = token + 1 FROM c WHERE deliveries.tenant = c.tenant \
     AND deliveries.evaluation = c.evaluation AND deliveries.event = c.event \
     RETURNING deliveries.tenant, deliveries.evaluation, deliveries.event, url, created_at, verdict, attempts, \
     labels, batch, accepted_at, leased_at, ready_at, result, tries, token"
);

impl Operation for ClaimDeliveries {
    type Output = Vec<Delivery>;
    type Error = StoreError;

    fn turn(&self) -> Turn {
        Turn::Sweep
    }

    async fn run(self, db: &mut Connection<'_>, _: &mut Context<'_>) -> Result<Vec<Delivery>, StoreError> {
        let rows = query(CLAIM)
            .bind(self.tenure.now.as_micros())
            .bind(i64::from(self.limit))
            .bind(self.tenure.until().as_micros())
            .fetch_all(db)
            .await
            .map_err(failed("claiming deliveries"))?;
        rows.iter().map(delivery).collect()
    }
}

fn delivery(row: &Row) -> Result<Delivery, StoreError> {
    let labels: BTreeMap<String, String> = serde_json::from_str(get(row, "labels")?)
        .map_err(|error| corrupt(format!("labels of a delivery: {error}")))?;
    Ok(Delivery {
        id: id(row)?,
        url: get(row, "url")?,
        created_at: moment(row, "created_at")?,
        verdict: verdict(row)?.unwrap_or(Verdict::InfrastructureError),
        attempts: small(row, "attempts")?,
        labels,
        batch: get::<Option<Uuid>>(row, "batch")?.map(BatchId::from_uuid),
        accepted_at: moment(row, "accepted_at")?,
        leased_at: time(row, "leased_at")?,
        ready_at: time(row, "ready_at")?,
        result: get(row, "result")?,
        tries: small(row, "tries")?,
        token: number(row, "token")?,
    })
}

pub(crate) fn id(row: &Row) -> Result<DeliveryId, StoreError> {
    Ok(DeliveryId {
        tenant: Tenant::new(get::<String>(row, "tenant")?),
        evaluation: EvaluationId::from_uuid(get(row, "evaluation")?),
        event: number(row, "event")?,
    })
}

/// Writes down what came of a claim. False where it is another's by now.
#[derive(Debug)]
pub(crate) struct SettleDelivery {
    pub(crate) id: DeliveryId,
    pub(crate) token: u64,
    pub(crate) settled: Settled,
}

impl Operation for SettleDelivery {
    type Output = bool;
    type Error = StoreError;

    fn turn(&self) -> Turn {
        Turn::Row(self.id.evaluation.as_uuid())
    }

    async fn run(self, db: &mut Connection<'_>, _: &mut Context<'_>) -> Result<bool, StoreError> {
        const SQL: &str = "UPDATE deliveries SET state = $5, tries = tries + $6, due_at = COALESCE($7, due_at), \
             settled_at = $8, last_status = COALESCE($9, last_status), \
             last_reason = CASE WHEN $6 = 0 THEN last_reason ELSE $10 END \
             WHERE tenant = $1 AND evaluation = $2 AND event = $3 AND token = $4 AND state = 'pending'";
        let micros = |at: Timestamp| Some(at.as_micros());
        let (state, tries, due_at, settled_at, status, reason) = match self.settled {
            Settled::Delivered { at, status } => {
                (DeliveryState::Delivered, 1, None, micros(at), Some(status), None)
            }
            Settled::Failed { due_at, status, reason } => {
                (DeliveryState::Pending, 1, micros(due_at), None, status, Some(reason))
            }
            Settled::Dead { at, status, reason } => {
                (DeliveryState::Dead, 1, None, micros(at), status, Some(reason))
            }
            Settled::Postponed { due_at } => (DeliveryState::Pending, 0, micros(due_at), None, None, None),
        };
        let changed = query(SQL)
            .bind(self.id.tenant.as_str())
            .bind(self.id.evaluation.as_uuid())
            .bind(sql_number(self.id.event))
            .bind(sql_number(self.token))
            .bind(state.as_str())
            .bind(tries)
            .bind(due_at)
            .bind(settled_at)
            .bind(status.map(i64::from))
            .bind(reason)
            .execute(db)
            .await
            .map_err(failed("settling a delivery"))?;
        Ok(changed == 1)
    }
}

/// Sends it once more from the beginning, whatever came of it before.
#[derive(Debug)]
pub(crate) struct Redeliver {
    pub(crate) id: DeliveryId,
    pub(crate) now: Timestamp,
}

impl Operation for Redeliver {
    type Output = ();
    type Error = FindError;

    fn turn(&self) -> Turn {
        Turn::Row(self.id.evaluation.as_uuid())
    }

    async fn run(self, db: &mut Connection<'_>, context: &mut Context<'_>) -> Result<(), FindError> {
        const SQL: &str = "UPDATE deliveries SET state = 'pending', tries = 0, due_at = $4, settled_at = NULL \
             WHERE tenant = $1 AND evaluation = $2 AND event = $3";
        let changed = query(SQL)
            .bind(self.id.tenant.as_str())
            .bind(self.id.evaluation.as_uuid())
            .bind(sql_number(self.id.event))
            .bind(self.now.as_micros())
            .execute(db)
            .await
            .map_err(failed("delivering again"))?;
        if changed != 1 {
            return Err(FindError::NotFound);
        }
        context.signal(Signal::Deliveries);
        Ok(())
    }
}
