//! What was weighed and found good, written down for many at once.

use hood_core::{Timestamp, Verdict};

use super::{Step, Write};
use crate::db::{Connection, Rows, row};
use crate::error::StoreError;
use crate::ops::{deliver, output, write_events, write_results};
use crate::rows::{corrupt, sql_number};
use crate::wake::Signal;
use crate::writer::{Context, failed};

pub(super) async fn write(
    db: &mut Connection<'_>,
    context: &mut Context<'_>,
    steps: Vec<Step<'_>>,
) -> Result<(), StoreError> {
    output::append(db, steps.iter().filter_map(|step| Some((&step.write.lease, step.output.as_ref()?))))
        .await?;
    attempts(db, &steps).await?;
    let mut events = Vec::new();
    for Step { write: Write { lease, .. }, fresh, .. } in &steps {
        events.extend(fresh.iter().map(|transition| (&lease.tenant, lease.evaluation, transition.event())));
    }
    write_events(db, &events).await?;
    evaluations(db, &steps).await?;
    for step in &steps {
        let lease = &step.write.lease;
        if let (Some(ended_at), Some(grown)) = (step.times.ended_at, &step.output) {
            output::settle(db, lease, (grown, ended_at)).await?;
        }
        if let Some(last) = step.fresh.last() {
            context.moved((&lease.tenant, step.priority), Some(step.before.state()), last.to());
        }
        if step.times.queued_at.is_some() {
            context.signal(Signal::Work);
        }
        context.signal(Signal::Changed(lease.evaluation));
    }
    let results = steps.iter().filter_map(|step| {
        let lease = &step.write.lease;
        Some((&lease.tenant, lease.evaluation, step.write.commit.result.as_deref()?))
    });
    write_results(db, context, results).await?;
    for step in steps.iter().filter(|step| step.callback && step.write.commit.result.is_some()) {
        let lease = &step.write.lease;
        if let Some(last) = step.fresh.last() {
            deliver::note(db, context, (&lease.tenant, lease.evaluation), last.event()).await?;
        }
    }
    Ok(())
}

fn micros(at: Option<Timestamp>) -> Option<i64> {
    at.map(Timestamp::as_micros)
}

/// The lease's token is asked for once more: a row that is not this lease's is not written.
async fn evaluations(db: &mut Connection<'_>, steps: &[Step<'_>]) -> Result<(), StoreError> {
    let mut rows = Rows::of(EVALUATIONS.0, EVALUATIONS.1);
    for step in steps {
        let (lease, commit, times) = (&step.write.lease, &step.write.commit, &step.times);
        if step.fresh.is_empty() && commit.environment_digest.is_none() {
            continue;
        }
        let (state, after) = match step.fresh.last() {
            Some(last) => (last.to(), last.after()),
            None => (step.before.state(), step.before.history()),
        };
        rows.push(row![
            lease.tenant.as_str(),
            lease.evaluation.as_uuid(),
            sql_number(lease.token),
            sql_number(step.before.history().last_event),
            state.as_str(),
            times.verdict.map(Verdict::as_str),
            sql_number(after.last_event),
            i64::from(after.losses.infrastructure),
            i64::from(after.losses.own_death),
            i64::from(after.losses.suspect),
            micros(times.started_at),
            micros(times.finished_at),
            micros(times.not_before),
            micros(times.queued_at),
            micros(times.ended_at),
            &commit.environment_digest,
        ]);
    }
    let expected = rows.len() as u64;
    let changed = rows.execute(db).await.map_err(failed("writing transitions"))?;
    if changed != expected {
        return Err(corrupt(format!("{expected} held rows were to change, and {changed} did")));
    }
    Ok(())
}

// One that is to be cancelled need not wait for a retry that it will not make.
pub(crate) const EVALUATIONS: (&str, &str) = (
    "WITH v (tenant, id, token, last_event, to_state, to_verdict, to_event, infrastructure, own_death, suspect, \
     started, finished, waits, queued, ended, digest) AS (VALUES",
    ") UPDATE evaluations SET state = v.to_state, verdict = v.to_verdict, last_event = v.to_event, \
     losses_infrastructure = v.infrastructure, losses_own_death = v.own_death, losses_suspect = v.suspect, \
     started_at = COALESCE(v.started, evaluations.started_at), finished_at = v.finished, not_before = v.waits, \
     queued_at = COALESCE(v.queued, evaluations.queued_at), \
     ready = CASE WHEN v.queued IS NOT NULL AND evaluations.cancel_requested_at IS NOT NULL THEN 1 ELSE 0 END, \
     lease_expires_at = CASE WHEN v.ended IS NULL THEN evaluations.lease_expires_at ELSE NULL END, \
     environment_digest = COALESCE(v.digest, evaluations.environment_digest) \
     FROM v WHERE evaluations.tenant = v.tenant AND evaluations.id = v.id \
     AND evaluations.lease_token = v.token AND evaluations.last_event = v.last_event",
);

async fn attempts(db: &mut Connection<'_>, steps: &[Step<'_>]) -> Result<(), StoreError> {
    let mut rows = Rows::of(ATTEMPTS.0, ATTEMPTS.1);
    for step in steps {
        let (lease, commit, times) = (&step.write.lease, &step.write.commit, &step.times);
        let grown = step.output.as_ref().filter(|grown| grown.changed());
        let known = commit.decision.is_some() || commit.lost.is_some();
        if !known && grown.is_none() && times.started_at.is_none() && times.ended_at.is_none() {
            continue;
        }
        rows.push(row![
            lease.tenant.as_str(),
            lease.evaluation.as_uuid(),
            i64::from(lease.attempt),
            &commit.decision,
            &commit.lost,
            micros(times.started_at),
            micros(times.ended_at),
            grown.map(|grown| sql_number(grown.after.stdout)),
            grown.map(|grown| sql_number(grown.after.stderr)),
            grown.map(|grown| sql_number(grown.after.build)),
            grown.map(|grown| i64::from(grown.after.cut)),
        ]);
    }
    let expected = rows.len() as u64;
    let changed = rows.execute(db).await.map_err(failed("writing attempts"))?;
    if changed != expected {
        return Err(corrupt(format!("{expected} attempts were to change, and {changed} have rows")));
    }
    Ok(())
}

pub(crate) const ATTEMPTS: (&str, &str) = (
    "WITH v (tenant, evaluation, number, decision, lost, started, ended, stdout, stderr, build, cut) AS \
     (VALUES",
    ") UPDATE attempts SET decision = COALESCE(v.decision, attempts.decision), \
     lost = COALESCE(v.lost, attempts.lost), started_at = COALESCE(v.started, attempts.started_at), \
     ended_at = COALESCE(v.ended, attempts.ended_at), \
     stdout_bytes = COALESCE(v.stdout, attempts.stdout_bytes), \
     stderr_bytes = COALESCE(v.stderr, attempts.stderr_bytes), build_bytes = COALESCE(v.build, attempts.build_bytes), \
     output_cut = COALESCE(v.cut, attempts.output_cut) \
     FROM v WHERE attempts.tenant = v.tenant AND attempts.evaluation = v.evaluation \
     AND attempts.number = v.number",
);
