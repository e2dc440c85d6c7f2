//! Taking evaluations, and keeping them.

use std::time::Duration;

use hood_core::lifecycle::AnyEvaluation;
use hood_core::{EvaluationId, State, Tenant, Timestamp};

use super::write_event;
use crate::db::{Connection, Locking, Row, locking, query};
use crate::error::StoreError;
use crate::model::{Claimed, Lapsed, Lease, Renewed, Tenure};
use crate::rows::{cancel, corrupt, evaluation, get, moment, number, priority, small, sql_number};
use crate::wake::Signal;
use crate::writer::{Context, Operation, Turn, failed};

/// Retries whose time has come that one claim moves into the queue: a storm of them must not hold
/// the writer up.
const DUE_MAX: i64 = 1000;

const MOVE_DUE: Locking = locking!(
    "WITH c AS MATERIALIZED (SELECT tenant, id FROM evaluations WHERE state = 'queued' AND ready = 0 \
     AND not_before <= $1 ORDER BY not_before LIMIT $2",
    ") UPDATE evaluations SET ready = 1 FROM c WHERE evaluations.tenant = c.tenant AND evaluations.id = c.id"
);

/// What a claim reads of a row, of the version that it locked.
macro_rules! locked {
    () => {
        "tenant, id, state, verdict, priority, not_before, last_event, attempts, losses_infrastructure, \
         losses_own_death, losses_suspect, lease_token, lease_expires_at, created_at, cancel_requested_at, \
         cancel_grace_ms"
    };
}

/// The rest, beside the request, which never changes.
macro_rules! with_request {
    ($order:literal) => {
        concat!(
            ") SELECT c.*, r.document FROM c \
             JOIN requests r ON r.tenant = c.tenant AND r.evaluation = c.id ORDER BY ",
            $order
        )
    };
}

const QUEUED: Locking = locking!(
    concat!(
        "WITH c AS MATERIALIZED (SELECT ",
        locked!(),
        " FROM evaluations WHERE state = 'queued' AND ready = 1 ORDER BY priority DESC, id LIMIT $1"
    ),
    with_request!("c.priority DESC, c.id")
);

const EXPIRED: Locking = locking!(
    concat!(
        "WITH c AS MATERIALIZED (SELECT ",
        locked!(),
        " FROM evaluations WHERE lease_expires_at IS NOT NULL AND lease_expires_at <= $1 \
         ORDER BY lease_expires_at LIMIT $2"
    ),
    with_request!("c.lease_expires_at")
);

const OF_EARLIER: Locking = locking!(
    concat!(
        "WITH c AS MATERIALIZED (SELECT ",
        locked!(),
        " FROM evaluations WHERE lease_expires_at IS NOT NULL AND lease_epoch < $1 \
         ORDER BY lease_expires_at LIMIT $2"
    ),
    with_request!("c.lease_expires_at")
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

    fn turn(&self) -> Turn {
        Turn::Sweep
    }

    async fn run(
        self,
        db: &mut Connection<'_>,
        context: &mut Context<'_>,
    ) -> Result<Vec<Claimed>, StoreError> {
        query(MOVE_DUE)
            .bind(self.tenure.now.as_micros())
            .bind(DUE_MAX)
            .execute(&mut *db)
            .await
            .map_err(failed("looking for what is due"))?;
        let rows = query(QUEUED)
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
        db: &mut Connection<'_>,
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
        let taken = query(TAKE)
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
        if taken != 1 {
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

async fn begin_attempt(db: &mut Connection<'_>, lease: &Lease, at: Timestamp) -> Result<(), StoreError> {
    const SQL: &str = "INSERT INTO attempts \
         (tenant, evaluation, number, leased_at, stdout_bytes, stderr_bytes, output_cut) \
         VALUES ($1, $2, $3, $4, 0, 0, 0)";
    query(SQL)
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

    fn turn(&self) -> Turn {
        Turn::Sweep
    }

    async fn run(
        self,
        db: &mut Connection<'_>,
        _context: &mut Context<'_>,
    ) -> Result<Vec<Claimed>, StoreError> {
        let (sql, bound) = match self.which {
            // Where several processes write nobody's opening says anything of another's leases.
            Lapsed::All if !db.is_shared() => (OF_EARLIER, sql_number(self.epoch)),
            Lapsed::Expired | Lapsed::All => (EXPIRED, self.tenure.now.as_micros()),
        };
        let rows = query(sql)
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
    async fn take_over(&self, db: &mut Connection<'_>, row: &Row) -> Result<Claimed, StoreError> {
        const SQL: &str = "UPDATE evaluations SET worker = $4, lease_token = $5, lease_expires_at = $6, \
             lease_epoch = $7 WHERE tenant = $1 AND id = $2 AND lease_token = $3 \
             AND lease_expires_at IS NOT NULL";
        let lease = lease(row, small(row, "attempts")?, self.tenure.until())?;
        let taken = query(SQL)
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
        if taken != 1 {
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

    async fn run(
        self,
        db: &mut Connection<'_>,
        _context: &mut Context<'_>,
    ) -> Result<Vec<Renewed>, StoreError> {
        // One that lapsed and that nobody took over is still this worker's to keep.
        const SQL: &str = "UPDATE evaluations SET lease_expires_at = $5 \
             WHERE tenant = $1 AND id = $2 AND lease_token = $3 AND attempts = $4 \
             AND lease_expires_at IS NOT NULL RETURNING cancel_requested_at, cancel_grace_ms";
        let expires_at = self.now.after(self.ttl).as_micros();
        let mut renewed = vec![Renewed::Lost; self.leases.len()];
        // In one order whoever renews, so that two cannot wait for each other's rows in a circle.
        let mut in_order: Vec<(usize, &Lease)> = self.leases.iter().enumerate().collect();
        in_order.sort_by_key(|(_, lease)| lease.evaluation);
        for (i, lease) in in_order {
            let row = query(SQL)
                .bind(lease.tenant.as_str())
                .bind(lease.evaluation.as_uuid())
                .bind(sql_number(lease.token))
                .bind(i64::from(lease.attempt))
                .bind(expires_at)
                .fetch_optional(&mut *db)
                .await
                .map_err(failed("renewing a lease"))?;
            if let Some(row) = row {
                renewed[i] = Renewed::Held { cancel: cancel(&row)? };
            }
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
        let plan = plan(&mut db, QUEUED.sqlite).await;
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
            let plan = plan(&mut db, sql.sqlite).await;
            for line in plan.lines().filter(|line| line.starts_with("SCAN") && *line != "SCAN c") {
                assert!(line.contains("INDEX"), "{line} in\n{plan}");
            }
        }
    }
}
