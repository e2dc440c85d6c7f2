//! Grey box: a worker that freezes while a program runs, and another that takes its lease over. The
//! place, the store and the program are real; only the first worker's death is arranged.

use std::sync::Arc;
use std::time::Duration;

use hood_core::outcome::Stream;
use hood_core::plan::PolicyMode;
use hood_core::retry::RetryPolicy;
use hood_core::{EvaluationId, EventKind, Limits, State, Tenant, Timestamp, Verdict};
use hood_dispatch::Dispatch;
use hood_dispatch::environment::{self, Library};
use hood_dispatch::local::{Local, LocalConfig};
use hood_server::clock::SystemClock;
use hood_server::document::{self, AcceptedDocument, limits_to_wire};
use hood_server::health::Health;
use hood_server::worker::{Means, ThreadDice, TokioSpawner, Worker, WorkerConfig};
use hood_store::{NewEvaluation, NewSubmission, Record, Span, Store, StoreConfig};
use hood_wire::api;
use tokio_util::sync::CancellationToken;

use crate::support::server::shared_images;

/// Long enough to be renewed on a loaded machine, short enough to be awaited in a test.
const LEASE: Duration = Duration::from_secs(2);

struct Scene {
    means: Means,
    store: Store,
    local: Local,
    _dir: tempfile::TempDir,
}

impl Scene {
    async fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let store = Store::open(StoreConfig::at(dir.path().join("store"))).await.expect("opens");
        let library = Library::open(&shared_images(), environment::builtin().expect("sound")).expect("opens");
        let config = LocalConfig {
            state_dir: dir.path().join("sandbox"),
            ids: None,
            cgroup_parent: None,
            places: 2,
            stock: 0,
            memory_bytes_max: 8 << 30,
        };
        let (local, _) = Local::start(config, Arc::new(library)).expect("starts");
        let dispatch: Arc<dyn Dispatch> = Arc::new(local.clone());
        let means = Means {
            store: Arc::new(store.clone()),
            dispatch,
            clock: Arc::new(SystemClock),
            dice: Arc::new(ThreadDice),
            spawner: Arc::new(TokioSpawner),
        };
        Self { means, store, local, _dir: dir }
    }

    fn worker(&self, name: &str) -> Worker {
        // What an ordinary user's places lack is no concern of these tests.
        let is_root = rustix::process::geteuid().is_root();
        let config = WorkerConfig {
            name: name.to_owned(),
            places: 2,
            lease_ttl: LEASE,
            queue_ttl: Duration::from_secs(3600),
            drain: Duration::from_secs(30),
            retry: RetryPolicy::DEFAULT,
            policy: if is_root { PolicyMode::Strict } else { PolicyMode::Development },
        };
        Worker::new(self.means.clone(), Health::default(), config)
    }

    async fn submit(&self, code: &str) -> EvaluationId {
        let accepted = AcceptedDocument {
            submission: api::Submission { code: Some(code.to_owned()), ..api::Submission::default() },
            environment: "minimal".to_owned(),
            limits: limits_to_wire(&Limits::DEFAULT, &[]),
            grace_ms: 1000,
            image: None,
            code: None,
            build: None,
            priority: 5,
            traceparent: None,
        };
        let id = EvaluationId::new(self.means.clock.now(), [7; 10]);
        let evaluation = NewEvaluation {
            id,
            environment: accepted.environment.clone(),
            priority: 5,
            labels: Default::default(),
            callback: None,
            request: document::to_json(&accepted),
            input: None,
        };
        let submission = NewSubmission { batch: None, evaluations: vec![evaluation], idempotency: None };
        let now = self.means.clock.now();
        self.store.submit(&Tenant::default(), now, submission).await.expect("accepted");
        id
    }

    async fn until(&self, id: EvaluationId, done: impl Fn(&Record) -> bool) -> Record {
        loop {
            let record = self.store.get(&Tenant::default(), id).await.expect("there");
            if done(&record) {
                return record;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_worker_goes_on_with_the_same_attempt_and_nothing_runs_twice() {
    let scene = Scene::new().await;
    let code = "import time\nfor n in range(200): print(n, flush=True); time.sleep(0.03)";
    let id = scene.submit(code).await;

    // Its own runtime, so that all of it can be stopped in the middle of whatever it does.
    let first = scene.worker("first");
    let frozen = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        runtime.expect("a runtime")
    })
    .join()
    .expect("made");
    let stop = CancellationToken::new();
    frozen.spawn(first.run(stop.clone()));
    scene.until(id, |record| record.state == State::Running).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    frozen.shutdown_background();

    let second = scene.worker("second");
    let running = tokio::spawn(second.run(stop.clone()));
    let record = scene.until(id, |record| record.state.is_terminal()).await;
    assert_eq!(record.verdict, Some(Verdict::Succeeded), "{record:?}");
    assert_eq!(record.attempts.len(), 1, "a lapsed lease is no new attempt: {:?}", record.attempts);

    let span = Span { stream: Stream::Stdout, attempt: None, offset: 0, max: 1 << 20 };
    let output = scene.store.output(&Tenant::default(), id, span).await.expect("there");
    let wanted: String = (0..200).map(|n| format!("{n}\n")).collect();
    assert_eq!(String::from_utf8_lossy(&output.bytes), wanted, "lost or repeated");
    let events = scene.store.events(&Tenant::default(), id, 0, 100).await.expect("there");
    let started = events.iter().filter(|event| matches!(event.kind, EventKind::Started { .. })).count();
    assert_eq!((started, events.len()), (1, 4), "{events:?}");

    stop.cancel();
    running.await.expect("stops");
    scene.local.shut_down(Duration::from_secs(10)).await;
}

/// The place of a lapsed lease died with its owner: the next attempt is a new one.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_attached_to_is_lost_and_tried_again() {
    let scene = Scene::new().await;
    let id = scene.submit("print('ran')").await;
    // Claimed by somebody who never came to make a place.
    let long_ago = Timestamp::from_micros(scene.means.clock.now().as_micros() - 60_000_000);
    let tenure = hood_store::Tenure { worker: "dead".to_owned(), now: long_ago, ttl: LEASE };
    assert_eq!(scene.store.claim(&tenure, 1).await.expect("claims").len(), 1);

    let stop = CancellationToken::new();
    let running = tokio::spawn(scene.worker("second").run(stop.clone()));
    let record = scene.until(id, |record| record.state.is_terminal()).await;
    assert_eq!((record.verdict, record.attempts.len()), (Some(Verdict::Succeeded), 2), "{record:?}");
    assert_eq!(record.history.losses.own_death, 1);
    assert!(record.attempts[0].lost.as_deref().is_some_and(|lost| lost.contains("own_death")));
    stop.cancel();
    running.await.expect("stops");
    scene.local.shut_down(Duration::from_secs(10)).await;
}
