//! Taking evaluations, and keeping them.

use std::time::Duration;

use hood_core::lifecycle::AnyEvaluation;
use hood_core::{EvaluationId, State, Tenant, Timestamp, Transition};
use sqlx::SqliteConnection;
use sqlx::sqlite::SqliteRow;

use super::{move_depth, write_event};
use crate::error::StoreError;
use crate::model::{Claimed, Lapsed, Lease, Renewed, Tenure};
use crate::rows::{cancel, corrupt, evaluation, get, moment, number, small, sql_number};
use crate::wake::Signal;
use crate::writer::{Context, Operation, failed};

/// What a claim reads of a row.
const CLAIMED: &str = "e.tenant, e.id, e.state, e.verdict, e.priority, e.not_before, e.last_event, e.attempts, \
     e.losses_infrastructure, e.losses_own_death, e.losses_suspect, e.lease_token, e.created_at, \
     e.cancel_requested_at, e.cancel_grace_ms, r.document";

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

    async fn run(self, db: &mut SqliteConnection, context: &mut Context) -> Result<Vec<Claimed>, StoreError> {
        self.claim(db, context).await
    }
}

impl Claim {
    async fn claim(
        self,
        db: &mut SqliteConnection,
        context: &mut Context,
    ) -> Result<Vec<Claimed>, StoreError> {
        sqlx::query(
            "UPDATE evaluations SET ready = 1 WHERE state = 'queued' AND ready = 0 AND not_before <= $1",
        )
        .bind(self.tenure.now.as_micros())
        .execute(&mut *db)
        .await
        .map_err(failed("looking for what is due"))?;
        let query = format!(
            "WITH c AS MATERIALIZED (SELECT tenant, id FROM evaluations WHERE state = 'queued' AND ready = 1 \
             ORDER BY priority DESC, id LIMIT $1) \
             SELECT {CLAIMED} FROM c JOIN evaluations e ON e.tenant = c.tenant AND e.id = c.id \
             JOIN requests r ON r.tenant = c.tenant AND r.evaluation = c.id ORDER BY e.priority DESC, e.id"
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(query))
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

    async fn take(
        &self,
        db: &mut SqliteConnection,
        context: &mut Context,
        row: &SqliteRow,
    ) -> Result<Claimed, StoreError> {
        let AnyEvaluation::Queued(queued) = evaluation(row)? else {
            return Err(corrupt("claimed, and not queued"));
        };
        let step = queued.lease(self.tenure.now);
        let lease = lease(row, step.evaluation.attempt(), self.tenure.until())?;
        let taken = sqlx::query(
            "UPDATE evaluations SET state = $3, attempts = $4, last_event = $5, leased_at = $6, started_at = NULL, \
             not_before = NULL, worker = $7, lease_token = $8, lease_expires_at = $9, lease_epoch = $10 \
             WHERE tenant = $1 AND id = $2 AND state = 'queued'",
        )
        .bind(lease.tenant.as_str())
        .bind(lease.evaluation.as_uuid())
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
        write_event(db, &lease.tenant, lease.evaluation, &step.transition).await?;
        begin_attempt(db, &lease, &step.transition).await?;
        let priority = u8::try_from(number(row, "priority")?).map_err(|_| corrupt("priority"))?;
        move_depth(db, &lease.tenant, priority, Some(State::Queued), State::Provisioning).await?;
        context.signals.insert(Signal::Changed(lease.evaluation));
        Ok(Claimed {
            evaluation: AnyEvaluation::Provisioning(step.evaluation),
            request: get(row, "document")?,
            cancel: cancel(row)?,
            created_at: moment(row, "created_at")?,
            lease,
        })
    }
}

fn lease(row: &SqliteRow, attempt: u32, expires_at: Timestamp) -> Result<Lease, StoreError> {
    Ok(Lease {
        tenant: Tenant::new(get::<String>(row, "tenant")?),
        evaluation: EvaluationId::from_uuid(get(row, "id")?),
        token: number(row, "lease_token")? + 1,
        attempt,
        expires_at,
    })
}

async fn begin_attempt(
    db: &mut SqliteConnection,
    lease: &Lease,
    transition: &Transition,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO attempts (tenant, evaluation, number, leased_at, stdout_bytes, stderr_bytes, output_cut) \
         VALUES ($1, $2, $3, $4, 0, 0, 0)",
    )
    .bind(lease.tenant.as_str())
    .bind(lease.evaluation.as_uuid())
    .bind(i64::from(lease.attempt))
    .bind(transition.event().at.as_micros())
    .execute(db)
    .await
    .map_err(failed("beginning an attempt"))?;
    Ok(())
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

    async fn run(
        self,
        db: &mut SqliteConnection,
        _context: &mut Context,
    ) -> Result<Vec<Claimed>, StoreError> {
        self.reclaim(db).await
    }
}

impl Reclaim {
    async fn reclaim(self, db: &mut SqliteConnection) -> Result<Vec<Claimed>, StoreError> {
        let query = format!(
            "SELECT {CLAIMED} FROM evaluations e JOIN requests r ON r.tenant = e.tenant AND r.evaluation = e.id \
             WHERE e.lease_expires_at IS NOT NULL AND (e.lease_expires_at <= $1 OR ($2 = 1 AND e.lease_epoch <> $3)) \
             ORDER BY e.lease_expires_at LIMIT $4"
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(query))
            .bind(self.tenure.now.as_micros())
            .bind(i64::from(self.which == Lapsed::All))
            .bind(sql_number(self.epoch))
            .bind(i64::from(self.limit))
            .fetch_all(&mut *db)
            .await
            .map_err(failed("looking for lapsed leases"))?;
        let mut claimed = Vec::with_capacity(rows.len());
        for row in rows {
            let lease = lease(&row, small(&row, "attempts")?, self.tenure.until())?;
            let taken = sqlx::query(
                "UPDATE evaluations SET worker = $3, lease_token = $4, lease_expires_at = $5, lease_epoch = $6 \
                 WHERE tenant = $1 AND id = $2 AND lease_token = $4 - 1",
            )
            .bind(lease.tenant.as_str())
            .bind(lease.evaluation.as_uuid())
            .bind(&self.tenure.worker)
            .bind(sql_number(lease.token))
            .bind(lease.expires_at.as_micros())
            .bind(sql_number(self.epoch))
            .execute(&mut *db)
            .await
            .map_err(failed("taking a lease over"))?;
            if taken.rows_affected() != 1 {
                return Err(corrupt("a lapsed lease was not there"));
            }
            claimed.push(Claimed {
                evaluation: evaluation(&row)?,
                request: get(&row, "document")?,
                cancel: cancel(&row)?,
                created_at: moment(&row, "created_at")?,
                lease,
            });
        }
        Ok(claimed)
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
        db: &mut SqliteConnection,
        _context: &mut Context,
    ) -> Result<Vec<Renewed>, StoreError> {
        self.renew(db).await
    }
}

impl Renew {
    async fn renew(self, db: &mut SqliteConnection) -> Result<Vec<Renewed>, StoreError> {
        let expires_at = self.now.after(self.ttl).as_micros();
        let mut renewed = Vec::with_capacity(self.leases.len());
        for lease in &self.leases {
            // One that lapsed and that nobody took over is still this worker's to keep.
            let row = sqlx::query(
                "UPDATE evaluations SET lease_expires_at = $5 \
                 WHERE tenant = $1 AND id = $2 AND lease_token = $3 AND attempts = $4 \
                 AND lease_expires_at IS NOT NULL RETURNING cancel_requested_at, cancel_grace_ms",
            )
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
