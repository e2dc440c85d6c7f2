//! Taking evaluations, and keeping them.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::Duration;

use hood_core::lifecycle::{AnyEvaluation, History};
use hood_core::{EvaluationId, State, Tenant, Timestamp, Transition};
use uuid::Uuid;

use super::{Told, write_events};
use crate::db::{Connection, Locking, Row, Rows, locking, query, row};
use crate::error::StoreError;
use crate::model::{Claimed, Lapsed, Lease, Renewed, Tenure};
use crate::rows::{cancel, corrupt, evaluation, get, history, moment, number, priority, small, sql_number};
use crate::wake::Signal;
use crate::writer::{Context, Operation, Turn, failed};

/// Retries whose time has come that one claim moves into the queue: a storm of them must not hold
/// the writer up.
const DUE_MAX: i64 = 1000;

pub(super) const MOVE_DUE: Locking = locking!(
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
            ") SELECT c.*, r.document, r.blob FROM c \
             LEFT JOIN requests r ON r.tenant = c.tenant AND r.evaluation = c.id ORDER BY ",
            $order
        )
    };
}

/// Takes many in one statement. Where others claim too, what they have locked is passed over.
pub(super) const TAKE: Locking = locking!(
    "WITH c AS MATERIALIZED (SELECT tenant, id FROM evaluations WHERE state = 'queued' AND ready = 1 \
     ORDER BY priority DESC, id LIMIT $1",
    ") UPDATE evaluations SET state = 'provisioning', attempts = attempts + 1, last_event = last_event + 1, \
     leased_at = $2, started_at = NULL, not_before = NULL, ready = 0, worker = $3, \
     lease_token = lease_token + 1, lease_expires_at = $4, lease_epoch = $5 \
     FROM c WHERE evaluations.tenant = c.tenant AND evaluations.id = c.id \
     RETURNING evaluations.tenant, evaluations.id, priority, last_event, attempts, losses_infrastructure, \
     losses_own_death, losses_suspect, lease_token, created_at, cancel_requested_at, cancel_grace_ms"
);

pub(super) const EXPIRED: Locking = locking!(
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
        let mut rows = query(TAKE)
            .bind(i64::from(self.limit))
            .bind(self.tenure.now.as_micros())
            .bind(&self.tenure.worker)
            .bind(self.tenure.until().as_micros())
            .bind(sql_number(self.epoch))
            .fetch_all(&mut *db)
            .await
            .map_err(failed("claiming"))?;
        // In what order they are given back, no database promises.
        rows.sort_by_cached_key(|row| (priority(row).ok().map(Reverse), get::<Uuid>(row, "id").ok()));
        let mut requests = requests(db, &rows).await?;
        let taken = rows.iter().map(|row| self.taken(row, &mut requests)).collect::<Result<Vec<_>, _>>()?;
        let events: Vec<Told<'_>> =
            taken.iter().map(|(claimed, _, begun)| told(&claimed.lease, begun)).collect();
        write_events(db, &events).await?;
        begin_attempts(db, taken.iter().map(|(claimed, ..)| &claimed.lease), self.tenure.now).await?;
        for (claimed, priority, _) in &taken {
            context.moved((&claimed.lease.tenant, *priority), Some(State::Queued), State::Provisioning);
            context.signal(Signal::Changed(claimed.lease.evaluation));
        }
        Ok(taken.into_iter().map(|(claimed, ..)| claimed).collect())
    }
}

impl Claim {
    /// What was taken, its priority, and the transition that this was: the core's, which the row must agree
    /// with.
    fn taken(
        &self,
        row: &Row,
        requests: &mut HashMap<EvaluationId, Asked>,
    ) -> Result<(Claimed, u8, Transition), StoreError> {
        let after = history(row)?;
        let before = History {
            last_event: after.last_event.saturating_sub(1),
            attempts: after.attempts.saturating_sub(1),
            ..after
        };
        let Some(AnyEvaluation::Queued(queued)) = AnyEvaluation::restore(State::Queued, before, None, None)
        else {
            return Err(corrupt("claimed, and not queued"));
        };
        let step = queued.lease(self.tenure.now);
        if *step.evaluation.history() != after {
            return Err(corrupt("a claim left a row that does not follow from what it was"));
        }
        let lease = Lease {
            tenant: Tenant::new(get::<String>(row, "tenant")?),
            evaluation: EvaluationId::from_uuid(get(row, "id")?),
            token: number(row, "lease_token")?,
            attempt: after.attempts,
            expires_at: self.tenure.until(),
        };
        let asked = requests.remove(&lease.evaluation);
        // One without a request is run by nobody and ends as what cannot be read: it must not stop the others.
        let (request, input) = asked.unwrap_or_default();
        let claimed = Claimed {
            request,
            input,
            evaluation: AnyEvaluation::Provisioning(step.evaluation),
            cancel: cancel(row)?,
            created_at: moment(row, "created_at")?,
            lease,
        };
        Ok((claimed, priority(row)?, step.transition))
    }
}

fn told<'a>(lease: &'a Lease, begun: &'a Transition) -> Told<'a> {
    (&lease.tenant, lease.evaluation, begun.event())
}

/// What was asked for, or the blob that it is in.
type Asked = (String, Option<String>);

async fn requests(
    db: &mut Connection<'_>,
    taken: &[Row],
) -> Result<HashMap<EvaluationId, Asked>, StoreError> {
    let mut rows = Rows::of(REQUESTS.0, REQUESTS.1);
    for row in taken {
        rows.push(row![get::<String>(row, "tenant")?, get::<Uuid>(row, "id")?]);
    }
    let requests = rows.fetch_all(db).await.map_err(failed("reading requests"))?;
    let request = |row: &Row| {
        let id = EvaluationId::from_uuid(get(row, "evaluation")?);
        Ok((id, (get(row, "document")?, get(row, "blob")?)))
    };
    requests.iter().map(request).collect()
}

pub(super) const REQUESTS: (&str, &str) = (
    "WITH v (tenant, evaluation) AS (VALUES",
    ") SELECT r.evaluation, r.document, r.blob FROM v CROSS JOIN requests r \
     WHERE r.tenant = v.tenant AND r.evaluation = v.evaluation",
);

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
        request: get::<Option<String>>(row, "document")?.unwrap_or_default(),
        input: get(row, "blob")?,
        cancel: cancel(row)?,
        created_at: moment(row, "created_at")?,
        lease,
    })
}

async fn begin_attempts(
    db: &mut Connection<'_>,
    leases: impl Iterator<Item = &Lease>,
    at: Timestamp,
) -> Result<(), StoreError> {
    let mut rows = Rows::of(
        "INSERT INTO attempts (tenant, evaluation, number, leased_at, stdout_bytes, stderr_bytes, output_cut) VALUES",
        "",
    );
    for lease in leases {
        let (tenant, id, attempt) = (lease.tenant.as_str(), lease.evaluation.as_uuid(), lease.attempt);
        rows.push(row![tenant, id, i64::from(attempt), at.as_micros(), 0, 0, 0]);
    }
    rows.execute(db).await.map_err(failed("beginning attempts")).map(drop)
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
             AND COALESCE(lease_expires_at, 0) > 0";
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

// One that lapsed and that nobody took over is still this worker's to keep.
pub(super) const RENEW: &str = "UPDATE evaluations SET lease_expires_at = $5 \
     WHERE tenant = $1 AND id = $2 AND lease_token = $3 AND attempts = $4 \
     AND COALESCE(lease_expires_at, 0) > 0 RETURNING cancel_requested_at, cancel_grace_ms";

impl Operation for Renew {
    type Output = Vec<Renewed>;
    type Error = StoreError;

    async fn run(
        self,
        db: &mut Connection<'_>,
        _context: &mut Context<'_>,
    ) -> Result<Vec<Renewed>, StoreError> {
        let expires_at = self.now.after(self.ttl).as_micros();
        let mut renewed = vec![Renewed::Lost; self.leases.len()];
        // In one order whoever renews, so that two cannot wait for each other's rows in a circle.
        let mut in_order: Vec<(usize, &Lease)> = self.leases.iter().enumerate().collect();
        in_order.sort_by_key(|(_, lease)| lease.evaluation);
        for (i, lease) in in_order {
            let row = query(RENEW)
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
        let plan = plan(&mut db, TAKE.sqlite).await;
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
        for sql in [TAKE, MOVE_DUE, EXPIRED, OF_EARLIER] {
            let plan = plan(&mut db, sql.sqlite).await;
            for line in plan.lines().filter(|line| line.starts_with("SCAN") && *line != "SCAN c") {
                assert!(line.contains("INDEX"), "{line} in\n{plan}");
            }
        }
    }
}
