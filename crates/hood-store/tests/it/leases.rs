//! Black box. Who gets what, in which order, and who may still write about it.

use rstest::rstest;
use std::time::Duration;

use hood_core::lifecycle::AnyEvaluation;
use hood_core::{EventKind, State, Verdict};
use hood_store::{Commit, CommitError, Lapsed, Renewed};

use crate::support::Engine::{self, Postgres, Sqlite};
use crate::support::{
    TTL, TestStore, at, chunk, finished, lost, new_id, provisioning, started, tenant, tenure,
};
use hood_core::outcome::Stream;

#[rstest]
#[tokio::test]
async fn the_highest_priority_is_claimed_first_and_the_oldest_of_it(#[values(Sqlite, Postgres)] on: Engine) {
    let t = TestStore::new(on).await;
    let mut expected = Vec::new();
    for (millis, priority) in [(3, 1), (1, 1), (2, 9), (4, 0), (5, 9)] {
        let id = new_id(at(millis));
        t.submit_with(at(millis), |new| (new.id, new.priority) = (id, priority)).await;
        expected.push((std::cmp::Reverse(priority), id));
    }
    expected.sort();
    let mut got = t.claim(&tenure(at(10)), 3).await.expect("claims");
    got.extend(t.claim(&tenure(at(10)), 3).await.expect("claims"));
    let got: Vec<_> = got.iter().map(|claimed| claimed.lease.evaluation).collect();
    assert_eq!(got, expected.into_iter().map(|(_, id)| id).collect::<Vec<_>>());
    assert!(t.claim(&tenure(at(10)), 3).await.expect("claims").is_empty());
    t.check().await;
}

#[rstest]
#[tokio::test]
async fn a_claim_gives_all_that_it_takes_to_run_it(#[values(Sqlite, Postgres)] on: Engine) {
    let t = TestStore::new(on).await;
    let claimed = t.leased(at(3)).await;
    let lease = &claimed.lease;
    assert_eq!((lease.token, lease.attempt, lease.expires_at), (1, 1, at(3).after(TTL)));
    assert_eq!(claimed.request, format!(r#"{{"of":"{}"}}"#, lease.evaluation));
    assert_eq!((claimed.cancel, claimed.created_at), (None, at(3)));
    let record = t.get(&tenant(), lease.evaluation).await.expect("is there");
    assert_eq!((record.state, record.leased_at), (State::Provisioning, Some(at(3))));
    t.check().await;
}

#[rstest]
#[tokio::test]
async fn a_lost_one_waits_until_it_is_due(#[values(Sqlite, Postgres)] on: Engine) {
    let t = TestStore::new(on).await;
    let claimed = t.leased(at(0)).await;
    let commit = lost(&claimed, at(1));
    let EventKind::RetryScheduled { not_before, .. } = commit.transitions[0].event().kind else {
        panic!("{commit:?}")
    };
    t.commit(&claimed.lease, commit).await.expect("is lost");
    let before = hood_core::Timestamp::from_micros(not_before.as_micros() - 1);
    assert!(t.claim(&tenure(before), 1).await.expect("claims").is_empty(), "not due");
    let record = t.get(&tenant(), claimed.lease.evaluation).await.expect("is there");
    assert_eq!((record.state, record.not_before), (State::Queued, Some(not_before)));
    assert_eq!(record.history.losses.infrastructure, 1);
    let again = t.claim_one(not_before).await;
    assert_eq!((again.lease.attempt, again.lease.token), (2, 2));
    let record = t.get(&tenant(), claimed.lease.evaluation).await.expect("is there");
    assert_eq!((record.not_before, record.started_at, record.attempts.len()), (None, None, 2));
    t.check().await;
}

#[rstest]
#[tokio::test]
async fn a_stale_lease_writes_nothing(#[values(Sqlite, Postgres)] on: Engine) {
    let t = TestStore::new(on).await;
    let old = t.leased(at(0)).await;
    let mut taken = t.reclaim(at(0).after(TTL), Lapsed::Expired).await;
    let new = taken.pop().expect("lapsed");
    assert_eq!((new.lease.attempt, new.lease.token), (1, 2), "the same attempt, a higher token");
    let step = provisioning(&old).start(at(1));
    let everything = Commit {
        transitions: vec![step.transition],
        output: vec![chunk(Stream::Stdout, 0, b"late")],
        decision: Some("{}".to_owned()),
        environment_digest: Some("digest".to_owned()),
        ..Commit::default()
    };
    let before = t.get(&tenant(), old.lease.evaluation).await.expect("is there");
    let refused = t.commit(&old.lease, everything).await;
    assert!(matches!(refused, Err(CommitError::StaleLease)), "{refused:?}");
    assert_eq!(t.get(&tenant(), old.lease.evaluation).await.expect("is there"), before);
    assert_eq!(t.read(old.lease.evaluation, Stream::Stdout).await.stored, 0);
    t.commit(&new.lease, started(&step)).await.expect("the new holder may");
    t.check().await;
}

#[rstest]
#[tokio::test]
async fn late_output_is_refused_after_a_requeue_and_after_the_end(#[values(Sqlite, Postgres)] on: Engine) {
    let t = TestStore::new(on).await;
    let late = || Commit { output: vec![chunk(Stream::Stdout, 0, b"late")], ..Commit::default() };
    let claimed = t.leased(at(0)).await;
    t.commit(&claimed.lease, lost(&claimed, at(1))).await.expect("is lost");
    assert!(matches!(t.commit(&claimed.lease, late()).await, Err(CommitError::StaleLease)));
    let again = t.claim_one(at(1000)).await;
    assert!(matches!(t.commit(&claimed.lease, late()).await, Err(CommitError::StaleLease)));
    let step = provisioning(&again).start(at(1001));
    t.commit(&again.lease, started(&step)).await.expect("starts");
    t.commit(&again.lease, finished(step.evaluation, at(1002), Verdict::Failed)).await.expect("ends");
    assert!(matches!(t.commit(&again.lease, late()).await, Err(CommitError::StaleLease)));
    assert_eq!(t.read(again.lease.evaluation, Stream::Stdout).await.stored, 0);
    assert!(t.reclaim(at(1_000_000), Lapsed::All).await.is_empty(), "nobody holds what has ended");
    t.check().await;
}

#[rstest]
#[tokio::test]
async fn a_lease_that_lapsed_is_its_holders_until_it_is_taken_over(#[values(Sqlite, Postgres)] on: Engine) {
    let t = TestStore::new(on).await;
    let (claimed, running) = t.running(at(0)).await;
    let lapsed = at(1).after(TTL);
    let leases = [claimed.lease.clone()];
    let renewed = t.renew(&leases, lapsed, TTL).await.expect("renews");
    assert_eq!(renewed, [Renewed::Held { cancel: None }]);
    assert!(t.reclaim(lapsed, Lapsed::Expired).await.is_empty(), "it was renewed");
    let taken = t.reclaim(lapsed.after(TTL), Lapsed::Expired).await;
    assert!(matches!(taken[0].evaluation, AnyEvaluation::Running(_)));
    assert_eq!(t.renew(&leases, lapsed, TTL).await.expect("renews"), [Renewed::Lost]);
    let late = t.commit(&claimed.lease, finished(running, at(2), Verdict::Succeeded)).await;
    assert!(matches!(late, Err(CommitError::StaleLease)), "{late:?}");
    t.commit(&taken[0].lease, finished(running, at(2), Verdict::Failed)).await.expect("ends");
    assert_eq!(t.renew(&[taken[0].lease.clone()], at(3), TTL).await.expect("renews"), [Renewed::Lost]);
    t.check().await;
}

#[rstest]
#[tokio::test]
async fn renewals_answer_in_their_order(#[values(Sqlite, Postgres)] on: Engine) {
    let t = TestStore::new(on).await;
    let (a, b) = (t.leased(at(0)).await, t.leased(at(1)).await);
    t.reclaim(at(0).after(TTL), Lapsed::Expired).await;
    let renewed = t.renew(&[b.lease, a.lease], at(2), Duration::from_secs(60)).await.expect("renews");
    assert_eq!(renewed, [Renewed::Held { cancel: None }, Renewed::Lost]);
    t.check().await;
}

/// Where one process has the database: of PostgreSQL see `shared`.
#[tokio::test]
async fn a_restart_takes_over_what_its_predecessor_held_and_nothing_twice() {
    let t = TestStore::new(Sqlite).await;
    t.leased(at(0)).await;
    t.running(at(0)).await;
    assert!(t.reclaim(at(1), Lapsed::All).await.is_empty(), "held by this opening itself");
    let t = t.reopen().await;
    assert!(t.reclaim(at(1), Lapsed::Expired).await.is_empty(), "none has lapsed");
    let first = t.store.reclaim(&tenure(at(1)), 1, Lapsed::All).await.expect("reclaims");
    let rest = t.reclaim(at(1), Lapsed::All).await;
    assert_eq!((first.len(), rest.len()), (1, 1));
    assert_ne!(first[0].lease.evaluation, rest[0].lease.evaluation);
    assert!(t.reclaim(at(1), Lapsed::All).await.is_empty());
    assert!(first.iter().chain(&rest).all(|claimed| claimed.lease.attempt == 1 && claimed.lease.token == 2));
    t.check().await;
}
