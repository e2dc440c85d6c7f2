//! One of our processes: started, struck, started again.

use std::fs::File;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::history::{Life, Person, now};

/// How long a start, an end or an answer may take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(10);
/// How long one look at `/readyz` may take.
const LOOK: Duration = Duration::from_secs(5);
/// What of a log is shown when its process failed.
const LOG_SHOWN: usize = 4000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    /// All of them in one process.
    Serve,
    Api,
    Worker,
    Dispatcher,
    Notifier,
}

impl Role {
    /// Whether it owns places.
    pub(crate) const fn dispatches(self) -> bool {
        matches!(self, Self::Serve | Self::Dispatcher)
    }

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Serve => "serve",
            Self::Api => "api",
            Self::Worker => "worker",
            Self::Dispatcher => "dispatcher",
            Self::Notifier => "notifier",
        }
    }
}

/// How a member is started.
#[derive(Clone, Debug)]
pub(crate) struct Invocation {
    /// What its command begins with: nothing, or what enters another network namespace first.
    pub(crate) prefix: Vec<String>,
    pub(crate) binary: PathBuf,
    pub(crate) arguments: Vec<String>,
}

#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) log: PathBuf,
    /// Where it answers `/readyz`.
    pub(crate) health: SocketAddr,
    pub(crate) invocation: Invocation,
    child: Option<Child>,
    lives: Vec<Life>,
}

impl Member {
    pub(crate) fn new(
        role: Role,
        name: String,
        invocation: Invocation,
        place: (PathBuf, SocketAddr),
    ) -> Self {
        let (log, health) = place;
        Self { name, role, log, health, invocation, child: None, lives: Vec::new() }
    }

    pub(crate) fn person(&self) -> Person {
        Person { name: self.name.clone(), role: self.role, lives: self.lives.clone() }
    }

    /// Starts it; [`Member::until_ready`] waits for it.
    pub(crate) fn spawn(&mut self) -> anyhow::Result<()> {
        let log = File::options().create(true).append(true).open(&self.log).context("open a member's log")?;
        // Whatever becomes of this process, nothing of a run outlives it.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).args(&self.invocation.prefix);
        command.arg(&self.invocation.binary);
        command.args(&self.invocation.arguments);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("FUMEHOOD_") {
                command.env_remove(name);
            }
        }
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().with_context(|| format!("start {}", self.name))?;
        self.lives.push(Life { pid: child.id(), began: now(), ended: None });
        self.child = Some(child);
        Ok(())
    }

    pub(crate) async fn until_ready(&mut self, http: &reqwest::Client) -> anyhow::Result<()> {
        let url = format!("http://{}/readyz", self.health);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = http.get(&url).timeout(LOOK).send().await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(());
            }
            let child = self.child.as_mut().context("it was not started")?;
            let ended = child.try_wait().context("look at a member")?;
            if ended.is_some() || Instant::now() > deadline {
                bail!("{} did not become ready ({ended:?}):\n{}", self.name, self.last_words());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    fn last_words(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let from = log.len().saturating_sub(LOG_SHOWN);
        log.get(from..).unwrap_or_default().to_owned()
    }

    pub(crate) async fn kill(&mut self) -> anyhow::Result<()> {
        self.signal(Signal::KILL)?;
        self.gone().await.map(drop)
    }

    /// As an operator stops it: the way it ended is its answer.
    pub(crate) async fn stop(&mut self) -> anyhow::Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.gone().await
    }

    pub(crate) fn freeze(&self) -> anyhow::Result<()> {
        self.signal(Signal::STOP)
    }

    pub(crate) fn thaw(&self) -> anyhow::Result<()> {
        self.signal(Signal::CONT)
    }

    /// Refuses where it died by itself: nothing that is done to others may end it.
    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let child = self.child.as_ref().with_context(|| format!("{} does not run", self.name))?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("a process id")?;
        kill_process(pid, signal).with_context(|| format!("signal {}", self.name))
    }

    pub(crate) fn check_alive(&mut self) -> anyhow::Result<()> {
        let Some(child) = &mut self.child else { return Ok(()) };
        match child.try_wait().context("look at a member")? {
            None => Ok(()),
            Some(status) => bail!("{} ended by itself ({status}):\n{}", self.name, self.last_words()),
        }
    }

    async fn gone(&mut self) -> anyhow::Result<ExitStatus> {
        let mut child = self.child.take().context("it does not run")?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = child.try_wait().context("wait for a member")? {
                if let Some(life) = self.lives.last_mut() {
                    life.ended = Some(now());
                }
                return Ok(status);
            }
            if Instant::now() > deadline {
                self.child = Some(child);
                bail!("{} does not end:\n{}", self.name, self.last_words());
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
