//! `fumehood logs`: what a program wrote.

use clap::{Args as ClapArgs, ValueEnum};
use hood_client::{Client, Stream};
use hood_wire::api::{Evaluation, EventType};

use super::connect::{Connection, FOLLOWING, Need, warn};
use super::exit::Exit;
use super::failure::Failure;
use super::global::Global;
use super::run::Sink;

const EXAMPLES: &str = "\
Examples:
  fumehood logs ID                 stdout to stdout, stderr to stderr
  fumehood logs ID --follow        up to its end, through retries and restarts of the server
  fumehood logs ID --stream stdout > output.bin

To a pipe or file the bytes are exact.";

/// Print what a program wrote.
#[derive(Debug, ClapArgs)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The evaluation's id.
    id: String,
    /// Go on until it ends.
    #[arg(short, long)]
    follow: bool,
    /// Which of the streams.
    #[arg(long, value_name = "STREAM", default_value = "both")]
    stream: Which,
    /// Of this attempt; the last one if left out.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    attempt: Option<u32>,
    /// Let a terminal obey the program's control characters.
    #[arg(long)]
    raw: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Which {
    Both,
    Stdout,
    Stderr,
    /// What the build wrote, to standard error.
    Build,
}

impl Which {
    const fn streams(self) -> &'static [Stream] {
        match self {
            Self::Both => &Stream::PROGRAM,
            Self::Stdout => &[Stream::Stdout],
            Self::Stderr => &[Stream::Stderr],
            Self::Build => &[Stream::Build],
        }
    }
}

pub(super) async fn execute(args: &Args, global: &Global) -> Result<Exit, Failure> {
    let need = if args.follow { Need::Work } else { Need::Look };
    let connection = Connection::open(global, need).await?;
    let client = connection.client.with_retry(FOLLOWING);
    let printed = print(args, &client).await;
    if connection.close(printed).await? {
        warn("control characters were made visible; --raw shows them as they are");
    }
    Ok(Exit::DONE)
}

/// Whether anything was made visible.
async fn print(args: &Args, client: &Client) -> Result<bool, Failure> {
    let evaluation = client.get(&args.id, None).await?;
    let last = evaluation.attempts.last().map(|attempt| attempt.number);
    let attempt = args.attempt.or(last);
    if let (Some(attempt), false) = (attempt, args.follow) {
        // Only the last attempt can be under way; of any other all is stored.
        let snapshot = Some(&evaluation).filter(|_| Some(attempt) == last);
        return show(args, client, attempt, snapshot).await;
    }
    if args.attempt.is_some() {
        return show(args, client, attempt.unwrap_or(1), None).await;
    }
    if !args.follow {
        return Ok(false);
    }
    // From the attempt that runs now, through every later one.
    let mut events = client.follow_events(&args.id, 0);
    let from = attempt.unwrap_or(1);
    let mut made_visible = false;
    while let Some(event) = events.next().await? {
        if let (EventType::AttemptStarted, Some(number)) = (event.kind, event.attempt)
            && number >= from
        {
            if number > from {
                warn(&format!("attempt {} was lost; attempt {number} begins, its output anew", number - 1));
            }
            made_visible |= show(args, client, number, None).await?;
        }
    }
    Ok(made_visible)
}

/// Shows an attempt: to its end, or up to what was stored when `snapshot` was taken.
async fn show(
    args: &Args,
    client: &Client,
    attempt: u32,
    snapshot: Option<&Evaluation>,
) -> Result<bool, Failure> {
    let shown = args.stream.streams().iter().map(|stream| {
        let end =
            snapshot.filter(|evaluation| !evaluation.state.is_terminal()).map(|evaluation| match stream {
                Stream::Stdout => evaluation.stdout.kept_bytes,
                Stream::Stderr => evaluation.stderr.kept_bytes,
                Stream::Build => evaluation.build.as_ref().map_or(0, |build| build.output.kept_bytes),
            });
        copy(client, (&args.id, *stream, attempt), args.raw, end)
    });
    let shown = futures::future::try_join_all(shown).await?;
    Ok(shown.into_iter().any(|made_visible| made_visible))
}

async fn copy(
    client: &Client,
    (id, stream, attempt): (&str, Stream, u32),
    raw: bool,
    end: Option<u64>,
) -> Result<bool, Failure> {
    let mut sink = Sink::of(stream, raw);
    let mut output = client.follow_output(id, stream, attempt, 0);
    while end.is_none_or(|end| output.offset() < end) {
        let before = output.offset();
        let bytes = match output.next().await {
            Ok(Some(bytes)) => bytes,
            Ok(None) => break,
            Err(error) => return Err(error.into()),
        };
        let wanted = end.map_or(u64::MAX, |end| end - before);
        let part = bytes.len().min(usize::try_from(wanted).unwrap_or(usize::MAX));
        sink.write(&bytes[..part]).await.map_err(Failure::write)?;
    }
    sink.finish().await.map_err(Failure::write)?;
    Ok(sink.seen().made_visible)
}
