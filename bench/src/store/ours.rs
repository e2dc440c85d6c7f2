//! Fumehood's store on one of its engines.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures::future::try_join_all;
use hood_core::lifecycle::AnyEvaluation;
use hood_core::outcome::Stream;
use hood_core::{BatchId, EvaluationId, Tenant, Timestamp, Verdict};
use hood_store::{
    Chunk, Claimed, Commit, DatabaseUrl, NewEvaluation, NewSubmission, Store, StoreConfig, Tenure,
};

use super::Shape;

const NOW: Timestamp = Timestamp::from_micros(1_800_000_000_000_000);
/// Longer than any measurement.
const TTL: Duration = Duration::from_secs(24 * 3600);
/// About what a small Python program comes to.
pub(super) const REQUEST_BYTES: usize = 800;
const RESULT_BYTES: usize = 600;
const OUTPUT_BYTES: usize = 200;

/// What a worker writes of an evaluation after the claim.
#[derive(Clone, Copy, Debug)]
pub(super) enum Life {
    /// One commit: it ran, and this came of it.
    Ended,
    /// Two, as the server's worker does: its program may run; it has ended, with output.
    StartedThenEnded,
}

#[derive(Debug)]
pub(super) struct Ours {
    pub(super) name: &'static str,
    store: Store,
    /// Of the next evaluation.
    next: u64,
}

impl Ours {
    pub(super) async fn open(name: &'static str, dir: &Path, url: Option<&str>) -> anyhow::Result<Self> {
        let url = url.map(DatabaseUrl::parse).transpose()?;
        // Bounds are not what is measured.
        let (storage_bytes, queue_max) = (u64::MAX / 4, u64::MAX / 4);
        let config = StoreConfig { url, storage_bytes, queue_max, ..StoreConfig::at(dir.join(name)) };
        Ok(Self { name, store: Store::open(config).await?, next: 0 })
    }

    pub(super) async fn durability(&self) -> anyhow::Result<String> {
        let reported = self.store.durability().await?;
        Ok(reported.iter().map(|(name, value)| format!("{name} = {value}")).collect::<Vec<_>>().join(", "))
    }

    pub(super) async fn close(self) {
        self.store.close().await;
    }

    pub(super) async fn accept(&mut self, count: u64, shape: Shape) -> anyhow::Result<()> {
        let (first, end) = (self.next, self.next + count);
        self.next = end;
        let callers = (0..shape.callers).map(|caller| {
            let store = self.store.clone();
            tokio::spawn(async move {
                let mut from = first + caller * shape.batch;
                while from < end {
                    submit(&store, from..end.min(from + shape.batch)).await?;
                    from += shape.callers * shape.batch;
                }
                anyhow::Ok(())
            })
        });
        join(callers.collect()).await
    }

    pub(super) async fn claim(&self, limit: u32) -> anyhow::Result<Vec<Claimed>> {
        claim(&self.store, limit).await
    }

    pub(super) async fn finish(&self, count: u64, shape: Shape, life: Life) -> anyhow::Result<()> {
        let workers = (0..shape.workers).map(|worker| {
            let store = self.store.clone();
            let mine = count / shape.workers + u64::from(worker < count % shape.workers);
            tokio::spawn(async move {
                let mut left = mine;
                while left > 0 {
                    let claimed = claim(&store, shape.claim.min(u32::try_from(left)?)).await?;
                    left -= claimed.len() as u64;
                    try_join_all(claimed.iter().map(|claimed| live(&store, claimed, life))).await?;
                }
                anyhow::Ok(())
            })
        });
        join(workers.collect()).await
    }
}

pub(super) async fn join(tasks: Vec<tokio::task::JoinHandle<anyhow::Result<()>>>) -> anyhow::Result<()> {
    for task in tasks {
        task.await??;
    }
    Ok(())
}

async fn submit(store: &Store, numbers: std::ops::Range<u64>) -> anyhow::Result<()> {
    let batch = (numbers.end - numbers.start > 1).then(|| BatchId::from_uuid(id(numbers.start).as_uuid()));
    let evaluations = numbers.map(evaluation).collect();
    store.submit(&Tenant::default(), NOW, NewSubmission { batch, evaluations, idempotency: None }).await?;
    Ok(())
}

async fn claim(store: &Store, limit: u32) -> anyhow::Result<Vec<Claimed>> {
    let tenure = Tenure { worker: "bench".to_owned(), now: NOW, ttl: TTL };
    let claimed = store.claim(&tenure, limit).await?;
    if claimed.is_empty() {
        bail!("the queue is empty");
    }
    Ok(claimed)
}

async fn live(store: &Store, claimed: &Claimed, life: Life) -> anyhow::Result<()> {
    let AnyEvaluation::Provisioning(evaluation) = claimed.evaluation else { bail!("not claimed") };
    let running = evaluation.start(NOW);
    let mut end = Commit {
        transitions: vec![running.evaluation.end(NOW, Verdict::Succeeded).transition],
        result: Some("r".repeat(RESULT_BYTES)),
        ..Commit::default()
    };
    match life {
        Life::Ended => end.transitions.insert(0, running.transition),
        Life::StartedThenEnded => {
            let begin = Commit { transitions: vec![running.transition], ..Commit::default() };
            store.commit(&claimed.lease, begin).await.context("start")?;
            end.output = vec![Chunk { stream: Stream::Stdout, offset: 0, bytes: vec![b'o'; OUTPUT_BYTES] }];
        }
    }
    store.commit(&claimed.lease, end).await.context("end")
}

fn id(number: u64) -> EvaluationId {
    let mut random = [0; 10];
    random[2..].copy_from_slice(&number.to_be_bytes());
    EvaluationId::new(NOW, random)
}

fn evaluation(number: u64) -> NewEvaluation {
    NewEvaluation {
        id: id(number),
        environment: "minimal".to_owned(),
        priority: 0,
        labels: BTreeMap::from([("suite".to_owned(), "bench".to_owned())]),
        callback: None,
        request: "r".repeat(REQUEST_BYTES),
        input: None,
    }
}
