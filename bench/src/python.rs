//! The host's own Python: what evaluations are compared with.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

#[derive(Clone, Debug)]
pub(crate) struct Python {
    path: PathBuf,
    pub(crate) version: String,
}

impl Python {
    /// The interpreter itself: `python3` may be a shim of a version manager, which would be measured
    /// along.
    pub(crate) fn find() -> anyhow::Result<Self> {
        const ASK: &str =
            "import sys, platform; print(sys._base_executable); print(platform.python_version())";
        let output = Command::new("python3").args(["-I", "-S", "-c", ASK]).output().context("run python3")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let mut lines = text.lines();
        match (lines.next(), lines.next()) {
            (Some(path), Some(version)) => Ok(Self { path: path.into(), version: version.to_owned() }),
            _ => bail!("python3 does not say where it is: {}", String::from_utf8_lossy(&output.stderr)),
        }
    }

    /// Runs `script` as `python3 -I script` and says how long that took and whether it exited 0.
    pub(crate) fn time(&self, script: &Path) -> anyhow::Result<(Duration, bool)> {
        let mut command = Command::new(&self.path);
        command.arg("-I").arg(script).stdin(Stdio::null());
        let started = Instant::now();
        let output = command.output().with_context(|| format!("run {}", self.path.display()))?;
        Ok((started.elapsed(), output.status.success()))
    }
}
