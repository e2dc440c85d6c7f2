//! What must hold when all is over.

use hood_core::lifecycle::{AnyEvaluation, Evaluation, Queued};
use hood_core::outcome::Stream;
use hood_core::{Event, EventKind, Verdict};
use hood_dispatch::AttemptKey;

use super::{Expected, Rule, Violation};
use crate::history::Ending;

pub(super) fn check(
    ending: &Ending,
    cancel_asked: bool,
    expected: &dyn Expected,
    found: &mut Vec<Violation>,
) {
    let id = ending.record.id;
    let mut report = |rule, what: String| found.push(Violation { rule, what: format!("{id}: {what}") });
    check_log(ending, &mut report);
    check_retries(ending, expected, &mut report);
    check_output(ending, expected, &mut report);
    check_verdict(ending, cancel_asked, expected, &mut report);
}

type Report<'r> = dyn FnMut(Rule, String) + 'r;

fn check_log(Ending { record, events, .. }: &Ending, report: &mut Report<'_>) {
    let ends = events.iter().filter(|event| event.kind.state().is_terminal()).count();
    if ends != 1 || !record.state.is_terminal() {
        report(Rule::EndsOnce, format!("{ends} ends, and it is {}", record.state.as_str()));
    }
    if record.result.is_some() != record.state.is_terminal() {
        report(Rule::EndsOnce, "a result is there if and only if it has ended".to_owned());
    }
    match replay(events) {
        Ok(replayed) => {
            let (now, log) = (record.history, replayed.history());
            if replayed.state() != record.state
                || (now.last_event, now.attempts) != (log.last_event, log.attempts)
            {
                report(Rule::Gapless, format!("{replayed:?} by its log, {:?} by its record", record.summary));
            }
        }
        Err(what) => report(Rule::Gapless, what),
    }
}

fn replay(events: &[Event]) -> Result<AnyEvaluation, String> {
    let Some((first, rest)) = events.split_first() else { return Err("no events".to_owned()) };
    if (first.number, first.kind) != (1, EventKind::Submitted) {
        return Err(format!("it begins with {first:?}"));
    }
    let mut reached = AnyEvaluation::Queued(Evaluation::<Queued>::submit(first.at).evaluation);
    for event in rest {
        reached.apply(event).map_err(|why| format!("{event:?} of {events:?}: {why:?}"))?;
    }
    Ok(reached)
}

fn check_retries(Ending { record, .. }: &Ending, expected: &dyn Expected, report: &mut Report<'_>) {
    let (policy, losses) = (expected.retry(), record.history.losses);
    let bounded = losses.infrastructure <= policy.infrastructure_attempts
        && losses.own_death <= policy.own_death_attempts
        && losses.suspect <= policy.suspect_retries + 1;
    let over = record.attempts.iter().filter_map(|attempt| attempt.lost.as_deref());
    let (put_off, lost): (Vec<_>, Vec<_>) = over.partition(|why| was_put_off(why));
    let (put_off, lost) = (put_off.len(), lost.len());
    if !bounded || lost != losses.total() as usize {
        report(Rule::BoundedRetries, format!("{lost} attempts were lost, and {losses:?} counted"));
    }
    // Each attempt is lost or put off, or the last one; more than one that is neither was requeued for nothing.
    let attempts = record.attempts.len();
    if attempts > lost + put_off + 1 {
        let what = format!("{attempts} attempts of which {lost} were lost and {put_off} put off");
        report(Rule::BoundedRetries, what);
    }
}

/// Nothing was tried: no place could take it.
fn was_put_off(why: &str) -> bool {
    serde_json::from_str::<hood_wire::api::Lost>(why).is_ok_and(|lost| lost.kind == "refused")
}

fn check_output(Ending { record, output, .. }: &Ending, expected: &dyn Expected, report: &mut Report<'_>) {
    for (attempt, streams) in record.attempts.iter().zip(output) {
        let key = AttemptKey { evaluation: record.id, attempt: attempt.number };
        for (stream, stored) in Stream::PROGRAM.into_iter().zip(streams) {
            if *stored != expected.printed(key, stream, stored.len() as u64) {
                let what =
                    format!("{} of attempt {} is not what was printed", stream.as_str(), attempt.number);
                report(Rule::ExactOutput, what);
            }
        }
    }
}

fn check_verdict(
    Ending { record, output, .. }: &Ending,
    cancel_asked: bool,
    expected: &dyn Expected,
    report: &mut Report<'_>,
) {
    let Some(verdict) = record.verdict else { return };
    let exhausted = !expected.retry().allows(record.history.losses);
    match verdict {
        Verdict::Cancelled if !cancel_asked => {
            report(Rule::TrueVerdict, "cancelled, and nobody asked".to_owned())
        }
        Verdict::InfrastructureError if !exhausted && !record.attempts.is_empty() && !gave_up(record) => {
            report(Rule::TrueVerdict, format!("given up on after {:?}", record.history.losses));
        }
        Verdict::Succeeded | Verdict::Failed => {
            let Some(whole) = expected.whole(record) else {
                return report(Rule::TrueVerdict, format!("{}: it cannot end by itself", verdict.as_str()));
            };
            if (verdict == Verdict::Succeeded) != (whole.exit == 0) {
                report(
                    Rule::TrueVerdict,
                    format!("{}, and its exit code was {}", verdict.as_str(), whole.exit),
                );
            }
            let stored = output.last().map(|[out, err]| (out.len() as u64, err.len() as u64));
            if stored != Some((whole.stdout, whole.stderr)) {
                report(Rule::ExactOutput, format!("{stored:?} bytes of {whole:?} are stored"));
            }
        }
        _ => {}
    }
}

/// It waited in the queue for longer than anybody should.
fn gave_up(record: &hood_store::Record) -> bool {
    record.result.as_deref().is_some_and(|result| result.contains("queue_ttl"))
}
