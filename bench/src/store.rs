//! The store alone, without HTTP and without a sandbox: what it accepts and brings to its end a second,
//! on both engines and beside a queue of another design, every answer durable.

mod ours;
mod peer;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use anyhow::bail;
use clap::Args;
use hood_testkit::Postgres;

use crate::cli::Common;
use crate::figures::{Report, Samples};
use crate::host::Host;
use crate::python::Python;
use crate::server::start_postgres;
use ours::{Life, Ours};
use peer::Peer;

const SQLITE: &str = "sqlite";
const POSTGRES: &str = "postgres";
/// A queue in the shape of pgmq's.
const PEER: &str = "pgmq-like";

/// Accepted one after another by one caller, who waits for each.
const ALONE: u64 = 200;
/// Claims of one, of which the median is told.
const CLAIMS_OF_ONE: u64 = 100;
/// While a long queue is made.
const FILLING: Shape = Shape { batch: 500, callers: 8, claim: 500, workers: 4 };

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Evaluations of each measurement.
    #[arg(long, default_value_t = 10_000)]
    count: u64,
    /// Evaluations in one submission.
    #[arg(long, default_value_t = 100)]
    batch: u64,
    /// Callers at once that submit batches.
    #[arg(long, default_value_t = 4)]
    callers: u64,
    /// Evaluations that one claim takes.
    #[arg(long, default_value_t = 200)]
    claim: u32,
    /// Workers at once, each of which brings to their end all that it has claimed, and claims again.
    #[arg(long, default_value_t = 4)]
    workers: u64,
    /// Each measurement is made so often, the engines in turn; the medians are told.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Measure again with so many that have ended.
    #[arg(long, default_value_t = 0)]
    finished: u64,
    /// Measure again with so many in the queue.
    #[arg(long, default_value_t = 0)]
    backlog: u64,
    /// Empty databases of a server that is there, one for the store and one for its peer; a server is
    /// started if left out.
    #[arg(long, value_delimiter = ',')]
    postgres: Vec<String>,
    /// Only these.
    #[arg(long, value_delimiter = ',', value_parser = [SQLITE, POSTGRES, PEER])]
    only: Vec<String>,
}

/// How many at once.
#[derive(Clone, Copy, Debug)]
struct Shape {
    batch: u64,
    callers: u64,
    claim: u32,
    workers: u64,
}

/// One that is measured.
#[derive(Debug)]
enum Queue {
    Ours(Ours),
    Peer(Peer),
}

impl Queue {
    fn name(&self) -> &'static str {
        match self {
            Self::Ours(ours) => ours.name,
            Self::Peer(_) => PEER,
        }
    }

    /// As the server reports it.
    async fn durability(&self) -> anyhow::Result<String> {
        match self {
            Self::Ours(ours) => ours.durability().await,
            Self::Peer(peer) => peer.durability().await,
        }
    }

    /// Accepts so many, `shape.batch` in a transaction's worth.
    async fn accept(&mut self, count: u64, shape: Shape) -> anyhow::Result<()> {
        match self {
            Self::Ours(ours) => ours.accept(count, shape).await,
            Self::Peer(peer) => peer.accept(count, shape).await,
        }
    }

    /// Claims so many and brings them to their end, with one commit each after the claim.
    async fn finish(&self, count: u64, shape: Shape) -> anyhow::Result<()> {
        match self {
            Self::Ours(ours) => ours.finish(count, shape, Life::Ended).await,
            Self::Peer(peer) => peer.finish(count, shape).await,
        }
    }

    async fn claim_one(&self) -> anyhow::Result<()> {
        match self {
            Self::Ours(ours) => ours.claim(1).await.map(drop),
            Self::Peer(peer) => peer.claim(1).await.map(drop),
        }
    }

    async fn close(self) {
        match self {
            Self::Ours(ours) => ours.close().await,
            Self::Peer(peer) => peer.close().await,
        }
    }
}

/// What is measured in each round, and its unit.
const FIGURES: [(&str, &str); 7] = [
    ("accepted alone, p50", "ms"),
    ("accepted alone, p99", "ms"),
    ("accepted one by one by 64 callers", "/s"),
    ("accepted in batches", "/s"),
    ("claim of one, p50", "ms"),
    ("claimed and completed", "/s"),
    ("claimed, started, ended with output", "/s"),
];

/// What the queue holds while it is measured.
const STAGES: [&str; 3] = ["short queue", "many finished", "long queue"];

/// Samples by stage, figure and queue.
type Found = BTreeMap<(usize, usize, &'static str), Samples>;

pub(crate) async fn run(options: &Options, common: &Common) -> anyhow::Result<Report> {
    let Options { count, batch, callers, claim, workers, rounds, .. } = *options;
    if [batch, callers, u64::from(claim), workers, u64::from(rounds)].contains(&0) || count <= CLAIMS_OF_ONE {
        bail!(
            "--batch, --callers, --claim, --workers, --rounds are at least 1, --count more than {CLAIMS_OF_ONE}"
        );
    }
    let dir = match &common.dir {
        Some(parent) => tempfile::tempdir_in(parent),
        None => tempfile::tempdir(),
    }?;
    let mut report = Report::new("store", Host::look(dir.path(), &Python::find()?, "databases as below"));
    // Ends when this function does.
    let server = start(options)?;
    let mut queues = open(options, (dir.path(), server.as_ref())).await?;
    for queue in &queues {
        report.setting(queue.name(), queue.durability().await?);
    }
    report.setting("evaluations in a round", count);
    report.setting("accepted in batches", format!("of {batch}, by {callers} callers"));
    report.setting("claimed", format!("{claim} at a time, by {workers} workers"));
    report.setting("rounds", format!("{rounds}, in turn, of which the medians"));
    let found = measure_stages(&mut queues, options).await?;
    tell(&found, &mut report);
    for queue in queues {
        queue.close().await;
    }
    Ok(report)
}

fn start(options: &Options) -> anyhow::Result<Option<Postgres>> {
    options.postgres.is_empty().then(start_postgres).transpose()
}

async fn open(options: &Options, (dir, server): (&Path, Option<&Postgres>)) -> anyhow::Result<Vec<Queue>> {
    let mut given = options.postgres.iter();
    let mut database = || match (given.next(), server) {
        (Some(url), _) => Ok(url.clone()),
        (None, Some(server)) => Ok(server.create_database()?),
        (None, None) => bail!("--postgres is needed twice: once for the store, once for its peer"),
    };
    let wanted = |name: &str| options.only.is_empty() || options.only.iter().any(|only| only == name);
    let mut queues = Vec::new();
    if wanted(SQLITE) {
        queues.push(Queue::Ours(Ours::open(SQLITE, dir, None).await?));
    }
    if wanted(POSTGRES) {
        queues.push(Queue::Ours(Ours::open(POSTGRES, dir, Some(&database()?)).await?));
    }
    if wanted(PEER) {
        queues.push(Queue::Peer(Peer::open(&database()?).await?));
    }
    Ok(queues)
}

/// With a short queue, with many that have ended, with a long queue.
async fn measure_stages(queues: &mut [Queue], options: &Options) -> anyhow::Result<Found> {
    let mut found = Found::new();
    measure(queues, options, (0, &mut found)).await?;
    if options.finished > 0 {
        for queue in queues.iter_mut() {
            queue.accept(options.finished, FILLING).await?;
            queue.finish(options.finished, FILLING).await?;
        }
        measure(queues, options, (1, &mut found)).await?;
    }
    if options.backlog > 0 {
        for queue in queues.iter_mut() {
            queue.accept(options.backlog, FILLING).await?;
        }
        measure(queues, options, (2, &mut found)).await?;
    }
    Ok(found)
}

async fn measure(
    queues: &mut [Queue],
    options: &Options,
    (stage, found): (usize, &mut Found),
) -> anyhow::Result<()> {
    for _ in 0..options.rounds {
        for queue in queues.iter_mut() {
            for (figure, value) in round(queue, options).await?.into_iter().enumerate() {
                if value.is_some() {
                    found.entry((stage, figure, queue.name())).or_default().add_ms(value);
                }
            }
        }
    }
    Ok(())
}

/// The figures of one queue; `None` is what it has no such thing of.
async fn round(queue: &mut Queue, options: &Options) -> anyhow::Result<[Option<f64>; FIGURES.len()]> {
    let Options { count, batch, callers, claim, workers, .. } = *options;
    let shape = Shape { batch, callers, claim, workers };
    let rate = |count: u64, started: Instant| Some(count as f64 / started.elapsed().as_secs_f64());

    let mut alone = Samples::default();
    for _ in 0..ALONE {
        let started = Instant::now();
        queue.accept(1, Shape { batch: 1, callers: 1, ..shape }).await?;
        alone.add(started.elapsed());
    }
    let started = Instant::now();
    queue.accept(count, Shape { batch: 1, callers: 64, ..shape }).await?;
    let singly = rate(count, started);
    let started = Instant::now();
    queue.accept(count, shape).await?;
    let in_batches = rate(count, started);
    let mut claims = Samples::default();
    for _ in 0..CLAIMS_OF_ONE {
        let started = Instant::now();
        queue.claim_one().await?;
        claims.add(started.elapsed());
    }
    let started = Instant::now();
    queue.finish(count, shape).await?;
    let completed = rate(count, started);
    let lived = match queue {
        Queue::Ours(ours) => {
            let started = Instant::now();
            let rest = count - CLAIMS_OF_ONE;
            ours.finish(rest, shape, Life::StartedThenEnded).await?;
            rate(rest, started)
        }
        Queue::Peer(_) => None,
    };
    let [p50, p99] = [50, 99].map(|percent| Some(alone.percentile(percent)));
    Ok([p50, p99, singly, in_batches, Some(claims.median()), completed, lived])
}

fn tell(found: &Found, report: &mut Report) {
    let median = |stage, figure, queue| found.get(&(stage, figure, queue)).map(Samples::median);
    for (&(stage, figure, queue), samples) in found {
        let (name, unit) = FIGURES[figure];
        report.figure(format!("{}: {name}, {queue}", STAGES[stage]), samples.median(), unit);
        if let Some(peer) = median(stage, figure, PEER).filter(|_| queue == POSTGRES) {
            report.figure("    of what its peer has", samples.median() / peer, "x");
        }
        if let Some(short) = median(0, figure, queue).filter(|_| stage > 0) {
            report.figure("    of what it has with a short queue", samples.median() / short, "x");
        }
    }
}
