//! What leases' holders write: transitions, output, the attempt's facts and the result, all of it
//! in one transaction or none of it. Those of many are weighed first, each against its own row, and then
//! written together.

pub(super) mod record;

use std::collections::HashMap;

use hood_core::lifecycle::{AnyEvaluation, History};
use hood_core::{EvaluationId, EventKind, State, Tenant, Timestamp, Transition, Verdict};

use super::output::{self, Grown, Stored};
use crate::db::{Connection, Row, Rows, query, row};
use crate::error::{CommitError, StoreError};
use crate::model::{Commit, Lease};
use crate::read;
use crate::rows::{evaluation, get, number, priority, sql_number};
use crate::writer::{Asked, Context, Results, Together, Turn, Waiting, failed};

#[derive(Debug)]
pub(crate) struct Write {
    pub(crate) lease: Lease,
    pub(crate) commit: Commit,
    /// Bytes beyond which output is cut, so that results always find room.
    pub(crate) storage_bytes: u64,
}

impl Together for Write {
    type Output = ();
    type Error = CommitError;
    /// Each sees the row as the one before it left it.
    type Subject = (Tenant, EvaluationId);

    fn turn(&self) -> Turn {
        Turn::Row(self.lease.evaluation.as_uuid())
    }

    fn weight(&self) -> usize {
        self.commit.output.iter().map(|chunk| chunk.bytes.len()).sum()
    }

    fn subjects(&self) -> Vec<Self::Subject> {
        vec![(self.lease.tenant.clone(), self.lease.evaluation)]
    }

    async fn run(
        operations: &[&Self],
        db: &mut Connection<'_>,
        context: &mut Context<'_>,
    ) -> Result<Results<Self>, StoreError> {
        let leases: Vec<&Lease> = operations.iter().map(|write| &write.lease).collect();
        let mut held = hold(db, &leases).await?;
        let with_output = operations.iter().filter(|write| write.has_output());
        let mut stored = output::measure(db, with_output.map(|write| &write.lease)).await?;
        let (mut results, mut steps) = (Vec::with_capacity(operations.len()), Vec::new());
        for write in operations {
            let id = write.lease.evaluation;
            let result = match held.remove(&id) {
                None => write.check_repeated(db).await.map(|()| None),
                Some(row) => write.weigh(db, context, (&row, stored.remove(&id))).await.map(Some),
            };
            match result {
                Ok(step) => {
                    steps.extend(step);
                    results.push(Ok(()));
                }
                Err(CommitError::Store(error)) => return Err(error),
                Err(refused) => results.push(Err(refused)),
            }
        }
        record::write(db, context, steps).await?;
        Ok(results)
    }

    fn waiting(asked: Box<Asked<Self>>) -> Waiting {
        Waiting::Write(asked)
    }
}

/// What one commit comes to, once nothing speaks against it.
#[derive(Debug)]
pub(super) struct Step<'w> {
    pub(super) write: &'w Write,
    pub(super) before: AnyEvaluation,
    pub(super) fresh: &'w [Transition],
    pub(super) times: Times,
    pub(super) output: Option<Grown>,
    pub(super) priority: u8,
    /// Somebody wants to be told of the end.
    pub(super) callback: bool,
}

/// What transitions say of times, for the columns.
#[derive(Debug, Default)]
pub(super) struct Times {
    pub(super) started_at: Option<Timestamp>,
    /// Back in the queue then.
    pub(super) queued_at: Option<Timestamp>,
    pub(super) not_before: Option<Timestamp>,
    pub(super) verdict: Option<Verdict>,
    pub(super) finished_at: Option<Timestamp>,
    /// The attempt is over then, whichever way.
    pub(super) ended_at: Option<Timestamp>,
}

impl Times {
    fn of(transitions: &[Transition]) -> Self {
        let mut steps = Self::default();
        for event in transitions.iter().map(Transition::event) {
            match event.kind {
                EventKind::Started { .. } => steps.started_at = Some(event.at),
                EventKind::RetryScheduled { not_before, .. } => {
                    (steps.queued_at, steps.ended_at) = (Some(event.at), Some(event.at));
                    steps.not_before = Some(not_before);
                }
                EventKind::Finished { verdict } => {
                    (steps.finished_at, steps.ended_at) = (Some(event.at), Some(event.at));
                    steps.verdict = Some(verdict);
                }
                EventKind::Submitted | EventKind::AttemptStarted { .. } => {}
            }
        }
        steps
    }
}

/// The guard of everything that follows: the rows that these leases hold, which then are nobody else's
/// until the end of the transaction. They are waited for in one order, whoever writes.
///
/// That a lease is there is asked in words that no partial index has: one that was empty when it was
/// counted looks cheaper than the key, and is read whole, for each row.
async fn hold(db: &mut Connection<'_>, leases: &[&Lease]) -> Result<HashMap<EvaluationId, Row>, StoreError> {
    let mut rows = Rows::of(HOLD.0, HOLD.1).locking(HOLD.2);
    for lease in leases {
        let (tenant, id) = (lease.tenant.as_str(), lease.evaluation.as_uuid());
        rows.push(row![tenant, id, sql_number(lease.token), i64::from(lease.attempt)]);
    }
    let held = rows.fetch_all(db).await.map_err(failed("checking leases"))?;
    held.into_iter().map(|row| Ok((EvaluationId::from_uuid(get(&row, "id")?), row))).collect()
}

pub(super) const HOLD: (&str, &str, &str) = (
    "WITH v (tenant, id, token, attempt) AS (VALUES",
    ") SELECT e.id, e.state, e.verdict, e.priority, e.not_before, e.last_event, e.attempts, \
     e.losses_infrastructure, e.losses_own_death, e.losses_suspect, e.callback \
     FROM v CROSS JOIN evaluations e WHERE e.tenant = v.tenant AND e.id = v.id AND e.lease_token = v.token \
     AND e.attempts = v.attempt AND COALESCE(e.lease_expires_at, 0) > 0 ORDER BY e.id",
    " FOR UPDATE OF e",
);

impl Write {
    /// Whether something is to be known of what is stored of its output.
    fn has_output(&self) -> bool {
        !self.commit.output.is_empty() || Times::of(&self.commit.transitions).ended_at.is_some()
    }

    /// What it comes to, if the row allows it. Nothing is written.
    async fn weigh(
        &self,
        db: &mut Connection<'_>,
        context: &mut Context<'_>,
        (row, stored): (&Row, Option<Stored>),
    ) -> Result<Step<'_>, CommitError> {
        let before = evaluation(row)?;
        let fresh = self.fresh(db, before.history()).await?;
        self.check(before, fresh)?;
        let output = stored.map(|stored| stored.grow(self, context)).transpose()?;
        let callback = get::<Option<&str>>(row, "callback")?.is_some();
        let (times, priority) = (Times::of(fresh), priority(row)?);
        Ok(Step { write: self, before, fresh, times, output, priority, callback })
    }

    /// Nobody holds it with this lease. If that is because of this very commit, whose answer was not
    /// heard, it stands as it was written.
    async fn check_repeated(&self, db: &mut Connection<'_>) -> Result<(), CommitError> {
        const SQL: &str = "SELECT last_event FROM evaluations \
             WHERE tenant = $1 AND id = $2 AND lease_token = $3 AND attempts = $4";
        let row = query(SQL)
            .bind(self.lease.tenant.as_str())
            .bind(self.lease.evaluation.as_uuid())
            .bind(sql_number(self.lease.token))
            .bind(i64::from(self.lease.attempt))
            .fetch_optional(&mut *db)
            .await
            .map_err(failed("checking a lease"))?
            .ok_or(CommitError::StaleLease)?;
        let last_event = number(&row, "last_event")?;
        match self.commit.transitions.last() {
            Some(last) if last.event().number <= last_event => self.check_known(db, last_event).await,
            _ => Err(CommitError::StaleLease),
        }
    }

    /// The transitions that are not in the log yet. Those that are must be in it word for word.
    async fn fresh(&self, db: &mut Connection<'_>, history: &History) -> Result<&[Transition], CommitError> {
        let last_event = history.last_event;
        if self.commit.transitions.first().is_some_and(|first| first.event().number <= last_event) {
            self.check_known(db, last_event).await?;
        }
        let known = self.commit.transitions.iter().take_while(|t| t.event().number <= last_event).count();
        Ok(&self.commit.transitions[known..])
    }

    async fn check_known(&self, db: &mut Connection<'_>, last_event: u64) -> Result<(), CommitError> {
        let known = self.commit.transitions.iter().filter(|t| t.event().number <= last_event);
        for transition in known {
            let (event, lease) = (transition.event(), &self.lease);
            let after = event.number.saturating_sub(1);
            let logged = read::log(db, (&lease.tenant, lease.evaluation), after, 1).await?;
            if logged.first() != Some(event) {
                return Err(self.out_of_order(transition, last_event));
            }
        }
        Ok(())
    }

    /// Whether the core would have it so: each step follows from the one before, the attempt's end is
    /// the last, and a result comes with the evaluation's.
    fn check(&self, before: AnyEvaluation, fresh: &[Transition]) -> Result<(), CommitError> {
        let mut reached = before;
        for transition in fresh {
            let begins = matches!(transition.event().kind, EventKind::AttemptStarted { .. });
            let last_event = reached.history().last_event;
            let held = matches!(reached.state(), State::Provisioning | State::Running);
            if begins || !held || reached.apply(transition.event()).is_err() {
                return Err(self.out_of_order(transition, last_event));
            }
        }
        if reached.state().is_terminal() != self.commit.result.is_some() {
            return Err(CommitError::Unpaired { evaluation: self.lease.evaluation });
        }
        Ok(())
    }

    fn out_of_order(&self, transition: &Transition, last_event: u64) -> CommitError {
        let number = transition.event().number;
        CommitError::OutOfOrder { evaluation: self.lease.evaluation, number, last_event }
    }
}
