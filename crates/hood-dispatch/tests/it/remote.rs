//! Grey box: what is owed over a wire and has no meaning in process. Places are made up here; their
//! reports and what is acknowledged of them are what counts.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _};
use hood_core::outcome::{Observation, Stream, WaitStatus};
use hood_core::plan::{Assignment, Capacity, ExecutorClass, Offer, PlaceKind};
use hood_core::{EvaluationId, Limits, Program, Timestamp};
use hood_dispatch::remote::{Failure, Transport as _};
use hood_dispatch::{
    AttemptKey, Catalogue, Conduct, Dispatch, DispatchError, Link, Order, Report, ReportBody, link,
};
use hood_wire::dispatch as wire;

use crate::bench::PATIENCE;
use crate::wire::{PLACES, Way, Weather, worker};

/// Reports that each made-up place has.
const REPORTS: u64 = 40;

/// Places that belong to nobody's process, as pods do: several dispatchers see the same ones.
#[derive(Clone, Debug, Default)]
struct Pods(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    pods: Mutex<HashMap<AttemptKey, Pod>>,
    executions: AtomicU32,
    cancelled: AtomicU32,
}

#[derive(Debug)]
struct Pod {
    highest: u64,
    acknowledged: u64,
    listeners: u32,
}

impl Pods {
    fn pods(&self) -> std::sync::MutexGuard<'_, HashMap<AttemptKey, Pod>> {
        self.0.pods.lock().expect("never poisoned")
    }

    fn executions(&self) -> u32 {
        self.0.executions.load(Ordering::SeqCst)
    }

    /// The place is killed and proven dead.
    fn bury(&self, key: AttemptKey) {
        self.pods().remove(&key);
    }

    async fn wait_for(&self, what: impl Fn(&Self) -> bool) {
        let wait = async {
            while !what(self) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("in time");
    }
}

fn report(number: u64) -> Report {
    let body = match number {
        1 => ReportBody::Ready { environment_digest: "blake3:00".to_owned() },
        REPORTS => ReportBody::Ended(Box::new(Observation {
            wait: Some(WaitStatus::Exited(0)),
            ..Observation::default()
        })),
        n => ReportBody::Output {
            stream: Stream::Stdout,
            offset: n - 2,
            bytes: vec![u8::try_from(n).unwrap_or(0)],
        },
    };
    Report { number, body }
}

impl Dispatch for Pods {
    fn execute(&self, order: Order) -> BoxFuture<'_, Result<Link, DispatchError>> {
        self.0.executions.fetch_add(1, Ordering::SeqCst);
        let pod = Pod { highest: order.token, acknowledged: 0, listeners: 0 };
        self.pods().entry(order.key).or_insert(pod);
        self.attach(order.key, order.token, 0)
    }

    fn attach(&self, key: AttemptKey, token: u64, _after: u64) -> BoxFuture<'_, Result<Link, DispatchError>> {
        async move {
            let (acknowledged, me) = {
                let mut pods = self.pods();
                let pod = pods.get_mut(&key).ok_or(DispatchError::Gone(key))?;
                if token < pod.highest {
                    return Err(DispatchError::Stale(key));
                }
                pod.highest = token;
                pod.listeners += 1;
                (pod.acknowledged, pod.listeners)
            };
            let (ours, mut theirs) = link(acknowledged);
            let pods = self.clone();
            tokio::spawn(async move {
                for number in acknowledged + 1..=REPORTS {
                    // The first is held back until it is acknowledged, as a program is.
                    if number == 2 && theirs.acknowledged.wait_for(|acked| *acked >= 1).await.is_err() {
                        return;
                    }
                    if theirs.reports.send(report(number)).await.is_err() {
                        return;
                    }
                    let mut all = pods.pods();
                    let Some(pod) = all.get_mut(&key).filter(|pod| pod.listeners == me) else { return };
                    pod.acknowledged = pod.acknowledged.max(*theirs.acknowledged.borrow());
                }
                while theirs.acknowledged.changed().await.is_ok() {
                    let mut all = pods.pods();
                    let Some(pod) = all.get_mut(&key).filter(|pod| pod.listeners == me) else { return };
                    pod.acknowledged = pod.acknowledged.max(*theirs.acknowledged.borrow());
                    if pod.acknowledged >= REPORTS {
                        all.remove(&key);
                        return;
                    }
                }
            });
            Ok(ours)
        }
        .boxed()
    }

    fn cancel(&self, _key: AttemptKey, _grace: Duration) {
        self.0.cancelled.fetch_add(1, Ordering::SeqCst);
    }

    fn holds(&self, key: AttemptKey) -> BoxFuture<'_, Result<bool, DispatchError>> {
        std::future::ready(Ok(self.pods().contains_key(&key))).boxed()
    }

    fn capacity(&self) -> Arc<Catalogue> {
        let capacity = Capacity {
            version: 1,
            taken_at: Timestamp::from_micros(1),
            kind: PlaceKind::LocalRoot,
            classes: vec![ExecutorClass::Cpu],
            proven: Vec::new(),
            unproven: Vec::new(),
            memory_bytes_max: 1 << 30,
            places: 4,
        };
        let offer = Offer { executor: "any".to_owned(), free: 4, open: true, environments: None, capacity };
        Arc::new(Catalogue { version: 1, offers: vec![offer], environments: Vec::new(), silent: Vec::new() })
    }
}

fn order(executor: &str, n: u8, token: u64) -> Order {
    Order {
        key: AttemptKey { evaluation: EvaluationId::new(Timestamp::from_micros(1), [n; 10]), attempt: 1 },
        token,
        assignment: Assignment {
            executor: executor.to_owned(),
            kind: PlaceKind::LocalRoot,
            class: ExecutorClass::Cpu,
            environment: "minimal".to_owned(),
            limits: Limits::DEFAULT,
            unenforced: Vec::new(),
            degraded: Vec::new(),
            capacity_version: 1,
            capacity_taken_at: Timestamp::from_micros(1),
            reasons: Vec::new(),
        },
        program: Program {
            build: None,
            argv: Vec::new(),
            env: Vec::new(),
            cwd: "/eval".to_owned(),
            files: Vec::new(),
            stdin: Vec::new(),
        },
        conduct: Conduct { grace: Duration::ZERO, fail_on_output_limit: false },
        traceparent: None,
    }
}

async fn next(link: &mut Link) -> Option<Report> {
    tokio::time::timeout(PATIENCE, link.next()).await.expect("in time")
}

/// Takes and acknowledges everything after `from` up to `to`; each comes once and in order.
async fn take(link: &mut Link, from: u64, to: u64) {
    for number in from + 1..=to {
        assert_eq!(next(link).await, Some(report(number)));
        link.acknowledge(number);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_outlives_its_dispatcher_is_attached_to_by_another() {
    let pods = Pods::default();
    let ways = ["one", "two"].map(|name| Way::to_pods(Arc::new(pods.clone()), name, Weather::CALM));
    let first = worker(&ways).await;
    let key = order("one", 1, 1).key;
    let mut link = first.execute(order("one", 1, 1)).await.expect("a place");
    take(&mut link, 0, 10).await;
    pods.wait_for(|pods| pods.pods()[&key].acknowledged == 10).await;
    // Dispatcher and worker die together; nobody is left who was there.
    ways[0].away.store(true, Ordering::Relaxed);
    drop((link, first));
    let second = worker(&ways).await;
    let mut link = second.attach(key, 2, 0).await.expect("the other dispatcher sees it");
    assert_eq!(link.executor(), Some("two"));
    take(&mut link, 10, REPORTS).await;
    pods.wait_for(|pods| pods.pods().is_empty()).await;
    assert_eq!(pods.executions(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_follows_such_a_place_to_another_dispatcher() {
    let pods = Pods::default();
    let ways = ["one", "two"].map(|name| Way::to_pods(Arc::new(pods.clone()), name, Weather::CALM));
    let remote = worker(&ways).await;
    let mut link = remote.execute(order("one", 1, 1)).await.expect("a place");
    take(&mut link, 0, 10).await;
    ways[0].away.store(true, Ordering::Relaxed);
    // Streams that are open are not cut by that; its end is.
    ways[0].replace(Arc::new(pods.clone()), "one");
    pods.attach(order("one", 1, 1).key, 1, 0).await.expect("the stream's link is taken away");
    take(&mut link, 10, REPORTS).await;
    assert_eq!(pods.executions(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dispatcher_that_restarts_says_that_its_places_are_gone() {
    let pods = Pods::default();
    let way = Way::new(Arc::new(pods.clone()), "one", Weather { cut: 500, ..Weather::CALM });
    let remote = worker(std::slice::from_ref(&way)).await;
    let mut link = remote.execute(order("one", 1, 1)).await.expect("a place");
    assert_eq!(next(&mut link).await, Some(report(1)));
    // The successor has buried what its predecessor left.
    pods.bury(order("one", 1, 1).key);
    way.replace(Arc::new(Pods::default()), "one");
    link.acknowledge(1);
    while next(&mut link).await.is_some() {}
    let gone = remote.attach(order("one", 1, 1).key, 2, 0).await;
    assert!(matches!(gone, Err(DispatchError::Gone(_))), "{gone:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_for_an_earlier_life_makes_no_second_place_however_late_it_comes() {
    let pods = Pods::default();
    let way = Way::new(Arc::new(pods.clone()), "one", Weather::CALM);
    let remote = worker(std::slice::from_ref(&way)).await;
    let _link = remote.execute(order("one", 1, 1)).await.expect("a place");
    let delayed = way.ordered();
    // It restarts: its place is buried, and it remembers nothing of the order.
    pods.bury(order("one", 1, 1).key);
    way.replace(Arc::new(pods.clone()), "one");
    let late = way.call(delayed).await;
    let gone = wire::ProblemCode::Gone;
    assert!(matches!(&late, Err(Failure::Refused(problem)) if problem.code == gone), "{late:?}");
    assert_eq!(pods.executions(), 1, "its program would run twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn gone_is_a_promise_that_nothing_late_is_taken() {
    let pods = Pods::default();
    let way = Way::new(Arc::new(pods.clone()), "one", Weather::CALM);
    let remote = worker(std::slice::from_ref(&way)).await;
    let gone = remote.attach(order("one", 1, 5).key, 5, 0).await;
    assert!(matches!(gone, Err(DispatchError::Gone(_))), "{gone:?}");
    for token in [4, 5] {
        let late = remote.execute(order("one", 1, token)).await;
        assert!(matches!(late, Err(DispatchError::Stale(_))), "{late:?}");
    }
    assert_eq!(pods.executions(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn gone_is_not_said_while_a_dispatcher_that_may_have_it_is_away() {
    let pods = Pods::default();
    let ways = [
        Way::new(Arc::new(Pods::default()), "one", Weather::CALM),
        Way::new(Arc::new(pods.clone()), "two", Weather::CALM),
    ];
    let remote = worker(&ways).await;
    let key = order("two", 1, 1).key;
    while remote.capacity().offers.len() < 2 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    drop(remote.execute(order("two", 1, 1)).await.expect("a place"));
    ways[1].away.store(true, Ordering::Relaxed);
    let attaching = remote.attach(key, 2, 0);
    tokio::pin!(attaching);
    let early = tokio::time::timeout(Duration::from_millis(300), &mut attaching).await;
    assert!(early.is_err(), "decided without the one that has it: {early:?}");
    ways[1].away.store(false, Ordering::Relaxed);
    let link = tokio::time::timeout(PATIENCE, attaching).await.expect("in time").expect("it is there");
    assert_eq!(link.executor(), Some("two"));
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_count_only_from_the_one_who_was_given_the_assignment() {
    let pods = Pods::default();
    let way = Way::new(Arc::new(pods.clone()), "one", Weather { cut: 500, ..Weather::CALM });
    let remote = worker(std::slice::from_ref(&way)).await;
    let mut link = remote.execute(order("one", 1, 1)).await.expect("a place");
    assert_eq!(next(&mut link).await, Some(report(1)));
    // Another identity answers at the same address, and has the very same place to show.
    way.replace(Arc::new(pods.clone()), "another");
    link.acknowledge(1);
    let mut heard = 1;
    while let Ok(report) = tokio::time::timeout(Duration::from_millis(500), link.next()).await {
        // What was under way from the right one still counts.
        heard = report.expect("the stream is not over").number;
    }
    assert!(heard < REPORTS, "somebody else was believed");
    way.replace(Arc::new(pods), "one");
    take(&mut link, heard, REPORTS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_its_worker_gives_up_on_is_ended_and_not_taken_late() {
    let pods = Pods::default();
    let way = Way::new(Arc::new(pods.clone()), "one", Weather::CALM);
    let remote = worker(std::slice::from_ref(&way)).await;
    way.away.store(true, Ordering::Relaxed);
    let given_up = tokio::time::timeout(Duration::from_millis(50), remote.execute(order("one", 1, 1))).await;
    assert!(given_up.is_err());
    way.away.store(false, Ordering::Relaxed);
    pods.wait_for(|pods| pods.0.cancelled.load(Ordering::SeqCst) > 0).await;
    let late = remote.execute(order("one", 1, 1)).await;
    assert!(matches!(late, Err(DispatchError::Stale(_))), "{late:?}");
    assert_eq!(pods.executions(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_past_the_places_waits_for_its_turn() {
    let pods = Pods::default();
    let way = Way::new(Arc::new(pods.clone()), "one", Weather::CALM);
    let remote = worker(std::slice::from_ref(&way)).await;
    let mut links = Vec::new();
    for n in 0..PLACES {
        let n = u8::try_from(n).expect("few");
        links.push(remote.execute(order("one", n, 1)).await.expect("a place"));
    }
    let waiting = remote.execute(order("one", 99, 1));
    tokio::pin!(waiting);
    let early = tokio::time::timeout(Duration::from_millis(600), &mut waiting).await;
    assert!(early.is_err(), "one place too many: {early:?}");
    take(&mut links[0], 0, REPORTS).await;
    tokio::time::timeout(PATIENCE, waiting).await.expect("in time").expect("its turn");
    assert_eq!(pods.executions() as usize, PLACES + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_is_told_of_nothing_durable_that_was_not_sent() {
    let pods = Pods::default();
    let service = Way::new(Arc::new(pods.clone()), "one", Weather::CALM).service();
    let order = order("one", 1, 1);
    let key = order.key;
    drop(pods.execute(order).await.expect("a place"));
    let listen = wire::Listen { token: 1, after: 0, acknowledged: u64::MAX };
    let mut frames = service.listen(key, listen).await.expect("it is there");
    for number in 1..=REPORTS {
        let heard = tokio::time::timeout(PATIENCE, frames.next()).await.expect("in time").expect("more");
        assert_eq!(heard.number, number);
        let told = pods.pods().get(&key).map_or(0, |pod| pod.acknowledged);
        assert!(told <= number, "told that {told} is durable when {number} was sent");
    }
    let last = wire::Acknowledge { token: 1, number: REPORTS };
    service
        .call(hood_dispatch::remote::Call::Acknowledge { key, acknowledge: last })
        .await
        .expect("is passed on");
    drop(frames);
    pods.wait_for(|pods| pods.pods().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dispatcher_that_drains_takes_nothing_new_and_goes_on_with_what_it_has() {
    let pods = Pods::default();
    let way = Way::new(Arc::new(pods.clone()), "one", Weather::CALM);
    let remote = worker(std::slice::from_ref(&way)).await;
    let mut link = remote.execute(order("one", 1, 1)).await.expect("a place");
    take(&mut link, 0, 5).await;
    let service = way.service();
    service.drain();
    let refused = service.call(hood_dispatch::remote::Call::Execute {
        key: order("one", 2, 1).key,
        order: Arc::new(wire::Order { head: head(), payload: Vec::new() }),
    });
    assert_eq!(refused.await.expect_err("refused").code, wire::ProblemCode::Draining);
    take(&mut link, 5, REPORTS).await;
    let closed = async {
        while remote.capacity().open_places() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, closed).await.expect("it offers nothing any more");
}

fn head() -> wire::OrderHead {
    serde_json::from_str(include_str!("../../../hood-wire/src/dispatch/codec/fixtures/order-v1.json"))
        .expect("an order")
}
