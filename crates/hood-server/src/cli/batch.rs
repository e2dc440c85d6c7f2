//! `fumehood batch`: many evaluations from a file, their results into another. What was submitted is
//! remembered beside the results, so that the same command goes on where it stopped, and nothing is
//! submitted twice.

mod collect;
mod input;
mod journal;
mod progress;
mod summary;

use std::path::{Path, PathBuf};

use clap::Args as ClapArgs;
use hood_client::{Client, Retry};
use tokio::sync::watch;

use super::connect::{Connection, Need, warn};
use super::exit::Exit;
use super::failure::Failure;
use super::global::Global;
use super::output::{self, Format};
use super::run::Interrupts;
use input::Input;
use journal::Journal;
use progress::Progress;
use summary::Summary;

const EXAMPLES: &str = "\
Examples:
  fumehood batch problems.jsonl -o results.jsonl
  fumehood batch problems.jsonl -o results.jsonl --server http://hood.example:7470

Each line of the input is a submission as the API takes it (openapi/v1.json). `id`, if it is there,
is your own name for it and comes back as the label `id`:
  {\"id\": \"sum/1\", \"code\": \"print(6*7)\", \"limits\": {\"wall_ms\": 2000}}
Each line of the results is an evaluation as the API gives it, in the order of the input. Beside the
results, RESULTS.state remembers what was submitted: the same command again goes on where it stopped.

Exit status:
  0 all succeeded, 1 some did not, 125 some were lost to Fumehood or it failed, 126 refused";

/// Run many evaluations, and write their results.
#[derive(Debug, ClapArgs)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// JSON Lines, one submission each.
    #[arg(value_name = "INPUT")]
    input: PathBuf,

    /// File for the results, JSON Lines.
    #[arg(short = 'o', long, value_name = "RESULTS")]
    output: PathBuf,

    /// Evaluations sent in one request.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    chunk: u32,

    /// Begin anew, over results that are there; everything is run again.
    #[arg(long)]
    restart: bool,

    /// How to print the summary.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    summary: Format,

    /// No progress.
    #[arg(short, long)]
    quiet: bool,
}

pub(super) async fn execute(args: &Args, global: &Global) -> Result<Exit, Failure> {
    let input = Input::read(&args.input)?;
    refuse_to_overwrite(args)?;
    let journal = Journal::open(&args.output, &input, args.chunk as usize, args.restart)?;
    let summary = if journal.is_complete() {
        warn("these results were complete already, and nothing was run; --restart runs everything again");
        Summary::of(&args.output)?
    } else {
        let connection = Connection::open(global, Need::Work).await?;
        let client = connection.client.with_retry(Retry::PATIENT);
        let worked = work(args, &client, &input, journal).await;
        connection.close(worked).await?
    };
    match args.summary {
        Format::Json => output::json(&summary)?,
        Format::Text => output::text(&summary.table())?,
    };
    Ok(summary.exit())
}

/// Results over their own input would lose it.
fn refuse_to_overwrite(args: &Args) -> Result<(), Failure> {
    let is_input = |path: &Path| match (path.canonicalize(), args.input.canonicalize()) {
        (Ok(path), Ok(input)) => path == input,
        _ => false,
    };
    if is_input(&args.output) || is_input(&journal::beside(&args.output)) {
        return Err(Failure::new(format!("the results would overwrite the input {}", args.input.display()))
            .next("name another file with --output")
            .exit(Exit::REFUSED));
    }
    Ok(())
}

/// Submits what was not, and collects what has ended, both at once.
async fn work(args: &Args, client: &Client, input: &Input, journal: Journal) -> Result<Summary, Failure> {
    let mut interrupts = Interrupts::listen()?;
    let progress = Progress::start(input.len(), args.quiet);
    let submitted = watch::Sender::new(journal.evaluations().to_vec());
    let both = async {
        tokio::try_join!(
            submit(client, input, journal, &submitted),
            collect::collect(client, &args.output, input.len(), submitted.subscribe(), &progress),
        )
    };
    tokio::select! {
        done = both => { done?; }
        () = interrupts.next() => {
            return Err(Failure::new("stopped; what was submitted goes on where the server does")
                .next("run the same command again: it goes on where it stopped")
                .exit(Exit::CANCELLED));
        }
    }
    drop(progress);
    Summary::of(&args.output)
}

async fn submit(
    client: &Client,
    input: &Input,
    mut journal: Journal,
    submitted: &watch::Sender<Vec<String>>,
) -> Result<(), Failure> {
    while let Some(chunk) = journal.next_chunk(input)? {
        let accepted = client.submit_batch(&chunk.batch, &chunk.key).await;
        let accepted = accepted.map_err(|error| input.at_its_line(error, chunk.first))?;
        journal.accepted(&chunk, accepted)?;
        let new = journal.evaluations()[chunk.first..].to_vec();
        submitted.send_modify(|evaluations| evaluations.extend(new));
    }
    Ok(())
}
