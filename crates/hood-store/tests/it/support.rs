//! Black box. A store in a directory of its own, with the ways to fill it, and the invariants that
//! hold whatever was done to it.

pub(crate) mod invariants;
pub(crate) mod s3;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::ops::Deref;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hood_core::lifecycle::{AnyEvaluation, Provisioning, Running, Step};
use hood_core::outcome::Stream;
use hood_core::{Evaluation, EvaluationId, Loss, RetryPolicy, Tenant, Timestamp, Verdict};
use hood_store::{
    Chunk, Claimed, Commit, DatabaseUrl, Lapsed, NewEvaluation, NewSubmission, OutputSlice, Span, Store,
    StoreConfig, Tenure,
};
use tempfile::TempDir;

pub(crate) const TTL: Duration = Duration::from_secs(10);
pub(crate) const RESULT: &str = r#"{"the":"result"}"#;

/// A moment, in milliseconds since the tests' own beginning.
pub(crate) fn at(millis: i64) -> Timestamp {
    Timestamp::from_micros(1_700_000_000_000_000 + millis * 1000)
}

pub(crate) fn tenant() -> Tenant {
    Tenant::default()
}

/// A new id made at `now`; later ones sort after earlier ones of the same moment.
pub(crate) fn new_id(now: Timestamp) -> EvaluationId {
    EvaluationId::new(now, serial())
}

pub(crate) fn serial() -> [u8; 10] {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let mut random = [0; 10];
    random[2..].copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    random
}

pub(crate) fn evaluation(id: EvaluationId, priority: u8) -> NewEvaluation {
    NewEvaluation {
        id,
        environment: "minimal".to_owned(),
        priority,
        labels: BTreeMap::new(),
        callback: None,
        request: format!(r#"{{"of":"{id}"}}"#),
        input: None,
    }
}

pub(crate) fn single(evaluation: NewEvaluation) -> NewSubmission {
    NewSubmission { batch: None, evaluations: vec![evaluation], idempotency: None }
}

pub(crate) fn tenure(now: Timestamp) -> Tenure {
    Tenure { worker: "w1".to_owned(), now, ttl: TTL }
}

pub(crate) fn chunk(stream: Stream, offset: u64, bytes: &[u8]) -> Chunk {
    Chunk { stream, offset, bytes: bytes.to_vec() }
}

pub(crate) fn provisioning(claimed: &Claimed) -> Evaluation<Provisioning> {
    match claimed.evaluation {
        AnyEvaluation::Provisioning(evaluation) => evaluation,
        other => panic!("claimed in {other:?}"),
    }
}

pub(crate) fn started(step: &Step<Running>) -> Commit {
    Commit { transitions: vec![step.transition], ..Commit::default() }
}

pub(crate) fn finished(running: Evaluation<Running>, now: Timestamp, verdict: Verdict) -> Commit {
    let transitions = vec![running.end(now, verdict).transition];
    Commit { transitions, result: Some(RESULT.to_owned()), ..Commit::default() }
}

/// The attempt was lost before the program began.
pub(crate) fn lost(claimed: &Claimed, now: Timestamp) -> Commit {
    let after = provisioning(claimed).lose(now, Loss::Infrastructure, &RetryPolicy::DEFAULT, 1.0);
    Commit {
        transitions: vec![*after.transition()],
        lost: Some(r#""no place""#.to_owned()),
        ..Commit::default()
    }
}

/// What the store is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    Sqlite,
    Postgres,
}

/// A store of its own of this kind; where there is no PostgreSQL, that is said, and the test runs once
/// more as it did on SQLite.
pub(crate) async fn config(on: Engine, dir: &Path) -> StoreConfig {
    let mut config = StoreConfig::at(dir.join("store"));
    if on == Engine::Postgres && has_postgres() {
        let url = hood_testkit::postgres().await.fresh_database().await;
        config.url = Some(DatabaseUrl::parse(&url).expect("an address"));
    }
    config
}

pub(crate) fn has_postgres() -> bool {
    let missing = hood_testkit::missing();
    if let Some(why) = &missing {
        let _ = writeln!(std::io::stderr(), "\nSKIPPED: postgres: {why}");
    }
    missing.is_none()
}

/// From the lease to the end.
pub(crate) async fn end(store: &Store, claimed: &Claimed, now: Timestamp, verdict: Verdict) {
    let step = provisioning(claimed).start(now);
    store.commit(&claimed.lease, started(&step)).await.expect("starts");
    store.commit(&claimed.lease, finished(step.evaluation, now, verdict)).await.expect("ends");
}

/// The name of a store's database on the tests' PostgreSQL.
pub(crate) fn database(t: &TestStore) -> String {
    let url = t.config.url.as_ref().expect("is on PostgreSQL").to_string();
    url.rsplit('/').next().expect("a name").to_owned()
}

#[derive(Debug)]
pub(crate) struct TestStore {
    pub(crate) store: Store,
    pub(crate) config: StoreConfig,
    /// Removed with this.
    _dir: TempDir,
}

impl Deref for TestStore {
    type Target = Store;

    fn deref(&self) -> &Store {
        &self.store
    }
}

impl TestStore {
    pub(crate) async fn new(on: Engine) -> Self {
        Self::with(on, |_| {}).await
    }

    pub(crate) async fn with(on: Engine, change: impl FnOnce(&mut StoreConfig)) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut config = config(on, dir.path()).await;
        change(&mut config);
        Self { store: Store::open(config.clone()).await.expect("opens"), config, _dir: dir }
    }

    /// Over what is there.
    pub(crate) async fn over(config: StoreConfig) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        Self { store: Store::open(config.clone()).await.expect("opens"), config, _dir: dir }
    }

    /// As after a restart.
    pub(crate) async fn reopen(self) -> Self {
        self.store.close().await;
        let store = Store::open(self.config.clone()).await.expect("opens again");
        Self { store, ..self }
    }

    pub(crate) async fn submit_one(&self, now: Timestamp) -> EvaluationId {
        self.submit_with(now, |_| {}).await
    }

    pub(crate) async fn submit_with(
        &self,
        now: Timestamp,
        change: impl FnOnce(&mut NewEvaluation),
    ) -> EvaluationId {
        let mut new = evaluation(new_id(now), 0);
        change(&mut new);
        let id = new.id;
        self.store.submit(&tenant(), now, single(new)).await.expect("accepted");
        id
    }

    pub(crate) async fn claim_one(&self, now: Timestamp) -> Claimed {
        let mut claimed = self.store.claim(&tenure(now), 1).await.expect("claims");
        claimed.pop().expect("something is queued and due")
    }

    /// Submits one and leases it.
    pub(crate) async fn leased(&self, now: Timestamp) -> Claimed {
        let id = self.submit_one(now).await;
        let claimed = self.claim_one(now).await;
        assert_eq!(claimed.lease.evaluation, id);
        claimed
    }

    /// Submits one, leases it and starts it.
    pub(crate) async fn running(&self, now: Timestamp) -> (Claimed, Evaluation<Running>) {
        let claimed = self.leased(now).await;
        let step = provisioning(&claimed).start(now);
        self.store.commit(&claimed.lease, started(&step)).await.expect("starts");
        (claimed, step.evaluation)
    }

    /// Submits one and runs it to its end.
    pub(crate) async fn ended(&self, now: Timestamp, verdict: Verdict) -> EvaluationId {
        let (claimed, running) = self.running(now).await;
        self.store.commit(&claimed.lease, finished(running, now, verdict)).await.expect("ends");
        claimed.lease.evaluation
    }

    pub(crate) async fn claim_all(&self, now: Timestamp) -> Vec<Claimed> {
        self.store.claim(&tenure(now), 1000).await.expect("claims")
    }

    /// From the lease to the end.
    pub(crate) async fn run_to_the_end(&self, claimed: &Claimed, now: Timestamp, verdict: Verdict) {
        end(&self.store, claimed, now, verdict).await;
    }

    pub(crate) async fn reclaim(&self, now: Timestamp, which: Lapsed) -> Vec<Claimed> {
        self.store.reclaim(&tenure(now), 100, which).await.expect("reclaims")
    }

    pub(crate) async fn read(&self, id: EvaluationId, stream: Stream) -> OutputSlice {
        let span = Span { stream, attempt: None, offset: 0, max: usize::MAX };
        self.store.output(&tenant(), id, span).await.expect("output")
    }

    /// The end of a test: the invariants hold.
    pub(crate) async fn check(self) {
        invariants::check(&self.store).await;
        self.store.close().await;
    }
}
