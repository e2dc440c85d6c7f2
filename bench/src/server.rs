//! `fumehood serve` as a process of its own, over a data directory of its own.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use hood_client::{Client, Token};
use hood_testkit::{Postgres, PostgresOptions};
use hood_wire::api::{Evaluation, Submission, Verdict};
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;

use crate::cli::{Common, Engine};
use crate::host::{Host, field};
use crate::python::Python;

/// A cold start makes a key and proves the sandbox; the first evaluation builds `minimal`.
pub(crate) const START_PATIENCE: Duration = Duration::from_secs(60);
const STOP_PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at whether the server is there, or gone.
pub(crate) const POLL: Duration = Duration::from_millis(20);
/// As long as a server lets a request wait.
pub(crate) const WAIT: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    dir: tempfile::TempDir,
    pub(crate) client: Client,
    keys: AtomicU64,
    /// Ended after the server, which dropping this ends first.
    _postgres: Option<Postgres>,
}

/// What `serve` writes into its data directory once it answers.
#[derive(Debug, Deserialize)]
struct Endpoint {
    address: String,
}

impl Server {
    /// Starts one, and runs a first evaluation, so that what is built on first use is there.
    pub(crate) async fn start(common: &Common) -> anyhow::Result<Self> {
        Self::with(common, &[]).await
    }

    /// Starts one with settings of its own, `key=value` each.
    pub(crate) async fn with(common: &Common, settings: &[String]) -> anyhow::Result<Self> {
        let binary = binary(common)?;
        let dir = match &common.dir {
            Some(parent) => tempfile::tempdir_in(parent),
            None => tempfile::tempdir(),
        }
        .context("make a data directory")?;
        let mut settings = settings.to_vec();
        let postgres = match common.engine {
            Engine::Sqlite => None,
            Engine::Postgres => {
                let postgres = start_postgres()?;
                settings
                    .push(format!("store.url={}", postgres.create_database().context("make a database")?));
                Some(postgres)
            }
        };
        let child = spawn(&binary, dir.path(), (common.places, &settings))?;
        // From here on a failure ends the child.
        let mut starting = Starting { child: Some(child), dir: Some(dir) };
        let client = starting.client().await?;
        let (Some(child), Some(dir)) = (starting.child.take(), starting.dir.take()) else {
            bail!("the server was given away twice");
        };
        let server = Self { child, dir, client, keys: AtomicU64::new(0), _postgres: postgres };
        let first = server.run(&python("print(1)")).await?;
        if first.verdict != Some(Verdict::Succeeded) {
            bail!("the first evaluation did not succeed: {}", serde_json::to_string_pretty(&first)?);
        }
        Ok(server)
    }

    /// The machine that it runs on, and how its records are kept, as its database reports it.
    pub(crate) async fn host(&self, python: &Python) -> anyhow::Result<Host> {
        let reported = self.client.health_detail().await.context("ask how records are kept")?.durability;
        let reported: Vec<_> = reported.iter().map(|(name, value)| format!("{name} = {value}")).collect();
        Ok(Host::look(self.dir.path(), python, reported.join(", ")))
    }

    /// An idempotency key that this server has not seen.
    pub(crate) fn fresh_key(&self) -> String {
        format!("bench-{}", self.keys.fetch_add(1, Ordering::Relaxed))
    }

    /// Submits and waits for the end.
    pub(crate) async fn run(&self, submission: &Submission) -> anyhow::Result<Evaluation> {
        let evaluation = self.client.submit(submission, Some(WAIT)).await?.evaluation;
        if evaluation.state.is_terminal() { Ok(evaluation) } else { self.end(&evaluation.id).await }
    }

    pub(crate) async fn end(&self, id: &str) -> anyhow::Result<Evaluation> {
        loop {
            let evaluation = self.client.get(id, Some(WAIT)).await?;
            if evaluation.state.is_terminal() {
                return Ok(evaluation);
            }
        }
    }

    /// The server's resident memory now, and the most that it ever was, MiB.
    pub(crate) fn memory_mib(&self) -> Option<(f64, f64)> {
        let path = format!("/proc/{}/status", self.child.id());
        let mib = |name| {
            let value = field(&path, name)?;
            value.trim_end_matches(" kB").parse::<f64>().ok().map(|kib| kib / 1024.0)
        };
        Some((mib("VmRSS")?, mib("VmHWM")?))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// A server that may not come up.
#[derive(Debug)]
struct Starting {
    child: Option<Child>,
    dir: Option<tempfile::TempDir>,
}

impl Starting {
    async fn client(&mut self) -> anyhow::Result<Client> {
        let (Some(child), Some(dir)) = (&mut self.child, &self.dir) else { bail!("no server") };
        let deadline = Instant::now() + START_PATIENCE;
        loop {
            if let Some(client) = connect(dir.path()) {
                client.version().await.context("ask the server for its version")?;
                return Ok(client);
            }
            let status = child.try_wait().context("look at the server")?;
            if status.is_some() || Instant::now() > deadline {
                let said = std::fs::read_to_string(dir.path().join("serve.log")).unwrap_or_default();
                bail!("the server did not come up ({status:?}):\n{said}");
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            end(child);
        }
    }
}

pub(crate) fn start_postgres() -> anyhow::Result<Postgres> {
    if let Some(missing) = hood_testkit::missing() {
        bail!("there is no PostgreSQL to measure with: {missing}");
    }
    Postgres::start(PostgresOptions { fsync: true }).context("start PostgreSQL")
}

fn connect(dir: &Path) -> Option<Client> {
    let data = dir.join("data");
    let endpoint = std::fs::read_to_string(data.join("server.json")).ok()?;
    let endpoint: Endpoint = serde_json::from_str(&endpoint).ok()?;
    let token = std::fs::read_to_string(data.join("token")).ok()?;
    Client::builder(&format!("http://{}", endpoint.address)).token(Token::new(&token)).build().ok()
}

fn spawn(binary: &Path, dir: &Path, (places, settings): (Option<u32>, &[String])) -> anyhow::Result<Child> {
    let log = File::create(dir.join("serve.log")).context("make the server's log")?;
    let mut command = Command::new(binary);
    command.arg("serve").arg("--data-dir").arg(dir.join("data")).args(["--listen", "127.0.0.1:0"]);
    // The rate is not what is measured, unless a setting says so.
    command.args(["--set", "api.rate_per_second=0"]);
    for setting in settings {
        command.args(["--set", setting]);
    }
    if let Some(places) = places {
        command.args(["--places", &places.to_string()]);
    }
    // Whoever runs this may have set up their own server.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("FUMEHOOD_") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null()).stdout(Stdio::from(log.try_clone()?)).stderr(Stdio::from(log));
    command.spawn().with_context(|| format!("start {}", binary.display()))
}

pub(crate) fn end(child: &mut Child) {
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // Gone already is what we want.
        let _ = kill_process(pid, Signal::TERM);
    }
    let deadline = Instant::now() + STOP_PATIENCE;
    while Instant::now() < deadline {
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        std::thread::sleep(POLL);
    }
    let _ = child.kill();
    let _ = child.wait();
}

pub(crate) fn binary(common: &Common) -> anyhow::Result<PathBuf> {
    let path = match &common.fumehood {
        Some(path) => path.clone(),
        None => std::env::current_exe().context("find this program")?.with_file_name("fumehood"),
    };
    if !path.is_file() {
        bail!(
            "there is no {}: cargo build --release --locked -p hood-server, or name another with --fumehood",
            path.display()
        );
    }
    Ok(path)
}

/// A program that is nothing but Python source.
pub(crate) fn python(code: &str) -> Submission {
    Submission { code: Some(code.to_owned()), ..Submission::default() }
}

/// How it ended, for a message.
pub(crate) fn ending(evaluation: &Evaluation) -> String {
    let Evaluation { id, verdict, exit_code, stderr, .. } = evaluation;
    format!("{id}: {verdict:?}, exit code {exit_code:?}: {}", stderr.preview.trim_end())
}
