//! `fumehood export` and `fumehood import`: everything that a store keeps, from one into another.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use clap::Args as ClapArgs;
use hood_store::transfer::{self, Moved, Progress, TransferError};
use hood_store::{Duty, StoreConfig};

use super::exit::Exit;
use super::failure::Failure;
use super::global::Global;
use super::output::{self, Format};
use crate::roles::DataDir;

const EXPORT_EXAMPLES: &str = "\
Examples:
  fumehood export before.ndjson.zst
  fumehood export --data-dir /srv/fumehood -o json before.ndjson.zst";

const IMPORT_EXAMPLES: &str = "\
Examples:
  FUMEHOOD_STORE_URL=postgres://owner@db:5432/fumehood fumehood migrate
  FUMEHOOD_STORE_URL=postgres://owner@db:5432/fumehood fumehood import before.ndjson.zst";

/// Write everything that the store keeps, blobs included, into one file; stop what uses it first.
///
/// The file is NDJSON, compressed with zstd, readable by its owner alone: it holds what was submitted and
/// what programs wrote.
#[derive(Debug, ClapArgs)]
#[command(after_help = EXPORT_EXAMPLES)]
pub(super) struct ExportArgs {
    /// The file to write; it must not exist.
    file: PathBuf,
    #[command(flatten)]
    format: FormatArg,
}

/// Read what `fumehood export` wrote into the store that is configured: all of it, or nothing.
///
/// The store must be empty, and of the same version. A PostgreSQL is migrated first (`fumehood migrate`),
/// and written as its owner. Evaluations that had not ended go on when a worker starts.
#[derive(Debug, ClapArgs)]
#[command(after_help = IMPORT_EXAMPLES)]
pub(super) struct ImportArgs {
    /// The file to read.
    file: PathBuf,
    #[command(flatten)]
    format: FormatArg,
}

#[derive(Debug, ClapArgs)]
struct FormatArg {
    /// How the counts are written.
    #[arg(short = 'o', long = "output", value_enum, default_value_t)]
    output: Format,
}

pub(super) async fn export(args: &ExportArgs, global: &Global) -> Result<Exit, Failure> {
    let (store, _held) = store(global, Duty::Check)?;
    let at = args.file.display();
    let failed = || Failure::new(format!("cannot write {at}"));
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&args.file);
    let file = file.map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => failed()
            .because(anyhow::anyhow!("there is a file of that name, and an export never writes over one"))
            .next("name another, or move that one away"),
        _ => failed().because(error),
    })?;
    let exported = transfer::export(&store, file, say).await;
    let exported = match exported {
        Ok((moved, file)) => file.sync_all().map(|()| moved).map_err(anyhow::Error::new),
        Err(error) => Err(error.into()),
    };
    match exported {
        Ok(moved) => tell("exported", &moved, (&args.file, args.format.output)),
        Err(error) => {
            // Half of an export is none.
            let _ = std::fs::remove_file(&args.file);
            Err(Failure::new("the store was not exported").because(error))
        }
    }
}

pub(super) async fn import(args: &ImportArgs, global: &Global) -> Result<Exit, Failure> {
    let (store, _held) = store(global, Duty::Migrate)?;
    let failed = || Failure::new(format!("cannot read {}", args.file.display()));
    let file = File::open(&args.file).map_err(|error| failed().because(error))?;
    let moved = transfer::import(&store, file, say).await;
    let moved = moved.map_err(|error| {
        let is_other = matches!(error, TransferError::NoExport { .. });
        let failure = Failure::new("nothing was imported").because(error);
        if is_other { failure.next("name a file that `fumehood export FILE` wrote") } else { failure }
    })?;
    tell("imported", &moved, (&args.file, args.format.output))
}

/// Where SQLite keeps it, nobody else may.
fn store(global: &Global, duty: Duty) -> Result<(StoreConfig, Option<DataDir>), Failure> {
    let config = global.load()?.config;
    let store = config.store(duty);
    let store = store.map_err(|error| Failure::new("store.url cannot be used").because(error))?;
    if store.url.is_some() {
        return Ok((store, None));
    }
    let held = DataDir::lock(&config.data_dir);
    let held = held.map_err(|error| Failure::new("the data directory is in use").because(error))?;
    Ok((store, Some(held)))
}

fn say(progress: Progress<'_>) {
    use std::io::Write as _;
    // Who does not listen does not stop it.
    let _ = writeln!(std::io::stderr(), "{}: {}", progress.what, progress.count);
}

fn tell(what: &str, moved: &Moved, (file, format): (&Path, Format)) -> Result<Exit, Failure> {
    if format == Format::Json {
        return output::json(moved);
    }
    let rows: u64 = moved.rows.values().sum();
    let Moved { blobs, blob_bytes, .. } = moved;
    output::text(&format!("{what} {rows} rows and {blobs} blobs of {blob_bytes} bytes: {}", file.display()))
}
