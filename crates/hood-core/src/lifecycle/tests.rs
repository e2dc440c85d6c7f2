//! White box: scripted steps, then random deliveries against the invariants.

use proptest::prelude::*;

use super::*;

const T0: Timestamp = Timestamp::from_micros(1_000_000);
const POLICY: RetryPolicy = RetryPolicy::DEFAULT;

#[test]
fn the_straight_way_numbers_its_events_without_a_gap() {
    let queued = Evaluation::submit(T0);
    let provisioning = queued.evaluation.lease(T0);
    let running = provisioning.evaluation.start(T0);
    let ended = running.evaluation.end(T0, Verdict::Succeeded);
    let numbers = [queued.transition, provisioning.transition, running.transition, ended.transition]
        .map(|transition| (transition.event().number, transition.to().as_str()));
    assert_eq!(numbers, [(1, "queued"), (2, "provisioning"), (3, "running"), (4, "succeeded")]);
}

#[test]
fn a_suspect_attempt_is_retried_once_and_alone() {
    let first = Evaluation::submit(T0).evaluation.lease(T0).evaluation.start(T0).evaluation;
    let AfterLoss::Retried(step) = first.lose(T0, &POLICY, 0.5) else { panic!("retried once") };
    assert!(step.evaluation.alone());
    assert!(step.evaluation.stage().not_before.expect("backs off") > T0);
    let second = step.evaluation.lease(T0).evaluation.start(T0).evaluation;
    assert_eq!(second.attempt(), 2);
    let AfterLoss::Final(end) = second.lose(T0, &POLICY, 0.5) else { panic!("final the second time") };
    assert_eq!(end.evaluation.stage().verdict, Verdict::InfrastructureError);
    assert_eq!(end.transition.after().losses.suspect, 2);
}

#[test]
fn infrastructure_gets_five_attempts() {
    let mut queued = Evaluation::submit(T0).evaluation;
    for attempt in 1..=5 {
        let provisioning = queued.lease(T0).evaluation;
        assert_eq!(provisioning.attempt(), attempt);
        match provisioning.lose(T0, Loss::Infrastructure, &POLICY, 0.0) {
            AfterLoss::Retried(step) if attempt < 5 => queued = step.evaluation,
            AfterLoss::Final(_) if attempt == 5 => return,
            other => panic!("attempt {attempt}: {other:?}"),
        }
    }
}

#[test]
fn what_is_put_off_has_lost_nothing_however_often() {
    let mut queued = Evaluation::submit(T0).evaluation;
    for attempt in 1..=100 {
        let later = T0.after(std::time::Duration::from_secs(attempt));
        let step = queued.lease(T0).evaluation.put_off(T0, later);
        assert_eq!(step.transition.after().losses, Losses::default());
        assert_eq!(step.evaluation.stage().not_before, Some(later));
        queued = step.evaluation;
    }
    assert_eq!(queued.history().attempts, 100);
}

#[test]
fn contradicting_columns_are_no_evaluation() {
    let history = *Evaluation::submit(T0).evaluation.history();
    assert!(AnyEvaluation::restore(State::Queued, history, None, Some(Verdict::Failed)).is_none());
    assert!(AnyEvaluation::restore(State::Succeeded, history, None, Some(Verdict::Failed)).is_none());
    assert!(AnyEvaluation::restore(State::Failed, history, None, None).is_none());
    assert!(AnyEvaluation::restore(State::Failed, history, None, Some(Verdict::TimedOut)).is_some());
}

/// A whole life and its log, driven by dice.
fn life(choices: &[u8]) -> Vec<Event> {
    let submitted = Evaluation::submit(T0);
    let mut log = vec![*submitted.transition.event()];
    let mut now = AnyEvaluation::Queued(submitted.evaluation);
    for choice in choices {
        let (next, transition) = match (now, choice % 4) {
            (AnyEvaluation::Queued(e), 0) => {
                let step = e.end(T0, QueueEnd::Cancelled);
                (AnyEvaluation::Ended(step.evaluation), step.transition)
            }
            (AnyEvaluation::Queued(e), _) => {
                let step = e.lease(T0);
                (AnyEvaluation::Provisioning(step.evaluation), step.transition)
            }
            (AnyEvaluation::Provisioning(e), 0) => after(e.lose(T0, Loss::OwnDeath, &POLICY, 0.1)),
            (AnyEvaluation::Provisioning(e), _) => {
                let step = e.start(T0);
                (AnyEvaluation::Running(step.evaluation), step.transition)
            }
            (AnyEvaluation::Running(e), 0) => after(e.lose(T0, &POLICY, 0.9)),
            (AnyEvaluation::Running(e), n) => {
                let step = e.end(T0, Verdict::ALL[usize::from(n)]);
                (AnyEvaluation::Ended(step.evaluation), step.transition)
            }
            (AnyEvaluation::Ended(_), _) => break,
        };
        log.push(*transition.event());
        now = next;
    }
    log
}

fn after(loss: AfterLoss) -> (AnyEvaluation, Transition) {
    match loss {
        AfterLoss::Retried(step) => (AnyEvaluation::Queued(step.evaluation), step.transition),
        AfterLoss::Final(step) => (AnyEvaluation::Ended(step.evaluation), step.transition),
    }
}

proptest! {
    /// Deliver the log's events in any order, any number of times: what is applied is a prefix of
    /// the log, in order, each once; everything else changes nothing.
    #[test]
    fn late_repeated_and_reordered_events_change_nothing(
        choices in prop::collection::vec(any::<u8>(), 0..40),
        deliveries in prop::collection::vec(any::<prop::sample::Index>(), 0..200),
    ) {
        let log = life(&choices);
        let mut seen = AnyEvaluation::Queued(Evaluation::submit(T0).evaluation);
        for index in deliveries {
            let event = &log[index.index(log.len())];
            let before = seen;
            match seen.apply(event) {
                Ok(()) => {
                    prop_assert_eq!(event.number, before.history().last_event + 1);
                    prop_assert_eq!(seen.state(), event.kind.state());
                }
                Err(_) => prop_assert_eq!(seen, before),
            }
        }
    }

    /// The log replayed in order gives the state it was written from.
    #[test]
    fn the_row_is_the_logs_projection(choices in prop::collection::vec(any::<u8>(), 0..60)) {
        let log = life(&choices);
        let mut seen = AnyEvaluation::Queued(Evaluation::submit(T0).evaluation);
        for (i, event) in log.iter().enumerate() {
            prop_assert_eq!(event.number, i as u64 + 1);
            if i > 0 {
                prop_assert_eq!(seen.apply(event), Ok(()));
            }
        }
        prop_assert_eq!(seen.state(), log[log.len() - 1].kind.state());
    }

    /// Events of another life are never taken: nothing leaves a terminal state.
    #[test]
    fn nothing_leaves_a_terminal_state(number in 0u64..10, attempt in 0u32..4, verdict in 0usize..8) {
        let ended = Evaluation::submit(T0).evaluation.end(T0, QueueEnd::Cancelled).evaluation;
        for kind in [
            EventKind::Submitted,
            EventKind::AttemptStarted { attempt },
            EventKind::Started { attempt },
            EventKind::RetryScheduled { attempt, not_before: T0 },
            EventKind::Finished { verdict: Verdict::ALL[verdict] },
        ] {
            let mut seen = AnyEvaluation::Ended(ended);
            let event = Event { number, at: T0, kind };
            prop_assert!(seen.apply(&event).is_err());
            prop_assert_eq!(seen, AnyEvaluation::Ended(ended));
        }
    }
}
