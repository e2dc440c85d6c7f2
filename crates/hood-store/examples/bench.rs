//! How many evaluations a second the store takes and brings to their end, every answer durable.
//!
//! ```text
//! cargo run --release -p hood-store --example bench -- [DIRECTORY]
//! ```
//!
//! The directory decides what is measured: a disk's flushes, or a memory file system's none.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use hood_core::lifecycle::AnyEvaluation;
use hood_core::outcome::Stream;
use hood_core::{EvaluationId, Tenant, Timestamp, Verdict};
use hood_store::{Chunk, Claimed, Commit, NewEvaluation, NewSubmission, Store, StoreConfig, Tenure};

type Failure = Box<dyn std::error::Error + Send + Sync>;

const NOW: Timestamp = Timestamp::from_micros(1_800_000_000_000_000);
/// Of each kind.
const EVALUATIONS: u64 = 10_000;
/// Claimed and brought to their end at each length of the queue.
const FINISHED: u64 = 5_000;
/// What "a long queue" is.
const BACKLOG: u64 = 100_000;
/// Claimed and brought to their end with nobody beside it: each waits for its own flushes.
const ALONE: u64 = 300;
/// Callers at the same time.
const CALLERS: u64 = 64;
/// Leases that one claim takes.
const CLAIM: u32 = 32;

fn id(n: u64) -> EvaluationId {
    let mut random = [0; 10];
    random[2..].copy_from_slice(&n.to_be_bytes());
    EvaluationId::new(NOW, random)
}

/// About what a small Python program comes to.
fn evaluation(n: u64) -> NewEvaluation {
    let labels = BTreeMap::from([("suite".to_owned(), "bench".to_owned())]);
    NewEvaluation {
        id: id(n),
        environment: "minimal".to_owned(),
        priority: 0,
        labels,
        callback: None,
        request: "r".repeat(800),
    }
}

fn report(what: &str, count: u64, took: Duration) {
    println!(
        "{what:<52} {count:>7} in {:>6.2} s  {:>8.0} /s",
        took.as_secs_f64(),
        count as f64 / took.as_secs_f64()
    );
}

#[derive(Clone, Copy)]
struct Load {
    count: u64,
    /// Evaluations in one submission.
    each: u64,
    /// At once.
    callers: u64,
}

/// Accepts a load whose ids begin at `from`.
async fn accept(store: &Store, from: u64, load: Load) -> Result<Duration, Failure> {
    let start = Instant::now();
    let submissions = load.count / load.each;
    let tasks = (0..load.callers).map(|caller| {
        let store = store.clone();
        tokio::spawn(async move {
            for n in (caller..submissions).step_by(usize::try_from(load.callers)?) {
                submit(&store, from + n * load.each, load.each).await?;
            }
            Ok::<(), Failure>(())
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await??;
    }
    Ok(start.elapsed())
}

async fn submit(store: &Store, from: u64, count: u64) -> Result<(), Failure> {
    let evaluations: Vec<_> = (from..from + count).map(evaluation).collect();
    let batch = (count > 1).then(|| hood_core::BatchId::from_uuid(id(from).as_uuid()));
    let submission = NewSubmission { batch, evaluations, idempotency: None };
    store.submit(&Tenant::default(), NOW, submission).await?;
    Ok(())
}

/// Two commits: the program is released, then it ends with its output and result.
async fn finish(store: &Store, claimed: Claimed) -> Result<(), Failure> {
    let AnyEvaluation::Provisioning(evaluation) = claimed.evaluation else {
        return Err("not claimed".into());
    };
    let running = evaluation.start(NOW);
    let begin = Commit { transitions: vec![running.transition], ..Commit::default() };
    store.commit(&claimed.lease, begin).await?;
    let output = vec![Chunk { stream: Stream::Stdout, offset: 0, bytes: vec![b'o'; 200] }];
    let end = running.evaluation.end(NOW, Verdict::Succeeded).transition;
    let end = Commit { transitions: vec![end], output, result: Some("r".repeat(600)), ..Commit::default() };
    store.commit(&claimed.lease, end).await?;
    Ok(())
}

fn tenure() -> Tenure {
    Tenure { worker: "bench".to_owned(), now: NOW, ttl: Duration::from_secs(3600) }
}

/// Claims and finishes so many, `each` at a time.
async fn work(store: Store, count: u64, each: u32) -> Result<(), Failure> {
    let mut finished = 0;
    while finished < count {
        let claimed = store.claim(&tenure(), each).await?;
        if claimed.is_empty() {
            return Err("the queue is empty".into());
        }
        finished += claimed.len() as u64;
        let finishing: Vec<_> = claimed
            .into_iter()
            .map(|claimed| {
                let store = store.clone();
                tokio::spawn(async move { finish(&store, claimed).await })
            })
            .collect();
        for one in finishing {
            one.await??;
        }
    }
    Ok(())
}

/// What a claim costs, and what it costs to bring evaluations to their end, at this length of queue.
async fn take(store: &Store, queued: u64) -> Result<(), Failure> {
    let mut times = Vec::new();
    for _ in 0..100 {
        let start = Instant::now();
        store.claim(&tenure(), 1).await?;
        times.push(start.elapsed());
    }
    times.sort_unstable();
    let median = times[times.len() / 2];
    println!("{:<52} {median:>22.2?}", format!("claim of one, median, {queued} queued"));
    let start = Instant::now();
    work(store.clone(), ALONE, 1).await?;
    report(&format!("claimed, started, ended alone, {queued} queued"), ALONE, start.elapsed());
    let start = Instant::now();
    for worker in [0, 1].map(|_| tokio::spawn(work(store.clone(), FINISHED / 2, CLAIM))) {
        worker.await??;
    }
    report(&format!("claimed by {CLAIM}, started, ended, {queued} queued"), FINISHED, start.elapsed());
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let dir = std::env::args_os()
        .nth(1)
        .map_or_else(|| std::env::temp_dir().join("hood-store-bench"), PathBuf::from);
    if dir.exists() {
        return Err(format!("{} is there already: name a directory that is not", dir.display()).into());
    }
    let store = Store::open(StoreConfig::at(dir.clone())).await?;
    for (name, value) in store.durability().await? {
        println!("{}: {name} = {value}", dir.display());
    }

    let alone = accept(&store, 0, Load { count: ALONE, each: 1, callers: 1 }).await?;
    report("accepted one by one, 1 caller", ALONE, alone);
    let load = Load { count: EVALUATIONS, each: 1, callers: CALLERS };
    report(
        &format!("accepted one by one, {CALLERS} callers"),
        EVALUATIONS,
        accept(&store, ALONE, load).await?,
    );
    let queued = ALONE + EVALUATIONS;
    take(&store, queued).await?;
    let load = Load { count: BACKLOG, each: 100, callers: 4 };
    report("accepted in batches of 100, 4 callers", BACKLOG, accept(&store, queued, load).await?);
    take(&store, BACKLOG).await?;
    let load = Load { count: EVALUATIONS, each: 1, callers: CALLERS };
    let took = accept(&store, queued + BACKLOG, load).await?;
    report(&format!("accepted one by one, {CALLERS} callers, long queue"), EVALUATIONS, took);
    store.close().await;
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}
