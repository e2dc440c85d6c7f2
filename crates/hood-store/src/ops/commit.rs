//! What a lease's holder writes: transitions, output, the attempt's facts and the result, all of it
//! in one transaction or none of it.

use hood_core::lifecycle::{AnyEvaluation, History};
use hood_core::{EventKind, State, Timestamp, Transition, Verdict};

use super::output::{append, settle};
use super::{deliver, write_event, write_result};
use crate::db::{Connection, Row, query};
use crate::error::{CommitError, StoreError};
use crate::model::{Commit, Lease};
use crate::read;
use crate::rows::{corrupt, evaluation, get, number, priority, sql_number};
use crate::wake::Signal;
use crate::writer::{Context, Operation, Turn, failed};

#[derive(Debug)]
pub(crate) struct Write {
    pub(crate) lease: Lease,
    pub(crate) commit: Commit,
    /// Bytes beyond which output is cut, so that results always find room.
    pub(crate) storage_bytes: u64,
}

impl Operation for Write {
    type Output = ();
    type Error = CommitError;

    fn turn(&self) -> Turn {
        Turn::Row(self.lease.evaluation.as_uuid())
    }

    fn weight(&self) -> usize {
        self.commit.output.iter().map(|chunk| chunk.bytes.len()).sum()
    }

    async fn run(self, db: &mut Connection<'_>, context: &mut Context<'_>) -> Result<(), CommitError> {
        let Some(row) = self.hold(db).await? else { return self.check_repeated(db).await };
        let before = evaluation(&row)?;
        let fresh = self.fresh(db, before.history()).await?;
        self.check(before, fresh)?;
        let key = (&self.lease.tenant, self.lease.evaluation);
        append(db, context, (&self.lease, self.storage_bytes), &self.commit.output).await?;
        let steps = Steps::of(fresh);
        self.write_attempt(db, &steps).await?;
        if let Some(last) = fresh.last() {
            for transition in fresh {
                write_event(db, key, transition.event()).await?;
            }
            self.write_row(db, before.history().last_event, (last, &steps)).await?;
            context.moved((&self.lease.tenant, priority(&row)?), Some(before.state()), last.to());
        }
        if let Some(ended_at) = steps.ended_at {
            settle(db, &self.lease, ended_at).await?;
        }
        if steps.queued_at.is_some() {
            context.signal(Signal::Work);
        }
        if let Some(result) = &self.commit.result {
            write_result(db, context, key, result).await?;
            if let (Some(last), Some(_)) = (fresh.last(), get::<Option<String>>(&row, "callback")?) {
                deliver::note(db, context, key, last.event()).await?;
            }
        }
        context.signal(Signal::Changed(self.lease.evaluation));
        Ok(())
    }
}

/// What transitions say of times, for the columns.
#[derive(Default)]
struct Steps {
    started_at: Option<Timestamp>,
    /// Back in the queue then.
    queued_at: Option<Timestamp>,
    not_before: Option<Timestamp>,
    verdict: Option<Verdict>,
    finished_at: Option<Timestamp>,
    /// The attempt is over then, whichever way.
    ended_at: Option<Timestamp>,
}

impl Steps {
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

impl Write {
    /// The guard of everything that follows: exactly one row, if this lease holds it, and then
    /// nobody else's until the end of the transaction.
    async fn hold(&self, db: &mut Connection<'_>) -> Result<Option<Row>, StoreError> {
        const SQL: &str = "UPDATE evaluations SET environment_digest = COALESCE($5, environment_digest) \
             WHERE tenant = $1 AND id = $2 AND lease_token = $3 AND attempts = $4 \
             AND lease_expires_at IS NOT NULL \
             RETURNING state, verdict, priority, not_before, last_event, attempts, losses_infrastructure, \
             losses_own_death, losses_suspect, callback";
        query(SQL)
            .bind(self.lease.tenant.as_str())
            .bind(self.lease.evaluation.as_uuid())
            .bind(sql_number(self.lease.token))
            .bind(i64::from(self.lease.attempt))
            .bind(&self.commit.environment_digest)
            .fetch_optional(db)
            .await
            .map_err(failed("checking a lease"))
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

    async fn write_row(
        &self,
        db: &mut Connection<'_>,
        last_event: u64,
        (last, steps): (&Transition, &Steps),
    ) -> Result<(), StoreError> {
        // One that is to be cancelled need not wait for a retry that it will not make.
        const SQL: &str = "UPDATE evaluations SET state = $5, verdict = $6, last_event = $7, \
             losses_infrastructure = $8, losses_own_death = $9, losses_suspect = $10, \
             started_at = COALESCE($11, started_at), finished_at = $12, not_before = $13, \
             queued_at = COALESCE($14, queued_at), \
             ready = CASE WHEN $14 IS NOT NULL AND cancel_requested_at IS NOT NULL THEN 1 ELSE 0 END, \
             lease_expires_at = CASE WHEN $15 IS NULL THEN lease_expires_at ELSE NULL END \
             WHERE tenant = $1 AND id = $2 AND lease_token = $3 AND last_event = $4";
        let (event, losses) = (last.event(), last.after().losses);
        let micros = |at: Option<Timestamp>| at.map(Timestamp::as_micros);
        let changed = query(SQL)
            .bind(self.lease.tenant.as_str())
            .bind(self.lease.evaluation.as_uuid())
            .bind(sql_number(self.lease.token))
            .bind(sql_number(last_event))
            .bind(last.to().as_str())
            .bind(steps.verdict.map(Verdict::as_str))
            .bind(sql_number(event.number))
            .bind(i64::from(losses.infrastructure))
            .bind(i64::from(losses.own_death))
            .bind(i64::from(losses.suspect))
            .bind(micros(steps.started_at))
            .bind(micros(steps.finished_at))
            .bind(micros(steps.not_before))
            .bind(micros(steps.queued_at))
            .bind(micros(steps.ended_at))
            .execute(db)
            .await
            .map_err(failed("writing a transition"))?;
        if changed != 1 {
            return Err(corrupt(format!("{} changed under its own transaction", self.lease.evaluation)));
        }
        Ok(())
    }

    async fn write_attempt(&self, db: &mut Connection<'_>, steps: &Steps) -> Result<(), StoreError> {
        const SQL: &str = "UPDATE attempts SET decision = COALESCE($4, decision), lost = COALESCE($5, lost), \
             started_at = COALESCE($6, started_at), ended_at = COALESCE($7, ended_at) \
             WHERE tenant = $1 AND evaluation = $2 AND number = $3";
        let Commit { decision, lost, .. } = &self.commit;
        if decision.is_none() && lost.is_none() && steps.started_at.is_none() && steps.ended_at.is_none() {
            return Ok(());
        }
        let changed = query(SQL)
            .bind(self.lease.tenant.as_str())
            .bind(self.lease.evaluation.as_uuid())
            .bind(i64::from(self.lease.attempt))
            .bind(decision)
            .bind(lost)
            .bind(steps.started_at.map(Timestamp::as_micros))
            .bind(steps.ended_at.map(Timestamp::as_micros))
            .execute(db)
            .await
            .map_err(failed("writing an attempt"))?;
        if changed != 1 {
            return Err(corrupt(format!("an attempt of {} has no row", self.lease.evaluation)));
        }
        Ok(())
    }
}
