//! Black box. Many at once: nobody shares, nobody is forgotten, one failure is one caller's.

use rstest::rstest;
use std::collections::HashSet;
use std::sync::Arc;

use hood_core::Verdict;
use hood_store::{Lapsed, SubmitError};
use tokio::task::JoinSet;

use crate::support::Engine::{self, Postgres, Sqlite};
use crate::support::{TTL, TestStore, at, evaluation, new_id, single, tenant, tenure};

const MANY: usize = 300;

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn claimers_never_share(#[values(Sqlite, Postgres)] on: Engine) {
    let t = Arc::new(TestStore::new(on).await);
    for _ in 0..MANY {
        t.submit_one(at(0)).await;
    }
    let mut claimers = JoinSet::new();
    for i in 0..16 {
        let t = Arc::clone(&t);
        claimers.spawn(async move {
            let mut mine = Vec::new();
            loop {
                let claimed = t.claim(&tenure(at(1)), 1 + i % 4).await.expect("claims");
                if claimed.is_empty() {
                    return mine;
                }
                for claimed in claimed {
                    t.run_to_the_end(&claimed, at(2), Verdict::Succeeded).await;
                    mine.push(claimed.lease.evaluation);
                }
            }
        });
    }
    let all: Vec<_> = claimers.join_all().await.concat();
    assert_eq!((all.len(), all.iter().collect::<HashSet<_>>().len()), (MANY, MANY));
    Arc::into_inner(t).expect("nobody else holds it").check().await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn a_lapsed_lease_goes_to_one_successor(#[values(Sqlite, Postgres)] on: Engine) {
    let t = Arc::new(TestStore::new(on).await);
    for _ in 0..50 {
        t.leased(at(0)).await;
    }
    let mut successors = JoinSet::new();
    for _ in 0..8 {
        let t = Arc::clone(&t);
        successors.spawn(async move {
            let taken =
                t.store.reclaim(&tenure(at(0).after(TTL)), 20, Lapsed::Expired).await.expect("reclaims");
            taken.into_iter().map(|claimed| claimed.lease.evaluation).collect::<Vec<_>>()
        });
    }
    let all: Vec<_> = successors.join_all().await.concat();
    assert_eq!((all.len(), all.iter().collect::<HashSet<_>>().len()), (50, 50));
    Arc::into_inner(t).expect("nobody else holds it").check().await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn in_a_flood_each_failure_is_its_own_callers(#[values(Sqlite, Postgres)] on: Engine) {
    let t = Arc::new(TestStore::with(on, |config| config.queue_max = 150).await);
    let taken = t.submit_one(at(0)).await;
    let mut flood = JoinSet::new();
    for i in 0..MANY {
        let t = Arc::clone(&t);
        flood.spawn(async move {
            let id = if i % 3 == 0 { taken } else { new_id(at(1)) };
            (id, t.submit(&tenant(), at(1), single(evaluation(id, 0))).await)
        });
    }
    let (mut accepted, mut clashed, mut full) = (0, 0, 0);
    for (id, answer) in flood.join_all().await {
        match answer {
            Ok(_) => {
                accepted += 1;
                t.get(&tenant(), id).await.expect("what was answered is there");
            }
            Err(SubmitError::Store(_)) => clashed += 1,
            Err(SubmitError::QueueFull { queued: 150, limit: 150 }) => full += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(accepted, 149, "to the last place, whoever failed beside them");
    assert_eq!(clashed + full, MANY - 149);
    assert!(clashed > 0);
    Arc::into_inner(t).expect("nobody else holds it").check().await;
}

/// Row and attempts are read by two statements; an attempt that begins between them must not show.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn a_record_and_its_attempts_are_of_one_moment(#[values(Sqlite, Postgres)] on: Engine) {
    let t = TestStore::new(on).await;
    for _ in 0..100 {
        let id = t.submit_one(at(0)).await;
        let reader = t.store.clone();
        let reading = tokio::spawn(async move {
            loop {
                let record = reader.get(&tenant(), id).await.expect("is there");
                assert_eq!(record.attempts.len(), record.history.attempts as usize);
                if record.history.attempts == 1 {
                    return;
                }
            }
        });
        let claimed = t.claim_one(at(1)).await;
        t.run_to_the_end(&claimed, at(2), Verdict::Succeeded).await;
        reading.await.expect("whole");
    }
    t.check().await;
}
