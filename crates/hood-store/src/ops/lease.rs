//! Taking evaluations, and keeping them.

use std::time::Duration;

use hood_core::lifecycle::AnyEvaluation;
use hood_core::{EvaluationId, State, Tenant, Timestamp};

use super::write_event;
use crate::db::{Connection, Row, lock_clause};
use crate::error::StoreError;
use crate::model::{Claimed, Lapsed, Lease, Renewed, Tenure};
use crate::rows::{cancel, corrupt, evaluation, get, moment, number, priority, small, sql_number};
use crate::wake::Signal;
use crate::writer::{Context, Operation, failed};

/// Retries whose time has come that one claim moves into the queue: a storm of them must not hold
/// the writer up.
const DUE_MAX: i64 = 1000;

const MOVE_DUE: &str = concat!(
    "WITH c AS MATERIALIZED (SELECT tenant, id FROM evaluations WHERE state = 'queued' AND ready = 0 \
     AND not_before <= $1 ORDER BY not_before LIMIT $2",
    lock_clause!(),
    ") UPDATE evaluations SET ready = 1 FROM c WHERE evaluations.tenant = c.tenant AND evaluations.id = c.id"
);

/// What a claim reads of a row, and its request.
macro_rules! claimed {
    () => {
        "e.tenant, e.id, e.state, e.verdict, e.priority, e.not_before, e.last_event, e.attempts, \
         e.losses_infrastructure, e.losses_own_death, e.losses_suspect, e.lease_token, e.created_at, \
         e.cancel_requested_at, e.cancel_grace_ms, r.document FROM c \
         JOIN evaluations e ON e.tenant = c.tenant AND e.id = c.id \
         JOIN requests r ON r.tenant = c.tenant AND r.evaluation = c.id"
    };
}

const QUEUED: &str = concat!(
    "WITH c AS MATERIALIZED (SELECT tenant, id FROM evaluations WHERE state = 'queued' AND ready = 1 \
     ORDER BY priority DESC, id LIMIT $1",
    lock_clause!(),
    ") SELECT ",
    claimed!(),
    " ORDER BY e.priority DESC, e.id"
);

const EXPIRED: &str = concat!(
    "WITH c AS MATERIALIZED (SELECT tenant, id, lease_expires_at FROM evaluations \
     WHERE lease_expires_at IS NOT NULL AND lease_expires_at <= $1 ORDER BY lease_expires_at LIMIT $2",
    lock_clause!(),
    ") SELECT ",
    claimed!(),
    " ORDER BY c.lease_expires_at"
);

const OF_EARLIER: &str = concat!(
    "WITH c AS MATERIALIZED (SELECT tenant, id, lease_expires_at FROM evaluations \
     WHERE lease_expires_at IS NOT NULL AND lease_epoch < $1 ORDER BY lease_expires_at LIMIT $2",
    lock_clause!(),
    ") SELECT ",
    claimed!(),
    " ORDER BY c.lease_expires_at"
);

/// Takes what is queued and due, the highest priority first and the oldest of it.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(crate) tenure: Tenure,
    pub(crate) limit: u32,
    pub(crate) epoch: u64,
}

impl Operation for Claim {
    type Output = Vec<Claimed>;
    type Error = StoreError;

    async fn run(self, db: &mut Connection, context: &mut Context<'_>) -> Result<Vec<Claimed>, StoreError> {
        sqlx::query(MOVE_DUE)
            .bind(self.tenure.now.as_micros())
            .bind(DUE_MAX)
            .execute(&mut *db)
            .await
            .map_err(failed("looking for what is due"))?;
        let rows = sqlx::query(QUEUED)
            .bind(i64::from(self.limit))
            .fetch_all(&mut *db)
            .await
            .map_err(failed("claiming"))?;
        let mut claimed = Vec::with_capacity(rows.len());
        for row in rows {
            claimed.push(self.take(db, context, &row).await?);
        }
        Ok(claimed)
    }
}

impl Claim {
    async fn take(
        &self,
        db: &mut Connection,
        context: &mut Context<'_>,
        row: &Row,
    ) -> Result<Claimed, StoreError> {
        const TAKE: &str = "UPDATE evaluations SET state = $5, attempts = $6, last_event = $7, leased_at = $8, \
             started_at = NULL, not_before = NULL, ready = 0, worker = $9, lease_token = $10, \
             lease_expires_at = $11, lease_epoch = $12 \
             WHERE tenant = $1 AND id = $2 AND lease_token = $3 AND last_event = $4";
        let AnyEvaluation::Queued(queued) = evaluation(row)? else {
            return Err(corrupt("claimed, and not queued"));
        };
        let step = queued.lease(self.tenure.now);
        let lease = lease(row, step.evaluation.attempt(), self.tenure.until())?;
        let taken = sqlx::query(TAKE)
            .bind(lease.tenant.as_str())
            .bind(lease.evaluation.as_uuid())
            .bind(sql_number(lease.token - 1))
            .bind(sql_number(queued.history().last_event))
            .bind(step.transition.to().as_str())
            .bind(i64::from(lease.attempt))
            .bind(sql_number(step.transition.event().number))
            .bind(self.tenure.now.as_micros())
            .bind(&self.tenure.worker)
            .bind(sql_number(lease.token))
            .bind(lease.expires_at.as_micros())
            .bind(sql_number(self.epoch))
            .execute(&mut *db)
            .await
            .map_err(failed("taking a lease"))?;
        if taken.rows_affected() != 1 {
            return Err(corrupt("a claimed row was not there"));
        }
        write_event(db, (&lease.tenant, lease.evaluation), step.transition.event()).await?;
        begin_attempt(db, &lease, self.tenure.now).await?;
        context.moved((&lease.tenant, priority(row)?), Some(State::Queued), State::Provisioning);
        context.signal(Signal::Changed(lease.evaluation));
        claimed(row, lease, AnyEvaluation::Provisioning(step.evaluation))
    }
}

fn lease(row: &Row, attempt: u32, expires_at: Timestamp) -> Result<Lease, StoreError> {
    Ok(Lease {
        tenant: Tenant::new(get::<String>(row, "tenant")?),
        evaluation: EvaluationId::from_uuid(get(row, "id")?),
        token: number(row, "lease_token")? + 1,
        attempt,
        expires_at,
    })
}

fn claimed(row: &Row, lease: Lease, evaluation: AnyEvaluation) -> Result<Claimed, StoreError> {
    Ok(Claimed {
        evaluation,
        request: get(row, "document")?,
        cancel: cancel(row)?,
        created_at: moment(row, "created_at")?,
        lease,
    })
}

async fn begin_attempt(db: &mut Connection, lease: &Lease, at: Timestamp) -> Result<(), StoreError> {
    const SQL: &str = "INSERT INTO attempts \
         (tenant, evaluation, number, leased_at, stdout_bytes, stderr_bytes, output_cut) \
         VALUES ($1, $2, $3, $4, 0, 0, 0)";
    sqlx::query(SQL)
        .bind(lease.tenant.as_str())
        .bind(lease.evaluation.as_uuid())
        .bind(i64::from(lease.attempt))
        .bind(at.as_micros())
        .execute(db)
        .await
        .map_err(failed("beginning an attempt"))
        .map(drop)
}

/// Takes over leases that lapsed, for the same attempt and with a higher token.
#[derive(Debug)]
pub(crate) struct Reclaim {
    pub(crate) tenure: Tenure,
    pub(crate) limit: u32,
    pub(crate) which: Lapsed,
    /// What this opening of the store has leased itself is no predecessor's.
    pub(crate) epoch: u64,
}

impl Operation for Reclaim {
    type Output = Vec<Claimed>;
    type Error = StoreError;

    async fn run(self, db: &mut Connection, _context: &mut Context<'_>) -> Result<Vec<Claimed>, StoreError> {
        let (sql, bound) = match self.which {
            Lapsed::Expired => (EXPIRED, self.tenure.now.as_micros()),
            Lapsed::All => (OF_EARLIER, sql_number(self.epoch)),
        };
        let rows = sqlx::query(sql)
            .bind(bound)
            .bind(i64::from(self.limit))
            .fetch_all(&mut *db)
            .await
            .map_err(failed("looking for lapsed leases"))?;
        let mut taken = Vec::with_capacity(rows.len());
        for row in rows {
            taken.push(self.take_over(db, &row).await?);
        }
        Ok(taken)
    }
}

impl Reclaim {
    async fn take_over(&self, db: &mut Connection, row: &Row) -> Result<Claimed, StoreError> {
        const SQL: &str = "UPDATE evaluations SET worker = $4, lease_token = $5, lease_expires_at = $6, \
             lease_epoch = $7 WHERE tenant = $1 AND id = $2 AND lease_token = $3 \
             AND lease_expires_at IS NOT NULL";
        let lease = lease(row, small(row, "attempts")?, self.tenure.until())?;
        let taken = sqlx::query(SQL)
            .bind(lease.tenant.as_str())
            .bind(lease.evaluation.as_uuid())
            .bind(sql_number(lease.token - 1))
            .bind(&self.tenure.worker)
            .bind(sql_number(lease.token))
            .bind(lease.expires_at.as_micros())
            .bind(sql_number(self.epoch))
            .execute(db)
            .await
            .map_err(failed("taking a lease over"))?;
        if taken.rows_affected() != 1 {
            return Err(corrupt("a lapsed lease was not there"));
        }
        let evaluation = evaluation(row)?;
        claimed(row, lease, evaluation)
    }
}

/// Keeps leases for another while, and tells what was asked of each meanwhile.
#[derive(Debug)]
pub(crate) struct Renew {
    pub(crate) leases: Vec<Lease>,
    pub(crate) now: Timestamp,
    pub(crate) ttl: Duration,
}

impl Operation for Renew {
    type Output = Vec<Renewed>;
    type Error = StoreError;

    async fn run(self, db: &mut Connection, _context: &mut Context<'_>) -> Result<Vec<Renewed>, StoreError> {
        // One that lapsed and that nobody took over is still this worker's to keep.
        const SQL: &str = "UPDATE evaluations SET lease_expires_at = $5 \
             WHERE tenant = $1 AND id = $2 AND lease_token = $3 AND attempts = $4 \
             AND lease_expires_at IS NOT NULL RETURNING cancel_requested_at, cancel_grace_ms";
        let expires_at = self.now.after(self.ttl).as_micros();
        let mut renewed = Vec::with_capacity(self.leases.len());
        for lease in &self.leases {
            let row = sqlx::query(SQL)
                .bind(lease.tenant.as_str())
                .bind(lease.evaluation.as_uuid())
                .bind(sql_number(lease.token))
                .bind(i64::from(lease.attempt))
                .bind(expires_at)
                .fetch_optional(&mut *db)
                .await
                .map_err(failed("renewing a lease"))?;
            renewed.push(match row {
                Some(row) => Renewed::Held { cancel: cancel(&row)? },
                None => Renewed::Lost,
            });
        }
        Ok(renewed)
    }
}

#[cfg(test)]
mod tests {
    //! White box: what the engine plans to do, since a queue of a million must cost what a queue of
    //! ten costs, and a clock cannot show that on a busy machine.

    use super::*;
    use crate::testing::{memory, plan};

    #[tokio::test]
    async fn a_claim_walks_the_queue_in_its_order_and_sorts_nothing_of_it() {
        let mut db = memory().await;
        let plan = plan(&mut db, QUEUED).await;
        assert!(
            plan.contains("SCAN evaluations USING COVERING INDEX evaluations_ready")
                || plan.contains("SCAN evaluations USING INDEX evaluations_ready"),
            "{plan}"
        );
        let inner = plan.split("SCAN c").next().unwrap_or_default();
        assert!(!inner.contains("TEMP B-TREE"), "{plan}");
    }

    #[tokio::test]
    async fn nothing_looks_through_a_whole_table() {
        let mut db = memory().await;
        for sql in [QUEUED, MOVE_DUE, EXPIRED, OF_EARLIER] {
            let plan = plan(&mut db, sql).await;
            for line in plan.lines().filter(|line| line.starts_with("SCAN") && *line != "SCAN c") {
                assert!(line.contains("INDEX"), "{line} in\n{plan}");
            }
        }
    }
}
