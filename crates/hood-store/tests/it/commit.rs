//! Black box. What a lease's holder writes: all of it or nothing, in order, once.

use hood_core::lifecycle::{AfterLoss, State};
use hood_core::outcome::Stream;
use hood_core::{Loss, RetryPolicy, Verdict};
use hood_store::{Commit, CommitError};
use rstest::rstest;

use crate::support::Engine::{self, Postgres, Sqlite};
use crate::support::{RESULT, TestStore, at, chunk, finished, lost, new_id, provisioning, started, tenant};

#[rstest]
#[tokio::test]
async fn a_life_from_beginning_to_end(#[values(Sqlite, Postgres)] on: Engine) {
    let t = TestStore::new(on).await;
    let claimed = t.leased(at(0)).await;
    let id = claimed.lease.evaluation;
    let step = provisioning(&claimed).start(at(1));
    let commit = Commit {
        decision: Some(r#"{"place":"local"}"#.to_owned()),
        environment_digest: Some("blake3:1".to_owned()),
        ..started(&step)
    };
    t.commit(&claimed.lease, commit).await.expect("starts");
    let record = t.get(&tenant(), id).await.expect("is there");
    assert_eq!((record.state, record.started_at), (State::Running, Some(at(1))));
    assert_eq!(record.attempts[0].decision.as_deref(), Some(r#"{"place":"local"}"#));
    assert_eq!(record.environment_digest.as_deref(), Some("blake3:1"));
    t.commit(&claimed.lease, finished(step.evaluation, at(2), Verdict::TimedOut)).await.expect("ends");
    let record = t.get(&tenant(), id).await.expect("is there");
    assert_eq!((record.state, record.verdict), (State::Failed, Some(Verdict::TimedOut)));
    assert_eq!((record.finished_at, record.result.as_deref()), (Some(at(2)), Some(RESULT)));
    t.check().await;
}

#[rstest]
#[tokio::test]
async fn every_verdict_leads_to_its_state(#[values(Sqlite, Postgres)] on: Engine) {
    let t = TestStore::new(on).await;
    for verdict in Verdict::ALL {
        let id = t.ended(at(0), verdict).await;
        let record = t.get(&tenant(), id).await.expect("is there");
        assert_eq!((record.state, record.verdict), (State::of(verdict), Some(verdict)));
    }
    t.check().await;
}

#[rstest]
#[tokio::test]
async fn provisioning_may_end_and_running_may_be_lost(#[values(Sqlite, Postgres)] on: Engine) {
    let t = TestStore::new(on).await;
    let claimed = t.leased(at(0)).await;
    let end = provisioning(&claimed).end(at(1), Verdict::Cancelled).transition;
    let commit = Commit { transitions: vec![end], result: Some(RESULT.to_owned()), ..Commit::default() };
    t.commit(&claimed.lease, commit).await.expect("ends");

    let (claimed, running) = t.running(at(2)).await;
    let after = running.lose(at(3), &RetryPolicy::DEFAULT, 0.0);
    let commit = Commit {
        transitions: vec![*after.transition()],
        lost: Some(r#"{"why":"agent"}"#.to_owned()),
        ..Commit::default()
    };
    t.commit(&claimed.lease, commit).await.expect("is lost");
    let record = t.get(&tenant(), claimed.lease.evaluation).await.expect("is there");
    assert_eq!((record.state, record.history.losses.suspect), (State::Queued, 1));
    assert_eq!(record.attempts[0].lost.as_deref(), Some(r#"{"why":"agent"}"#));
    assert_eq!(record.attempts[0].ended_at, Some(at(3)));
    t.check().await;
}

#[rstest]
#[tokio::test]
async fn the_last_loss_is_final(#[values(Sqlite, Postgres)] on: Engine) {
    let t = TestStore::new(on).await;
    let claimed = t.leased(at(0)).await;
    let policy = RetryPolicy { infrastructure_attempts: 1, ..RetryPolicy::DEFAULT };
    let after = provisioning(&claimed).lose(at(1), Loss::Infrastructure, &policy, 0.0);
    assert!(matches!(after, AfterLoss::Final(_)));
    let transitions = vec![*after.transition()];
    let commit = Commit { transitions, result: Some(RESULT.to_owned()), ..Commit::default() };
    t.commit(&claimed.lease, commit).await.expect("ends");
    let record = t.get(&tenant(), claimed.lease.evaluation).await.expect("is there");
    assert_eq!(record.verdict, Some(Verdict::InfrastructureError));
    assert_eq!(record.history.losses.infrastructure, 1);
    t.check().await;
}

#[rstest]
#[tokio::test]
async fn several_transitions_are_one(#[values(Sqlite, Postgres)] on: Engine) {
    let t = TestStore::new(on).await;
    let claimed = t.leased(at(0)).await;
    let start = provisioning(&claimed).start(at(1));
    let end = start.evaluation.end(at(2), Verdict::Succeeded);
    let commit = Commit {
        transitions: vec![start.transition, end.transition],
        output: vec![chunk(Stream::Stdout, 0, b"42\n")],
        result: Some(RESULT.to_owned()),
        ..Commit::default()
    };
    t.commit(&claimed.lease, commit).await.expect("ends");
    let slice = t.read(claimed.lease.evaluation, Stream::Stdout).await;
    assert_eq!((&slice.bytes[..], slice.ended), (&b"42\n"[..], true));
    t.check().await;
}

/// As after an answer that was not heard: what was written is passed over, what is new is not.
#[rstest]
#[tokio::test]
async fn what_was_written_and_what_is_new_may_come_together(#[values(Sqlite, Postgres)] on: Engine) {
    let t = TestStore::new(on).await;
    let claimed = t.leased(at(0)).await;
    let start = provisioning(&claimed).start(at(1));
    t.commit(&claimed.lease, started(&start)).await.expect("starts");
    let both = Commit {
        transitions: vec![start.transition, start.evaluation.end(at(2), Verdict::Failed).transition],
        output: vec![chunk(Stream::Stdout, 0, b"new")],
        result: Some(RESULT.to_owned()),
        ..Commit::default()
    };
    t.commit(&claimed.lease, both).await.expect("ends");
    assert_eq!(t.read(claimed.lease.evaluation, Stream::Stdout).await.bytes, b"new");
    let other_start = provisioning(&claimed).start(at(9));
    let outcome = t.commit(&claimed.lease, started(&other_start)).await;
    assert!(matches!(outcome, Err(CommitError::OutOfOrder { .. })), "{outcome:?}");
    t.check().await;
}

/// Each of these fails in its last part: what came before it must not stay.
#[rstest]
#[tokio::test]
async fn of_a_commit_that_fails_nothing_stays(#[values(Sqlite, Postgres)] on: Engine) {
    let t = TestStore::new(on).await;
    let claimed = t.leased(at(0)).await;
    let id = claimed.lease.evaluation;
    let start = provisioning(&claimed).start(at(1));
    let end = start.evaluation.end(at(2), Verdict::Succeeded);
    let before = t.get(&tenant(), id).await.expect("is there");
    let good = Commit {
        output: vec![chunk(Stream::Stdout, 0, b"some")],
        decision: Some("{}".to_owned()),
        environment_digest: Some("digest".to_owned()),
        ..started(&start)
    };
    let gap = Commit {
        output: vec![chunk(Stream::Stdout, 0, b"some"), chunk(Stream::Stderr, 1, b"gap")],
        ..good.clone()
    };
    let result = Some(RESULT.to_owned());
    let twice = vec![start.transition, start.transition];
    let backwards = vec![end.transition, start.transition];
    let requeued = *start.evaluation.lose(at(2), &RetryPolicy::DEFAULT, 0.0).transition();
    let on_after_leaving = vec![start.transition, requeued, end.transition];
    for (what, bad) in [
        ("a gap in the output", gap),
        ("a transition twice", Commit { transitions: twice, ..good.clone() }),
        ("backwards", Commit { transitions: backwards, result: result.clone(), ..good.clone() }),
        (
            "an end without a result",
            Commit { transitions: vec![start.transition, end.transition], ..good.clone() },
        ),
        ("a result without an end", Commit { result: result.clone(), ..good.clone() }),
        ("on after leaving", Commit { transitions: on_after_leaving, result, ..good.clone() }),
    ] {
        let refused = t.commit(&claimed.lease, bad).await;
        assert!(!matches!(refused, Ok(()) | Err(CommitError::Store(_))), "{what}: {refused:?}");
        assert_eq!(t.get(&tenant(), id).await.expect("is there"), before, "{what}");
        assert_eq!(t.read(id, Stream::Stdout).await.stored, 0, "{what}");
    }
    t.commit(&claimed.lease, good).await.expect("the good one is still possible");
    t.check().await;
}

#[rstest]
#[tokio::test]
async fn a_step_that_the_row_cannot_take_is_refused(#[values(Sqlite, Postgres)] on: Engine) {
    let t = TestStore::new(on).await;
    let claimed = t.leased(at(0)).await;
    let start = provisioning(&claimed).start(at(1));
    let lost = provisioning(&claimed).lose(at(1), Loss::OwnDeath, &RetryPolicy::DEFAULT, 0.0);
    let AfterLoss::Retried(queued) = lost else { panic!("{lost:?}") };
    t.commit(&claimed.lease, started(&start)).await.expect("starts");
    // Event 4 of another life: it fits by its number only. Then an end that leaves a gap.
    let lease = queued.evaluation.lease(at(2));
    let gap = lease.evaluation.end(at(2), Verdict::Failed).transition;
    let gap = Commit { transitions: vec![gap], result: Some(RESULT.to_owned()), ..Commit::default() };
    for commit in [Commit { transitions: vec![lease.transition], ..Commit::default() }, gap] {
        let refused = t.commit(&claimed.lease, commit).await;
        assert!(matches!(refused, Err(CommitError::OutOfOrder { last_event: 3, .. })), "{refused:?}");
    }
    t.check().await;
}

#[rstest]
#[tokio::test]
async fn the_same_commit_twice_is_as_good_as_once(#[values(Sqlite, Postgres)] on: Engine) {
    let t = TestStore::new(on).await;
    let claimed = t.leased(at(0)).await;
    let id = claimed.lease.evaluation;
    let start = provisioning(&claimed).start(at(1));
    let output = Commit { output: vec![chunk(Stream::Stdout, 0, b"abc")], ..Commit::default() };
    let end = Commit {
        output: vec![chunk(Stream::Stdout, 2, b"cde")],
        ..finished(start.evaluation, at(2), Verdict::Failed)
    };
    for commit in [started(&start), output, end.clone()] {
        for _ in 0..2 {
            t.commit(&claimed.lease, commit.clone()).await.expect("as good as once");
        }
    }
    // An earlier one, heard of late.
    t.commit(&claimed.lease, started(&start)).await.expect("it stands");
    assert_eq!(t.read(id, Stream::Stdout).await.bytes, b"abcde");
    assert_eq!(t.events(&tenant(), id, 0, 100).await.expect("events").len(), 4);
    t.check().await;
}

#[rstest]
#[tokio::test]
async fn another_end_than_the_one_written_is_no_repetition(#[values(Sqlite, Postgres)] on: Engine) {
    let t = TestStore::new(on).await;
    let (claimed, running) = t.running(at(0)).await;
    t.commit(&claimed.lease, finished(running, at(1), Verdict::Failed)).await.expect("ends");
    // The same state and number, but not the same words.
    for other in [finished(running, at(1), Verdict::TimedOut), finished(running, at(2), Verdict::Failed)] {
        let refused = t.commit(&claimed.lease, other).await;
        assert!(matches!(refused, Err(CommitError::OutOfOrder { .. })), "{refused:?}");
    }
    let record = t.get(&tenant(), claimed.lease.evaluation).await.expect("is there");
    assert_eq!(record.verdict, Some(Verdict::Failed));
    t.check().await;
}

#[rstest]
#[tokio::test]
async fn a_requeue_repeated_stands_until_somebody_else_holds_it(#[values(Sqlite, Postgres)] on: Engine) {
    let t = TestStore::new(on).await;
    let claimed = t.leased(at(0)).await;
    let commit = lost(&claimed, at(1));
    for _ in 0..2 {
        t.commit(&claimed.lease, commit.clone()).await.expect("is lost");
    }
    t.claim_one(at(1000)).await;
    assert!(matches!(t.commit(&claimed.lease, commit).await, Err(CommitError::StaleLease)));
    t.check().await;
}

#[rstest]
#[tokio::test]
async fn events_are_numbered_and_read_from_anywhere(#[values(Sqlite, Postgres)] on: Engine) {
    let t = TestStore::new(on).await;
    let id = t.ended(at(0), Verdict::Succeeded).await;
    let numbers = async |after, limit| {
        let events = t.events(&tenant(), id, after, limit).await.expect("events");
        events.iter().map(|event| event.number).collect::<Vec<_>>()
    };
    assert_eq!(numbers(0, 100).await, [1, 2, 3, 4]);
    assert_eq!(numbers(2, 1).await, [3]);
    assert!(numbers(4, 100).await.is_empty());
    assert!(t.events(&tenant(), new_id(at(0)), 0, 1).await.is_err(), "of none there are none");
    t.check().await;
}
