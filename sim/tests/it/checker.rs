//! Black box. A sound history passes, and each way to break it is told by its rule.

use hood_core::lifecycle::{AnyEvaluation, Evaluation, Queued, State};
use hood_core::outcome::Stream;
use hood_core::retry::RetryPolicy;
use hood_core::{EvaluationId, Event, Timestamp, Verdict};
use hood_dispatch::AttemptKey;
use hood_sim::checker::{Expected, Rule, Whole, check};
use hood_sim::history::{Deed, Ending, Entry, Extent, Word};
use hood_store::{AttemptRecord, Record, RecordSummary};

const PRINTED: &[u8] = b"hello";

struct Hello;

impl Expected for Hello {
    fn retry(&self) -> RetryPolicy {
        RetryPolicy::DEFAULT
    }

    fn printed(&self, _: AttemptKey, stream: Stream, bytes: u64) -> Vec<u8> {
        let whole = if stream == Stream::Stdout { PRINTED } else { &[] };
        whole.iter().copied().take(bytes as usize).collect()
    }

    fn whole(&self, _: &Record) -> Option<Whole> {
        Some(Whole { stdout: PRINTED.len() as u64, stderr: 0, exit: 0 })
    }
}

fn at(micros: i64) -> Timestamp {
    Timestamp::from_micros(micros)
}

fn id() -> EvaluationId {
    EvaluationId::new(at(1_000_000), [3; 10])
}

const fn key(evaluation: EvaluationId, attempt: u32) -> AttemptKey {
    AttemptKey { evaluation, attempt }
}

/// One evaluation that succeeds at its first attempt, and all that is seen of it.
struct Story {
    deeds: Vec<Deed>,
    ending: Ending,
}

impl Story {
    fn sound() -> Self {
        let submitted = Evaluation::<Queued>::submit(at(1));
        let leased = submitted.evaluation.lease(at(2));
        let started = leased.evaluation.start(at(3));
        let finished = started.evaluation.end(at(4), Verdict::Succeeded);
        let steps = [submitted.transition, leased.transition, started.transition, finished.transition];
        let events = steps.map(|step| *step.event());
        let key = key(id(), 1);
        let all = Extent { stream: Stream::Stdout, end: PRINTED.len() as u64 };
        let wrote = |event: Option<Event>, output: &[Extent]| Deed::Committed {
            key,
            token: 1,
            events: event.into_iter().collect(),
            output: output.to_vec(),
        };
        let mut deeds = vec![
            Deed::Accepted { id: id() },
            Deed::Leased { key, token: 1, worker: "w".to_owned(), takes_over: false },
            Deed::Said { key, number: 1, what: Word::Ready },
            wrote(Some(events[2]), &[]),
            Deed::Acknowledged { key, number: 1 },
            Deed::Began { key },
            Deed::Said { key, number: 2, what: Word::Output(all) },
            wrote(None, &[all]),
            Deed::Acknowledged { key, number: 2 },
            Deed::Died { key },
            Deed::Said { key, number: 3, what: Word::Ended },
            wrote(Some(events[3]), &[]),
            Deed::Acknowledged { key, number: 3 },
        ];
        deeds.extend(events.map(|event| Deed::Observed { follower: 1, id: id(), event }));
        let record = record(&AnyEvaluation::Ended(finished.evaluation));
        let output = vec![[PRINTED.to_vec(), Vec::new()]];
        Self { deeds, ending: Ending { record, events: events.to_vec(), output } }
    }

    fn broken(self) -> Vec<Rule> {
        let entry = |(n, deed): (usize, Deed)| Entry { at: at(n as i64), deed };
        let history: Vec<Entry> = self.deeds.into_iter().enumerate().map(entry).collect();
        let mut rules: Vec<Rule> =
            check(&history, &[self.ending], &Hello).into_iter().map(|violation| violation.rule).collect();
        rules.sort_unstable();
        rules.dedup();
        rules
    }

    fn position(&self, of: impl Fn(&Deed) -> bool) -> usize {
        self.deeds.iter().position(of).expect("it is in the story")
    }
}

fn record(evaluation: &AnyEvaluation) -> Record {
    let attempt = AttemptRecord {
        number: 1,
        leased_at: at(2),
        started_at: Some(at(3)),
        ended_at: Some(at(4)),
        lost: None,
        decision: None,
        output_cut: false,
    };
    let summary = RecordSummary {
        id: id(),
        state: evaluation.state(),
        verdict: Some(Verdict::Succeeded),
        history: *evaluation.history(),
        environment: String::new(),
        environment_digest: None,
        priority: 0,
        labels: Default::default(),
        batch: None,
        cancel_requested: None,
        created_at: at(1),
        leased_at: Some(at(2)),
        started_at: Some(at(3)),
        finished_at: Some(at(4)),
        not_before: None,
        result: Some("{}".to_owned()),
        archived: false,
    };
    Record { summary, request: String::new(), attempts: vec![attempt] }
}

fn broken_by(change: impl FnOnce(&mut Story)) -> Vec<Rule> {
    let mut story = Story::sound();
    change(&mut story);
    story.broken()
}

fn is_commit(deed: &Deed) -> bool {
    matches!(deed, Deed::Committed { .. })
}

#[test]
fn a_sound_story_breaks_nothing() {
    assert_eq!(Story::sound().broken(), []);
}

#[test]
fn an_acknowledgement_before_its_commit_is_told() {
    for number in 1..=3 {
        let rules = broken_by(|story| {
            let acknowledged =
                story.position(|deed| matches!(deed, Deed::Acknowledged { number: n, .. } if *n == number));
            let deed = story.deeds.remove(acknowledged);
            let commits = story.deeds.iter().enumerate().filter(|(_, deed)| is_commit(deed));
            let (commit, _) = commits.take(number as usize).last().expect("three commits");
            story.deeds.insert(commit, deed);
        });
        assert_eq!(rules, [Rule::DurableFirst], "report {number}");
    }
}

#[test]
fn a_program_that_runs_before_the_record_says_so_is_told() {
    let rules = broken_by(|story| {
        let began = story.position(|deed| matches!(deed, Deed::Began { .. }));
        let deed = story.deeds.remove(began);
        story.deeds.insert(2, deed);
    });
    assert_eq!(rules, [Rule::DurableFirst]);
}

#[test]
fn an_event_that_is_shown_before_it_is_written_is_told() {
    let rules = broken_by(|story| {
        let shown: Vec<Deed> = story.deeds.drain(13..).collect();
        story.deeds.splice(3..3, shown.into_iter().take(3));
    });
    assert_eq!(rules, [Rule::DurableFirst]);
}

#[test]
fn a_write_with_an_old_token_is_told_and_so_is_an_old_token() {
    let take_over =
        |token| Deed::Leased { key: key(id(), 1), token, worker: "x".to_owned(), takes_over: true };
    assert_eq!(broken_by(|story| story.deeds.insert(2, take_over(2))), [Rule::Fenced]);
    assert_eq!(broken_by(|story| story.deeds.insert(2, take_over(1))), [Rule::Fenced]);
    // As it should be: the new holder goes on with its own.
    let rules = broken_by(|story| {
        story.deeds.insert(2, take_over(2));
        for deed in &mut story.deeds {
            if let Deed::Committed { token, .. } = deed {
                *token = 2;
            }
        }
    });
    assert_eq!(rules, []);
}

#[test]
fn a_second_execution_is_told_of_the_same_attempt_and_of_the_next() {
    let began = |attempt| Deed::Began { key: key(id(), attempt) };
    let at_once = broken_by(|story| {
        let first = story.position(|deed| matches!(deed, Deed::Began { .. }));
        story.deeds.insert(first, began(1));
    });
    assert_eq!(at_once, [Rule::OneExecution]);
    let rules = broken_by(|story| {
        let lease = Deed::Leased { key: key(id(), 2), token: 2, worker: "x".to_owned(), takes_over: false };
        let first = story.position(|deed| matches!(deed, Deed::Began { .. }));
        story.deeds.splice(first + 1..first + 1, [lease, began(2)]);
    });
    assert!(rules.contains(&Rule::OneExecution), "{rules:?}");
}

#[test]
fn bytes_that_were_not_printed_and_bytes_that_are_missing_are_told() {
    assert_eq!(broken_by(|story| story.ending.output[0][0] = b"hullo".to_vec()), [Rule::ExactOutput]);
    assert_eq!(broken_by(|story| story.ending.output[0][0].truncate(4)), [Rule::ExactOutput]);
    assert_eq!(broken_by(|story| story.ending.output[0][1].push(b'x')), [Rule::ExactOutput]);
}

#[test]
fn an_end_that_is_missing_or_there_twice_is_told() {
    assert_eq!(broken_by(|story| story.ending.record.summary.state = State::Running)[0], Rule::EndsOnce);
    let twice = broken_by(|story| {
        let mut last = *story.ending.events.last().expect("four events");
        last.number += 1;
        story.ending.events.push(last);
    });
    assert_eq!(twice[0], Rule::EndsOnce);
    let other = EvaluationId::new(at(2_000_000), [4; 10]);
    assert_eq!(broken_by(|story| story.deeds.push(Deed::Accepted { id: other })), [Rule::EndsOnce]);
}

#[test]
fn gaps_are_told_in_the_log_and_in_what_a_follower_is_shown() {
    assert!(
        broken_by(|story| story.ending.events.retain(|event| event.number != 3)).contains(&Rule::Gapless)
    );
    assert_eq!(broken_by(|story| drop(story.deeds.remove(14))), [Rule::Gapless]);
}

#[test]
fn a_verdict_that_is_not_what_happened_is_told() {
    for verdict in [Verdict::Cancelled, Verdict::InfrastructureError, Verdict::Failed] {
        let rules = broken_by(|story| story.ending.record.summary.verdict = Some(verdict));
        assert!(rules.contains(&Rule::TrueVerdict), "{}: {rules:?}", verdict.as_str());
    }
    let asked = broken_by(|story| {
        story.deeds.insert(1, Deed::CancelAsked { id: id() });
        story.ending.record.summary.verdict = Some(Verdict::Cancelled);
    });
    assert!(!asked.contains(&Rule::TrueVerdict), "{asked:?}");
}

#[test]
fn attempts_that_nothing_accounts_for_are_told() {
    let one_more = broken_by(|story| {
        let mut attempt = story.ending.record.attempts[0].clone();
        attempt.number = 2;
        story.ending.record.attempts.push(attempt);
    });
    assert!(one_more.contains(&Rule::BoundedRetries), "{one_more:?}");
    let too_many = broken_by(|story| story.ending.record.summary.history.losses.suspect = 3);
    assert_eq!(too_many, [Rule::BoundedRetries]);
}
