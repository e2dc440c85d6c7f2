//! The process itself: the archive is its standard input, the directory its current one.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::process::ExitCode;

use hood_image::{Bounds, ImageError, Pick, Unpacked, unpack};
use hood_sandbox::Recluse;
use rustix::fs::{Mode, OFlags};

use super::Report;

/// CPU time for one image: a few times what the largest within the bounds takes.
const CPU_SECONDS: u64 = 1800;
/// Names of the largest image, and the windows of decompressors.
const ADDRESS_SPACE: u64 = 4 << 30;
/// It opens a few at a time.
const OPEN_FILES: u64 = 64;

/// Unpack the image on standard input into the current directory.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[arg(long)]
    name: Option<String>,
    #[arg(long)]
    id: Option<u32>,
}

/// What happened is said in the report; the status only says whether there is one.
pub(crate) fn execute(args: Args) -> ExitCode {
    let report = match work(args) {
        Ok(unpacked) => Report::Done(Box::new(unpacked)),
        Err(reason) => Report::Failed(reason),
    };
    let done = matches!(report, Report::Done(_));
    if say(&report).is_ok() && done { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn work(args: Args) -> Result<Unpacked, String> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(".", flags, Mode::empty())
        .map_err(|error| format!("cannot open the directory to unpack into: {error}"))?;
    let input = io::stdin().as_fd().try_clone_to_owned();
    let input = File::from(input.map_err(|error| format!("cannot open the archive: {error}"))?);
    let recluse = Recluse {
        dir: root.as_fd(),
        id: args.id,
        cpu_seconds: CPU_SECONDS,
        address_space: ADDRESS_SPACE,
        open_files: OPEN_FILES,
    };
    recluse.enter().map_err(|error| format!("cannot give up what unpacking does not need: {error}"))?;
    let tell = &mut |step| {
        // Without a listener there is nobody to tell.
        let _ = say(&Report::Step(step));
    };
    unpack(input, &Pick::here(args.name), &Bounds::DEFAULT, root.as_fd(), tell)
        .map_err(|error| reason(&error))
}

fn reason(error: &ImageError) -> String {
    let source = std::error::Error::source(error).map(|source| format!(": {source}"));
    format!("{error}{}", source.unwrap_or_default())
}

fn say(report: &Report) -> io::Result<()> {
    let line = serde_json::to_string(report)?;
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{line}")?;
    stdout.flush()
}
