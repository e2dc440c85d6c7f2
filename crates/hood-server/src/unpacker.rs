//! Images are unpacked by a process of their own, which owns nothing: a decompressor or a parser that
//! somebody took over reaches one directory, and can tell us only what we then check.

mod child;

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, anyhow, bail};
use hood_image::{Digest, Step, Unpacked};
use serde::{Deserialize, Serialize};

pub(crate) use child::{Args, execute};

/// The hidden command that this binary is called with for it.
pub(crate) const COMMAND: &str = "unpack-image";

/// All that it may say: a configuration has a few hundred kilobytes at most.
const REPORT_BYTES_MAX: u64 = 16 << 20;

/// What the process says on its standard output, a line each.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Report {
    Step(Step),
    Done(Box<Unpacked>),
    Failed(String),
}

/// Where an archive comes from.
#[derive(Debug)]
pub(crate) enum Input {
    /// A file, or anything that is read to its end.
    File(File),
    /// This process's own standard input.
    Stdin,
    /// A directory that is an OCI layout.
    Layout(PathBuf),
}

/// What is to be unpacked, and where.
#[derive(Debug)]
pub(crate) struct Job<'a> {
    pub(crate) input: Input,
    /// Which image of the archive.
    pub(crate) name: Option<&'a str>,
    /// An empty directory of ours. What is in it after an error, the caller removes.
    pub(crate) root: &'a Path,
    /// Whom the process becomes, if we are root.
    pub(crate) id: u32,
}

impl Job<'_> {
    /// Unpacks, and waits for it. Blocks.
    pub(crate) fn run(self, tell: &dyn Fn(Step)) -> anyhow::Result<Unpacked> {
        let id = give_away(self.root, self.id)?;
        let mut command = Command::new("/proc/self/exe");
        command.arg(COMMAND).env_clear().current_dir(self.root).stdout(Stdio::piped()).stderr(Stdio::null());
        if let Some(name) = self.name {
            command.args(["--name", name]);
        }
        if let Some(id) = id {
            command.args(["--id", &id.to_string()]);
        }
        let layout = match self.input {
            Input::File(file) => {
                command.stdin(file);
                None
            }
            Input::Stdin => {
                command.stdin(Stdio::inherit());
                None
            }
            Input::Layout(dir) => {
                command.stdin(Stdio::piped());
                Some(dir)
            }
        };
        let mut child = command.spawn().context("cannot start the process that unpacks images")?;
        // The command holds our ends of what it was given.
        drop(command);
        let feeding = layout.zip(child.stdin.take()).map(|(dir, stdin)| {
            std::thread::spawn(move || hood_image::stream_layout(&dir, File::from(OwnedFd::from(stdin))))
        });
        let heard = hear(&mut child, tell);
        if heard.is_err() {
            // It may have ended by now, which is as good.
            let _ = child.kill();
        }
        let status = child.wait().context("cannot learn how the process that unpacks images ended")?;
        let fed = feeding.map(|thread| thread.join().unwrap_or(Ok(())));
        match (heard?, fed) {
            (Some(Report::Done(unpacked)), _) if status.success() => {
                // Said by a process that may have been taken over.
                unpacked.config.check()?;
                unpacked.digest.parse::<Digest>().map_err(|problem| anyhow!(problem))?;
                Ok(*unpacked)
            }
            // What it was fed with may be why it was not content.
            (_, Some(Err(error))) if !is_broken_pipe(&error) => Err(error.into()),
            (Some(Report::Failed(reason)), _) => Err(anyhow!(reason)),
            _ => bail!("the process that unpacks images ended without a result ({status})"),
        }
    }
}

fn is_broken_pipe(error: &hood_image::ImageError) -> bool {
    matches!(error, hood_image::ImageError::Io { source, .. } if source.kind() == std::io::ErrorKind::BrokenPipe)
}

/// Makes the directory the process's own. `None` where it stays ours: we are an ordinary user, or
/// root of a namespace that lacks the id.
fn give_away(root: &Path, id: u32) -> anyhow::Result<Option<u32>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    match std::os::unix::fs::chown(root, Some(id), Some(id)) {
        Ok(()) => Ok(Some(id)),
        Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot give {} away", root.display())),
    }
}

/// The last thing that it says, steps told on the way.
fn hear(child: &mut Child, tell: &dyn Fn(Step)) -> anyhow::Result<Option<Report>> {
    let Some(stdout) = child.stdout.take() else { return Ok(None) };
    let mut last = None;
    for line in BufReader::new(stdout.take(REPORT_BYTES_MAX)).lines() {
        let line = line.context("cannot hear the process that unpacks images")?;
        match serde_json::from_str(&line)
            .context("the process that unpacks images says what makes no sense")?
        {
            Report::Step(step) => tell(step),
            report => last = Some(report),
        }
    }
    Ok(last)
}
