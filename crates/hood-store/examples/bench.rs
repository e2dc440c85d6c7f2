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
        request: "r".repeat(800),
    }
}

fn report(what: &str, count: u64, took: Duration) {
    println!(
        "{what:<44} {count:>7} in {:>6.2} s  {:>8.0} /s",
        took.as_secs_f64(),
        count as f64 / took.as_secs_f64()
    );
}

/// Accepts so many, `each` at a time, by so many callers at once.
async fn accept(store: &Store, from: u64, each: u64, callers: u64) -> Result<Duration, Failure> {
    let start = Instant::now();
    let submissions = EVALUATIONS / each;
    let tasks = (0..callers).map(|caller| {
        let store = store.clone();
        tokio::spawn(async move {
            for n in (caller..submissions).step_by(usize::try_from(callers)?) {
                submit(&store, from + n * each, each).await?;
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

async fn work(store: Store) -> Result<u64, Failure> {
    let mut finished = 0;
    loop {
        let tenure = Tenure { worker: "bench".to_owned(), now: NOW, ttl: Duration::from_secs(60) };
        let claimed = store.claim(&tenure, CLAIM).await?;
        if claimed.is_empty() {
            return Ok(finished);
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
}

async fn claim_latency(store: &Store) -> Result<Duration, Failure> {
    let mut times = Vec::new();
    for _ in 0..50 {
        let tenure = Tenure { worker: "bench".to_owned(), now: NOW, ttl: Duration::from_secs(60) };
        let start = Instant::now();
        store.claim(&tenure, 1).await?;
        times.push(start.elapsed());
    }
    times.sort_unstable();
    Ok(times[times.len() / 2])
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
    let (journal, synchronous) = store.durability().await?;
    println!("{}: journal_mode = {journal}, synchronous = {synchronous} (2 is FULL)", dir.display());

    let mut queued = 0;
    for (what, each, callers) in
        [("one by one", 1, 1), ("one by one", 1, CALLERS), ("in batches of 100", 100, 4)]
    {
        let took = accept(&store, queued, each, callers).await?;
        queued += EVALUATIONS;
        report(&format!("accepted {what}, callers: {callers}"), EVALUATIONS, took);
    }
    let (what, median) = (format!("claim of one, median, queued: {queued}"), claim_latency(&store).await?);
    println!("{what:<44} {median:>22.2?}");
    let start = Instant::now();
    let workers = [work(store.clone()), work(store.clone())].map(tokio::spawn);
    let mut finished = 0;
    for worker in workers {
        finished += worker.await??;
    }
    report(&format!("claimed by {CLAIM}, started and ended"), finished, start.elapsed());
    store.close().await;
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}
