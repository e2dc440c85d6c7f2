//! The host's own Python: what evaluations are compared with.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

/// The interpreter that `minimal` is made from, with nothing else measured along: no version
/// manager's shim, and no packages of the host that hook into every start.
#[derive(Debug)]
pub(crate) struct Python {
    bare: PathBuf,
    pub(crate) version: String,
    _empty: tempfile::TempDir,
}

impl Python {
    pub(crate) fn find() -> anyhow::Result<Self> {
        const ASK: &str =
            "import sys, platform; print(sys._base_executable); print(platform.python_version())";
        let text = output(Command::new("python3").args(["-I", "-S", "-c", ASK]))?;
        let mut lines = text.lines();
        let (Some(interpreter), Some(version)) = (lines.next(), lines.next()) else {
            bail!("python3 does not say where it is: {text}");
        };
        let empty = tempfile::tempdir()?;
        output(Command::new(interpreter).args(["-I", "-m", "venv", "--without-pip"]).arg(empty.path()))?;
        let bare = empty.path().join("bin/python3");
        Ok(Self { bare, version: version.to_owned(), _empty: empty })
    }

    /// Runs `script` as `python3 -I script` and says how long that took and whether it exited 0.
    pub(crate) fn time(&self, script: &Path) -> anyhow::Result<(Duration, bool)> {
        let mut command = Command::new(&self.bare);
        command.arg("-I").arg(script).stdin(Stdio::null());
        let started = Instant::now();
        let output = command.output().with_context(|| format!("run {}", self.bare.display()))?;
        Ok((started.elapsed(), output.status.success()))
    }
}

fn output(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().with_context(|| format!("run {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
