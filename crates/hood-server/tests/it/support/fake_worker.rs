//! A worker's side of the store, played by the test: it runs nothing and says what it is told to.

use std::time::Duration;

use hood_core::lifecycle::{AfterLoss, AnyEvaluation};
use hood_core::outcome::Stream;
use hood_core::retry::{Loss, RetryPolicy};
use hood_core::{Transition, Verdict};
use hood_server::clock::{Clock, SystemClock};
use hood_server::document::{Moments, ResultDocument, StreamDocument, to_json};
use hood_store::{Chunk, Claimed, Commit, Store, Tenure};
use hood_wire::api;

/// No test lasts as long.
const TTL: Duration = Duration::from_secs(600);

pub(crate) struct FakeWorker {
    store: Store,
}

/// One attempt in the worker's hands.
pub(crate) struct Attempt {
    store: Store,
    claimed: Claimed,
    written: [u64; 2],
}

impl FakeWorker {
    pub(crate) fn new(store: Store) -> Self {
        Self { store }
    }

    pub(crate) async fn claim(&self) -> Attempt {
        let claimed = self
            .store
            .claim(&Tenure { worker: "test".to_owned(), now: SystemClock.now(), ttl: TTL }, 1)
            .await
            .expect("claims")
            .pop();
        Attempt { store: self.store.clone(), claimed: claimed.expect("something is queued"), written: [0, 0] }
    }

    /// What was asked for, read as a worker reads it; and whether it was in a blob.
    pub(crate) async fn claim_request(&self) -> (String, bool) {
        let Claimed { request, input, .. } = self.claim().await.claimed;
        match input {
            Some(name) => (self.store.input(&name).await.expect("is there"), true),
            None => (request, false),
        }
    }
}

impl Attempt {
    pub(crate) fn request(&self) -> &str {
        &self.claimed.request
    }

    async fn commit(&self, commit: Commit) {
        self.store.commit(&self.claimed.lease, commit).await.expect("the lease is held");
    }

    async fn step(&mut self, transition: Transition, commit: Commit) {
        self.commit(Commit { transitions: vec![transition], ..commit }).await;
    }

    pub(crate) async fn start(&mut self) {
        let AnyEvaluation::Provisioning(evaluation) = self.claimed.evaluation else {
            panic!("not provisioning")
        };
        let step = evaluation.start(SystemClock.now());
        self.claimed.evaluation = AnyEvaluation::Running(step.evaluation);
        self.step(step.transition, Commit::default()).await;
    }

    pub(crate) async fn write(&mut self, stream: Stream, bytes: &[u8]) {
        let written = &mut self.written[stream as usize];
        let chunk = Chunk { stream, offset: *written, bytes: bytes.to_vec() };
        *written += bytes.len() as u64;
        self.commit(Commit { output: vec![chunk], ..Commit::default() }).await;
    }

    /// Ends it; `exit_code` goes with `succeeded` and `failed`.
    pub(crate) async fn finish(mut self, verdict: Verdict, exit_code: Option<u8>) {
        let AnyEvaluation::Running(evaluation) = self.claimed.evaluation else { panic!("not running") };
        let step = evaluation.end(SystemClock.now(), verdict);
        let stream = |bytes| StreamDocument { bytes, complete: true };
        let result = ResultDocument {
            exit_code,
            signal: None,
            evidence: api::Evidence { decided_by: "wait_status".to_owned(), ..api::Evidence::default() },
            usage: api::Usage { wall_ms: Some(1.5), ..api::Usage::default() },
            limits: None,
            stdout: stream(self.written[0]),
            stderr: stream(self.written[1]),
            build: None,
            moments: Moments::default(),
        };
        let commit = Commit { result: Some(to_json(&result)), ..Commit::default() };
        self.step(step.transition, commit).await;
    }

    /// Loses it to infrastructure, for the last time where `last`.
    pub(crate) async fn lose_for_good_if(mut self, last: bool, reason: &str) {
        let AnyEvaluation::Provisioning(evaluation) = self.claimed.evaluation else {
            panic!("not provisioning")
        };
        if !last {
            return self.lose(reason).await;
        }
        let policy = RetryPolicy { infrastructure_attempts: 1, ..RetryPolicy::DEFAULT };
        let after = evaluation.lose(SystemClock.now(), Loss::Infrastructure, &policy, 0.0);
        let lost = api::Lost { kind: "infrastructure".to_owned(), reason: reason.to_owned() };
        let evidence = api::Evidence { decided_by: "lost".to_owned(), ..api::Evidence::default() };
        let result = Some(to_json(&ResultDocument::without_run(evidence)));
        let commit = Commit { lost: Some(to_json(&lost)), result, ..Commit::default() };
        self.step(*after.transition(), commit).await;
    }

    /// Loses it to infrastructure before it was started.
    pub(crate) async fn lose(mut self, reason: &str) {
        let AnyEvaluation::Provisioning(evaluation) = self.claimed.evaluation else {
            panic!("not provisioning")
        };
        // No wait before the next attempt.
        let policy = RetryPolicy { backoff_first: Duration::ZERO, ..RetryPolicy::DEFAULT };
        let after = evaluation.lose(SystemClock.now(), Loss::Infrastructure, &policy, 0.0);
        let AfterLoss::Retried(step) = after else { panic!("lost for good") };
        let lost = api::Lost { kind: "infrastructure".to_owned(), reason: reason.to_owned() };
        let commit = Commit { lost: Some(to_json(&lost)), ..Commit::default() };
        self.step(step.transition, commit).await;
    }
}
