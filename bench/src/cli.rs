//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::figures::Report;
use crate::{crowd, environments, flood, humaneval, live, overhead, status, store};

/// Benchmarks of Fumehood. Each but `store`, which needs no server, starts the release build of
/// `fumehood serve` over a data directory of its own, and ends it.
#[derive(Debug, Parser)]
#[command(name = "bench")]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    common: Common,
    /// How the figures are printed.
    #[arg(short, long, global = true, value_enum, default_value_t)]
    output: Output,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Common {
    /// The binary; the one built beside this one if left out.
    #[arg(long, global = true)]
    pub(crate) fumehood: Option<PathBuf>,
    /// Directory beneath which the server keeps its data for the run: choose a disk like the one that
    /// it will have, since every submission is made durable there.
    #[arg(long, global = true)]
    pub(crate) dir: Option<PathBuf>,
    /// Evaluations that run at once; the server's default if left out.
    #[arg(long, global = true)]
    pub(crate) places: Option<u32>,
    /// Where the server keeps its records: a file of its own, or a PostgreSQL that is started for the run.
    #[arg(long, global = true, value_enum, default_value_t)]
    pub(crate) engine: Engine,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(crate) enum Engine {
    #[default]
    Sqlite,
    Postgres,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Output {
    #[default]
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// 164 problems with their reference solutions: verdicts, evaluations a second against a plain
    /// loop, latency one at a time. Fails if a verdict is wrong.
    Humaneval(humaneval::Options),
    /// What a fresh sandbox costs over bare Python, in interleaved pairs.
    Overhead(overhead::Options),
    /// From write() in the sandbox to the client's receipt.
    Live(live::Options),
    /// Many submissions at once: accepted a second, ended a second, the server's memory, how other
    /// calls fare meanwhile, and what is answered past the bounds.
    Flood(flood::Options),
    /// Many that sleep, all in flight at once.
    Crowd(crowd::Options),
    /// From a transition to its event at a client, through two replicas of the API: with Redis
    /// between them, and without. Starts the roles apart on a PostgreSQL and a Redis of its own.
    Status(status::Options),
    /// The store alone, on SQLite and on PostgreSQL, beside a queue in pgmq's shape: accepted a second,
    /// claimed and completed a second, with a short queue and a long one.
    Store(store::Options),
    /// What environments cost: built with downloads and without, their size, the first, the second and
    /// later starts in them, exported and imported.
    Environments(environments::Options),
}

pub(crate) fn main() -> anyhow::Result<()> {
    let Cli { command, common, output } = Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let report = runtime.block_on(run(command, &common))?;
    match output {
        Output::Text => print!("{report}"),
        Output::Json => println!("{}", serde_json::to_string_pretty(&report)?),
    }
    report.verdict()
}

async fn run(command: Command, common: &Common) -> anyhow::Result<Report> {
    match command {
        Command::Humaneval(options) => humaneval::run(&options, common).await,
        Command::Overhead(options) => overhead::run(&options, common).await,
        Command::Live(options) => live::run(&options, common).await,
        Command::Flood(options) => flood::run(&options, common).await,
        Command::Crowd(options) => crowd::run(&options, common).await,
        Command::Status(options) => status::run(&options, common).await,
        Command::Store(options) => store::run(&options, common).await,
        Command::Environments(options) => environments::run(&options, common).await,
    }
}
