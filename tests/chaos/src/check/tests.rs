//! The judge against histories that were bent on purpose: each rule finds its breach, and nothing
//! else does.

use hood_wire::api::{Evaluation, Event, EventDetail, EventType, State, Verdict};
use serde_json::json;

use super::violations;
use crate::history::{Chronicle, Earlier, History, LeaseTaken, Life, Output, Person, Sighting, What};
use crate::member::Role;
use crate::work::{Kind, Work};
use hood_client::Stream;

const ID: &str = "ev_00000000000000000000000000000001";

fn second(second: u32) -> String {
    format!("2026-01-01T00:00:{second:02}Z")
}

fn at(second_: u32) -> i64 {
    super::micros(&second(second_)).expect("a moment")
}

fn event(number: u64, kind: EventType, state: State, attempt: Option<u32>) -> Event {
    let verdict = (kind == EventType::Finished).then_some(Verdict::Succeeded);
    let at = second(u32::try_from(number).expect("small"));
    Event { number, kind, at, state, attempt, not_before: None, verdict, detail: EventDetail::default() }
}

/// A program that was lost while it ran, and succeeded at the second attempt.
fn events() -> Vec<Event> {
    vec![
        event(1, EventType::Submitted, State::Queued, None),
        event(2, EventType::AttemptStarted, State::Provisioning, Some(1)),
        event(3, EventType::Started, State::Running, Some(1)),
        event(4, EventType::RetryScheduled, State::Queued, Some(1)),
        event(5, EventType::AttemptStarted, State::Provisioning, Some(2)),
        event(6, EventType::Started, State::Running, Some(2)),
        event(7, EventType::Finished, State::Succeeded, None),
    ]
}

fn work() -> Work {
    let quick = (0..100).map(|number| Work::of(1, number)).find(|work| work.kind == Kind::Quick);
    quick.expect("half of them are")
}

fn evaluation() -> Evaluation {
    let attempt = |number| {
        json!({ "number": number, "leased_at": second(2), "started_at": null, "ended_at": null, "lost": null,
            "decision": null })
    };
    let preview = json!({ "preview": "", "preview_truncated": false, "bytes": 0, "kept_bytes": 0,
        "truncated": false, "complete": true });
    let document = json!({
        "id": ID, "state": "succeeded", "verdict": "succeeded", "exit_code": 0, "signal": null,
        "evidence": null, "stdout": preview, "stderr": preview,
        "environment": { "name": "minimal", "digest": null }, "limits": {}, "risk_level": "high",
        "grace_ms": 0, "priority": 5, "usage": {}, "timings": {},
        "attempts": [attempt(1), attempt(2)], "labels": {}, "batch": null, "cancel_requested": false,
        "created_at": second(1), "leased_at": null, "started_at": null, "finished_at": null,
    });
    serde_json::from_value(document).expect("an evaluation")
}

fn sighting(at_second: u32, what: What, member: usize, attempt: u32) -> Sighting {
    Sighting { at: at(at_second), member, what, evaluation: ID.to_owned(), attempt }
}

fn lease(at_second: u32, worker: &str, token: i64, earlier: Option<(&str, u32)>) -> LeaseTaken {
    let earlier = earlier.map(|(worker, expires)| Earlier {
        worker: worker.to_owned(),
        token: token - 1,
        expires_at: at(expires),
    });
    LeaseTaken { evaluation: ID.to_owned(), at: at(at_second), worker: worker.to_owned(), token, earlier }
}

/// Nothing wrong with it.
fn sound() -> Chronicle {
    let work = work();
    let whole = work.expected(Stream::Stdout);
    let outputs = vec![
        Output { attempt: 1, stdout: whole[..10].to_vec(), stderr: Vec::new() },
        Output { attempt: 2, stdout: whole, stderr: Vec::new() },
    ];
    let history = History {
        work,
        cancel_asked: false,
        evaluation: evaluation(),
        events: events(),
        outputs,
        followed: Some(events()),
    };
    let lives = vec![
        Life { pid: 10, began: at(0), ended: Some(at(4)) },
        Life { pid: 11, began: at(4), ended: Some(at(30)) },
    ];
    Chronicle {
        histories: vec![history],
        sightings: vec![
            sighting(3, What::Released, 0, 1),
            sighting(6, What::Released, 0, 2),
            sighting(7, What::Ended, 0, 2),
        ],
        leases: vec![
            lease(2, "worker-10", 1, None),
            lease(4, "worker-11", 2, Some(("worker-10", 20))),
            lease(5, "worker-11", 3, None),
        ],
        people: vec![Person { name: "serve".to_owned(), role: Role::Serve, lives }],
        incidents: Vec::new(),
        pairs: Vec::new(),
        listed: vec![ID.to_owned()],
    }
}

#[test]
fn a_sound_history_is_let_be() {
    assert_eq!(violations(&sound()), Vec::<String>::new());
}

/// Bends a sound history, and expects a sentence that holds `wanted`.
#[track_caller]
fn bent(wanted: &str, bend: impl FnOnce(&mut Chronicle, &mut History)) {
    let mut chronicle = sound();
    let mut history = chronicle.histories.pop().expect("one");
    bend(&mut chronicle, &mut history);
    chronicle.histories.push(history);
    let found = violations(&chronicle);
    assert!(found.iter().any(|sentence| sentence.contains(wanted)), "{found:?}");
}

#[test]
fn what_was_accepted_is_there_once() {
    bent("accepted 1 times, listed 0", |chronicle, _| chronicle.listed.clear());
    bent("accepted 0 times, listed 1", |chronicle, _| chronicle.listed.push("ev_2".to_owned()));
    bent("accepted 2 times", |chronicle, history| chronicle.histories.push(history.clone()));
}

#[test]
fn events_are_one_path_without_gaps() {
    bent("stands where 3 should", |_, history| drop(history.events.remove(2)));
    bent("not ended", |_, history| drop(history.events.pop()));
    bent("Finished after Some(Succeeded)", |_, history| {
        history.events.push(event(8, EventType::Finished, State::Succeeded, None));
    });
    bent("Started after Some(Running)", |_, history| {
        history.events.insert(3, event(4, EventType::Started, State::Running, Some(1)));
    });
    bent("AttemptStarted after", |_, history| history.events[4].attempt = Some(3));
    bent("AttemptStarted after", |_, history| history.events[3].not_before = Some(second(9)));
    bent("back in time", |_, history| history.events[3].at = second(1));
    bent("a follower saw other events", |_, history| {
        history.followed.as_mut().map(|followed| followed.remove(1));
    });
}

#[test]
fn an_end_is_the_programs_or_says_why_not() {
    bent("not what its last event says", |_, history| history.evaluation.verdict = None);
    bent("ended as Some(Succeeded)", |_, history| history.evaluation.exit_code = Some(1));
    bent("ended as Some(Cancelled)", |_, history| {
        history.evaluation.verdict = Some(Verdict::Cancelled);
    });
    bent("ended as Some(InfrastructureError)", |_, history| {
        history.evaluation.verdict = Some(Verdict::InfrastructureError);
    });
    bent("started 3 times", |_, history| {
        history.events.truncate(6);
        history.events.extend([
            event(7, EventType::RetryScheduled, State::Queued, Some(2)),
            event(8, EventType::AttemptStarted, State::Provisioning, Some(3)),
            event(9, EventType::Started, State::Running, Some(3)),
            event(10, EventType::Finished, State::Succeeded, None),
        ]);
    });
}

#[test]
fn bytes_are_exact() {
    bent("stdout of attempt 2", |_, history| history.outputs[1].stdout.truncate(1));
    bent("stdout of attempt 2", |_, history| history.outputs[1].stdout.push(b'\n'));
    bent("stdout of attempt 1", |_, history| history.outputs[0].stdout[3] ^= 1);
    bent("stderr of attempt 2", |_, history| history.outputs[1].stderr.push(0));
    bent("never read", |_, history| drop(history.outputs.pop()));
    bent("called incomplete", |_, history| history.evaluation.stdout.complete = false);
}

#[test]
fn each_attempt_runs_once_and_alone() {
    bent("attempt 2 was run twice", |chronicle, _| {
        chronicle.sightings.push(sighting(8, What::Released, 0, 2));
    });
    bent("no event says so", |chronicle, _| chronicle.sightings.push(sighting(9, What::Released, 0, 3)));
    bent("before its start was written", |chronicle, _| chronicle.sightings[1].at = at(5));
    bent("attempts 1 and 2 ran at once", |chronicle, _| {
        // Its owner lives, and never said that it ended.
        chronicle.people[0].lives[0].ended = Some(at(20));
        chronicle.people[0].lives.truncate(1);
    });
    bent("no place saw that", |chronicle, _| drop(chronicle.sightings.pop()));
    bent("nobody had it accepted", |chronicle, _| {
        chronicle.sightings[0].evaluation = "ev_2".to_owned();
    });
}

#[test]
fn leases_do_not_overlap() {
    bent("before the lease of worker-10 was over", |chronicle, _| {
        // Alive when its lease was taken away.
        chronicle.people[0].lives[0].ended = Some(at(6));
    });
    bent("no higher than the one before", |chronicle, _| chronicle.leases[1].token = 1);
    bent("attempts under 1 leases", |chronicle, _| chronicle.leases.truncate(1));
}
