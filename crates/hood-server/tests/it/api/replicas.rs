//! Grey box: two replicas of the API and a worker, each with a store of its own on one database, and a
//! Redis between them. A follower asks the database by itself once an hour here: what comes, comes by
//! the bus, or by what stands in for it while it is away.

use std::io::Write as _;
use std::time::Duration;

use hood_core::Verdict;
use hood_core::outcome::Stream;
use hood_store::{BusConfig, BusSide, Reach, Store, StoreConfig};
use hood_testkit::Redis;
use serde_json::json;

use super::evaluations::events::Listening;
use super::evaluations::follow::Following;
use crate::support::app::{PATIENCE, TestApp};
use crate::support::fake_worker::FakeWorker;

const HOUR: Duration = Duration::from_secs(3600);

struct Installation {
    redis: Redis,
    here: TestApp,
    there: TestApp,
    worker: Store,
}

impl Installation {
    /// `None`, and said so, where there is no Redis to start.
    async fn start() -> Option<Self> {
        if let Some(why) = hood_testkit::missing() {
            let _ = writeln!(std::io::stderr(), "\nSKIPPED: redis: {why}");
            return None;
        }
        let redis = Redis::start().expect("starts");
        let bus = |side| Some(BusConfig { url: redis.url(), ca: None, prefix: "fumehood:".to_owned(), side });
        let mut shared = None;
        let here = TestApp::with(|settings| {
            settings.store.bus = bus(BusSide::Api);
            settings.limits.stream.poll_every = HOUR;
            shared = Some(StoreConfig { bus: bus(BusSide::Worker), ..settings.store.clone() });
        })
        .await;
        let there = here.replica().await;
        let worker = Store::open(shared.expect("was set")).await.expect("opens");
        let installation = Self { redis, here, there, worker };
        installation.reaches(|reach| *reach == Reach::Connected).await;
        Some(installation)
    }

    async fn reaches(&self, is: impl Fn(&Reach) -> bool) {
        let stores = [&self.here.store, &self.there.store, &self.worker];
        let waited = tokio::time::timeout(PATIENCE, async {
            while !stores.iter().all(|store| is(&store.wake().reach())) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        waited.await.expect("comes to hold");
    }

    async fn is_cut_off(&self) {
        self.reaches(|reach| matches!(reach, Reach::CutOff { .. })).await;
    }
}

#[tokio::test]
async fn a_follower_of_one_replica_sees_what_was_submitted_to_the_other_and_run_elsewhere() {
    let Some(t) = Installation::start().await else { return };
    let id = t.here.submit(&json!({"code": ""})).await;
    let mut events = Listening::open(&t.there, &id, None).await;
    let mut output = Following::open(&t.there, &id, "").await;
    assert_eq!(events.event().await.expect("submitted").number, 1);
    let mut attempt = FakeWorker::new(t.worker.clone()).claim().await;
    assert_eq!(events.event().await.expect("leased").number, 2);
    attempt.start().await;
    assert_eq!(events.event().await.expect("started").number, 3);
    attempt.write(Stream::Stdout, b"one").await;
    assert_eq!(output.until(3).await, b"one");
    attempt.write(Stream::Stdout, b"two").await;
    assert_eq!(output.until(6).await, b"onetwo");
    attempt.finish(Verdict::Succeeded, Some(0)).await;
    assert_eq!(events.remaining().await, [4]);
    assert_eq!(output.finish().await.expect("whole"), b"onetwo");
}

#[tokio::test]
async fn followers_miss_nothing_while_the_bus_dies_and_comes_back() {
    let Some(t) = Installation::start().await else { return };
    let id = t.here.submit(&json!({"code": ""})).await;
    let mut events = Listening::open(&t.there, &id, None).await;
    let mut output = Following::open(&t.there, &id, "").await;
    let mut attempt = FakeWorker::new(t.worker.clone()).claim().await;
    attempt.start().await;
    attempt.write(Stream::Stdout, b"one").await;
    t.redis.kill9().expect("dies");
    assert_eq!(output.until(3).await, b"one");
    t.is_cut_off().await;
    attempt.write(Stream::Stdout, b"two").await;
    assert_eq!(output.until(6).await, b"onetwo", "without the bus");
    for number in 1..=3 {
        assert_eq!(events.event().await.expect("an event").number, number);
    }

    t.redis.restart().expect("comes back");
    t.reaches(|reach| *reach == Reach::Connected).await;
    attempt.write(Stream::Stdout, b"three").await;
    assert_eq!(output.until(11).await, b"onetwothree", "with it again");
    t.redis.kill9().expect("dies");
    attempt.finish(Verdict::Succeeded, Some(0)).await;
    assert_eq!(events.remaining().await, [4]);
    assert_eq!(output.finish().await.expect("whole"), b"onetwothree");
}
