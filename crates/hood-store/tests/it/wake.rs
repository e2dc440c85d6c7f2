//! Black box. Hints: whoever subscribes before asking misses nothing, and nobody holds the writer up.

use rstest::rstest;
use std::time::Duration;

use hood_core::Verdict;
use hood_core::outcome::Stream;
use hood_store::Commit;

use crate::cancel::wish;
use crate::support::Engine::{self, Postgres, Sqlite};
use crate::support::{TestStore, at, chunk, finished, lost, provisioning, started, tenant};

/// Far beyond what a hint takes, so that only one that never comes runs into it.
const SOON: Duration = Duration::from_secs(20);

pub(crate) async fn soon<T>(hint: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, hint).await.expect("a hint")
}

fn is_pending(hint: impl Future) -> bool {
    futures::FutureExt::now_or_never(hint).is_none()
}

#[rstest]
#[tokio::test]
async fn what_is_queued_after_the_subscription_wakes_though_nobody_polled_yet(
    #[values(Sqlite, Postgres)] on: Engine,
) {
    let t = TestStore::new(on).await;
    let work = t.wake().work();
    t.submit_one(at(0)).await;
    soon(work).await;
    assert!(is_pending(t.wake().work()), "only what comes later");
    let claimed = t.claim_one(at(0)).await;
    let work = t.wake().work();
    t.commit(&claimed.lease, lost(&claimed, at(1))).await.expect("is lost");
    soon(work).await;
    t.check().await;
}

#[rstest]
#[tokio::test]
async fn an_end_in_the_queue_is_hinted_at(#[values(Sqlite, Postgres)] on: Engine) {
    let t = TestStore::new(on).await;
    let ids = [t.submit_one(at(0)).await, t.submit_one(at(1)).await];
    let [mut cancelled, mut given_up] = ids.map(|id| t.wake().watch(id));
    t.request_cancel(&tenant(), ids[0], wish(at(2), None)).await.expect("is there");
    soon(cancelled.changed()).await;
    assert!(is_pending(given_up.changed()));
    assert_eq!(t.expire_queued(at(1), at(3), 10, "\"given up\"").await.expect("gives up"), 1);
    soon(given_up.changed()).await;
    t.check().await;
}

#[rstest]
#[tokio::test]
async fn each_change_of_an_evaluation_is_hinted_at(#[values(Sqlite, Postgres)] on: Engine) {
    let t = TestStore::new(on).await;
    let id = t.submit_one(at(0)).await;
    let mut watch = t.wake().watch(id);
    let mut other = t.wake().watch(crate::support::new_id(at(0)));
    let claimed = t.claim_one(at(0)).await;
    soon(watch.changed()).await;
    let step = provisioning(&claimed).start(at(1));
    t.commit(&claimed.lease, started(&step)).await.expect("starts");
    soon(watch.changed()).await;
    let output = vec![chunk(Stream::Stdout, 0, b"x")];
    t.commit(&claimed.lease, Commit { output, ..Commit::default() }).await.expect("stored");
    soon(watch.changed()).await;
    t.request_cancel(&tenant(), id, wish(at(2), None)).await.expect("is there");
    soon(watch.changed()).await;
    assert!(is_pending(watch.changed()), "nothing more came");
    t.commit(&claimed.lease, finished(step.evaluation, at(3), Verdict::Cancelled)).await.expect("ends");
    soon(watch.changed()).await;
    t.delete(&tenant(), id).await.expect("deleted");
    soon(watch.changed()).await;
    assert!(is_pending(other.changed()), "of others one hears nothing");
    t.check().await;
}

#[rstest]
#[tokio::test]
async fn what_failed_is_not_hinted_at(#[values(Sqlite, Postgres)] on: Engine) {
    let t = TestStore::new(on).await;
    let (claimed, running) = t.running(at(0)).await;
    let mut watch = t.wake().watch(claimed.lease.evaluation);
    let gap =
        Commit { output: vec![chunk(Stream::Stdout, 5, b"x")], ..finished(running, at(1), Verdict::Failed) };
    t.commit(&claimed.lease, gap).await.expect_err("a gap");
    t.check_writable().await.expect("writes");
    assert!(is_pending(watch.changed()));
    t.check().await;
}

#[rstest]
#[tokio::test]
async fn a_subscriber_that_does_not_listen_costs_nothing_and_misses_only_repetitions(
    #[values(Sqlite, Postgres)] on: Engine,
) {
    let t = TestStore::new(on).await;
    let (claimed, running) = t.running(at(0)).await;
    let mut slow = t.wake().watch(claimed.lease.evaluation);
    for i in 0..300 {
        let output = vec![chunk(Stream::Stdout, i, b"x")];
        t.commit(&claimed.lease, Commit { output, ..Commit::default() }).await.expect("stored");
    }
    soon(slow.changed()).await;
    assert!(is_pending(slow.changed()), "one hint for all of them");
    t.commit(&claimed.lease, finished(running, at(1), Verdict::Failed)).await.expect("ends");
    soon(slow.changed()).await;
    drop(slow);
    assert!(format!("{:?}", t.wake()).contains("watched: 0"), "nobody watches: {:?}", t.wake());
    t.check().await;
}

#[rstest]
#[tokio::test]
async fn too_many_cancels_for_a_slow_listener_are_told_as_such(#[values(Sqlite, Postgres)] on: Engine) {
    let t = TestStore::new(on).await;
    let (claimed, _) = t.running(at(0)).await;
    let id = claimed.lease.evaluation;
    let mut cancels = t.wake().cancels();
    let queued = t.submit_one(at(0)).await;
    t.request_cancel(&tenant(), queued, wish(at(1), None)).await.expect("ends");
    t.request_cancel(&tenant(), id, wish(at(1), None)).await.expect("is there");
    assert_eq!(soon(cancels.recv()).await, Some(id), "one that was queued is nobody's to cancel");
    for _ in 0..300 {
        t.request_cancel(&tenant(), id, wish(at(1), None)).await.expect("is there");
    }
    assert_eq!(soon(cancels.recv()).await, None);
    assert_eq!(soon(cancels.recv()).await, Some(id), "and then it goes on");
    t.check().await;
}
