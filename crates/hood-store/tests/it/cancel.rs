//! Black box. Ending from outside, giving up, and forgetting.

use hood_core::lifecycle::State;
use hood_core::outcome::Stream;
use hood_core::{EvaluationId, Timestamp, Verdict};
use hood_store::{Cancel, CancelIntent, CancelWish, Commit, Delete, FindError, Renewed, Span};
use rstest::rstest;

use crate::support::Engine::{self, Postgres, Sqlite};
use crate::support::{TTL, TestStore, at, chunk, finished, lost, new_id, tenant};

const QUEUED: &str = r#"{"cancelled":"in the queue"}"#;

pub(crate) fn wish(now: Timestamp, grace_ms: Option<u64>) -> CancelWish {
    CancelWish { grace_ms, now, result_if_queued: QUEUED.to_owned() }
}

async fn cancel(t: &TestStore, id: EvaluationId, grace_ms: Option<u64>) -> Cancel {
    t.request_cancel(&tenant(), id, wish(at(7), grace_ms)).await.expect("is there")
}

#[rstest]
#[tokio::test]
async fn a_queued_one_ends_at_once(#[values(Sqlite, Postgres)] on: Engine) {
    let t = TestStore::new(on).await;
    let id = t.submit_one(at(0)).await;
    assert_eq!(cancel(&t, id, Some(0)).await, Cancel::EndedNow);
    let record = t.get(&tenant(), id).await.expect("is there");
    assert_eq!((record.state, record.verdict), (State::Cancelled, Some(Verdict::Cancelled)));
    assert_eq!((record.finished_at, record.result.as_deref()), (Some(at(7)), Some(QUEUED)));
    assert_eq!(cancel(&t, id, None).await, Cancel::AlreadyTerminal);
    let slice = t.read(id, Stream::Stdout).await;
    assert_eq!((slice.attempt, slice.stored, slice.ended), (0, 0, true));
    t.check().await;
}

/// It will be ended by whoever takes it: there is nothing to wait for.
#[rstest]
#[tokio::test]
async fn one_that_is_lost_while_a_cancel_is_pending_is_due_at_once(#[values(Sqlite, Postgres)] on: Engine) {
    let t = TestStore::new(on).await;
    let claimed = t.leased(at(0)).await;
    assert_eq!(cancel(&t, claimed.lease.evaluation, None).await, Cancel::Requested);
    t.commit(&claimed.lease, lost(&claimed, at(1))).await.expect("is lost");
    let again = t.claim_one(at(1)).await;
    assert_eq!((again.lease.attempt, again.cancel), (2, Some(CancelIntent { grace_ms: None })));
    t.check().await;
}

#[rstest]
#[tokio::test]
async fn a_claim_and_a_cancel_of_one_moment_agree(#[values(Sqlite, Postgres)] on: Engine) {
    let t = TestStore::new(on).await;
    let (tenant, tenure) = (tenant(), crate::support::tenure(at(1)));
    for _ in 0..20 {
        let id = t.submit_one(at(0)).await;
        let (claimed, cancelled) =
            tokio::join!(t.claim(&tenure, 1), t.request_cancel(&tenant, id, wish(at(1), None)));
        let claimed = claimed.expect("claims");
        match cancelled.expect("is there") {
            Cancel::EndedNow => assert!(claimed.is_empty()),
            Cancel::Requested => t.run_to_the_end(&claimed[0], at(2), Verdict::Cancelled).await,
            Cancel::AlreadyTerminal => panic!("nobody else ended it"),
        }
        assert_eq!(t.get(&tenant, id).await.expect("is there").state, State::Cancelled);
    }
    t.check().await;
}

#[rstest]
#[tokio::test]
async fn one_that_waits_for_its_next_attempt_ends_at_once(#[values(Sqlite, Postgres)] on: Engine) {
    let t = TestStore::new(on).await;
    let claimed = t.leased(at(0)).await;
    t.commit(&claimed.lease, lost(&claimed, at(1))).await.expect("is lost");
    assert_eq!(cancel(&t, claimed.lease.evaluation, None).await, Cancel::EndedNow);
    assert!(t.claim(&crate::support::tenure(at(100_000)), 1).await.expect("claims").is_empty());
    t.check().await;
}

#[rstest]
#[tokio::test]
async fn the_holder_is_told_and_a_shorter_grace_counts(#[values(Sqlite, Postgres)] on: Engine) {
    let t = TestStore::new(on).await;
    for state in [State::Provisioning, State::Running] {
        let claimed = match state {
            State::Running => t.running(at(0)).await.0,
            _ => t.leased(at(0)).await,
        };
        let id = claimed.lease.evaluation;
        for (asked, holds) in [
            (None, None),
            (Some(5000), Some(5000)),
            (Some(9000), Some(5000)),
            (None, Some(5000)),
            (Some(0), Some(0)),
            (Some(1), Some(0)),
        ] {
            assert_eq!(cancel(&t, id, asked).await, Cancel::Requested);
            let renewed = t.renew(std::slice::from_ref(&claimed.lease), at(8), TTL).await.expect("renews");
            assert_eq!(renewed, [Renewed::Held { cancel: Some(CancelIntent { grace_ms: holds }) }]);
        }
        assert_eq!(
            t.get(&tenant(), id).await.expect("is there").state,
            state,
            "it is the holder who ends it"
        );
        let taken = t.reclaim(at(8).after(TTL), hood_store::Lapsed::Expired).await;
        let taken = taken.iter().find(|taken| taken.lease.evaluation == id).expect("lapsed");
        assert_eq!(taken.cancel, Some(CancelIntent { grace_ms: Some(0) }), "a successor is told as well");
    }
    t.check().await;
}

#[rstest]
#[tokio::test]
async fn a_cancel_after_the_end_changes_nothing(#[values(Sqlite, Postgres)] on: Engine) {
    let t = TestStore::new(on).await;
    let id = t.ended(at(0), Verdict::Succeeded).await;
    let before = t.get(&tenant(), id).await.expect("is there");
    assert_eq!(cancel(&t, id, Some(0)).await, Cancel::AlreadyTerminal);
    assert_eq!(t.get(&tenant(), id).await.expect("is there"), before);
    let unknown = t.request_cancel(&tenant(), new_id(at(0)), wish(at(0), None)).await;
    assert!(matches!(unknown, Err(FindError::NotFound)));
    t.check().await;
}

#[rstest]
#[tokio::test]
async fn only_what_has_ended_is_deleted_and_then_all_of_it(#[values(Sqlite, Postgres)] on: Engine) {
    let t = TestStore::new(on).await;
    let queued = t.submit_with(at(0), |new| new.priority = 0).await;
    assert_eq!(t.delete(&tenant(), queued).await.expect("is there"), Delete::NotTerminal);
    let claimed = t.claim_one(at(0)).await;
    assert_eq!(t.delete(&tenant(), queued).await.expect("is there"), Delete::NotTerminal);
    let step = crate::support::provisioning(&claimed).start(at(1));
    let commit = Commit { output: vec![chunk(Stream::Stdout, 0, b"gone")], ..crate::support::started(&step) };
    t.commit(&claimed.lease, commit).await.expect("starts");
    assert_eq!(t.delete(&tenant(), queued).await.expect("is there"), Delete::NotTerminal);
    t.commit(&claimed.lease, finished(step.evaluation, at(2), Verdict::Failed)).await.expect("ends");
    assert_eq!(t.delete(&tenant(), queued).await.expect("is there"), Delete::Deleted);
    let span = Span { stream: Stream::Stdout, attempt: Some(1), offset: 0, max: 10 };
    assert!(matches!(t.delete(&tenant(), queued).await, Err(FindError::NotFound)));
    assert!(matches!(t.get(&tenant(), queued).await, Err(FindError::NotFound)));
    assert!(matches!(t.events(&tenant(), queued, 0, 1).await, Err(FindError::NotFound)));
    assert!(matches!(t.output(&tenant(), queued, span).await, Err(FindError::NotFound)));
    t.check().await;
}

#[rstest]
#[tokio::test]
async fn what_was_queued_for_too_long_is_given_up_on(#[values(Sqlite, Postgres)] on: Engine) {
    let t = TestStore::new(on).await;
    let old = [t.submit_one(at(0)).await, t.submit_one(at(10)).await, t.submit_one(at(20)).await];
    let given_up = t.expire_queued(at(10), at(50), 1, QUEUED).await.expect("gives up");
    assert_eq!(given_up, 1, "no more than asked for");
    assert_eq!(t.expire_queued(at(10), at(50), 100, QUEUED).await.expect("gives up"), 1);
    let states =
        [t.get(&tenant(), old[0]).await, t.get(&tenant(), old[1]).await, t.get(&tenant(), old[2]).await];
    assert_eq!(
        states.map(|found| found.expect("is there").verdict),
        [Some(Verdict::InfrastructureError), Some(Verdict::InfrastructureError), None]
    );
    // One that came back has not waited long, however old it is; one that is held does not wait.
    let claimed = t.claim_one(at(50)).await;
    assert_eq!(t.expire_queued(at(60), at(60), 100, QUEUED).await.expect("gives up"), 0);
    t.commit(&claimed.lease, lost(&claimed, at(70))).await.expect("is lost");
    assert_eq!(t.expire_queued(at(69), at(80), 100, QUEUED).await.expect("gives up"), 0);
    assert_eq!(t.expire_queued(at(70), at(80), 100, QUEUED).await.expect("gives up"), 1);
    t.check().await;
}
