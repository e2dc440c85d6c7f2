//! Roles apart, as processes on this host: two replicas of the API, a worker and a dispatcher, on a
//! PostgreSQL and a Redis of their own.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, bail};
use hood_client::{Client, Token};
use hood_testkit::{Postgres, PostgresOptions, Redis};
use hood_wire::api::Verdict;

use crate::cli::Common;
use crate::server::{POLL, START_PATIENCE, binary, end, python};

#[derive(Debug)]
pub(crate) struct Fleet {
    /// Ended first: the last that was started before those that it needs.
    members: Vec<Member>,
    pub(crate) redis: Redis,
    postgres: Postgres,
    dir: tempfile::TempDir,
    /// Clients of the two replicas.
    pub(crate) replicas: [Client; 2],
}

#[derive(Debug)]
struct Member {
    child: Child,
    log: PathBuf,
}

impl Drop for Member {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// What every start needs.
struct Setting {
    binary: PathBuf,
    dir: tempfile::TempDir,
    /// Of all that share records, output and hints.
    shared: Vec<String>,
}

impl Fleet {
    /// Starts everything, and runs a first evaluation, so that what is built on first use is there.
    pub(crate) async fn start(common: &Common) -> anyhow::Result<Self> {
        if let Some(why) = hood_testkit::missing() {
            bail!("{why}");
        }
        let binary = binary(common)?;
        let dir = match &common.dir {
            Some(parent) => tempfile::tempdir_in(parent),
            None => tempfile::tempdir(),
        }
        .context("make a directory")?;
        let postgres = Postgres::start(PostgresOptions::default()).context("start PostgreSQL")?;
        let redis = Redis::start().context("start Redis")?;
        let url = postgres.create_database().context("make a database")?;
        let shared = vec![
            format!("store.url={url}"),
            format!("bus.url={}", redis.url()),
            format!("blobs.dir={}", dir.path().join("blobs").display()),
        ];
        let setting = Setting { binary, dir, shared };
        let (members, replicas) = setting.roles(common).await?;
        let fleet = Self { members, redis, postgres, dir: setting.dir, replicas };
        fleet.first().await?;
        Ok(fleet)
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// What a commit outlives, as the server reports it.
    pub(crate) fn durability(&self) -> anyhow::Result<String> {
        let of = |name: &str| self.postgres.sql("postgres", &format!("SHOW {name}"));
        let (fsync, commit) = (of("fsync")?, of("synchronous_commit")?);
        Ok(format!("PostgreSQL with fsync={} and synchronous_commit={}", fsync.trim(), commit.trim()))
    }

    /// Waits until something is offered.
    async fn first(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_PATIENCE;
        loop {
            match self.replicas[0].submit(&python("print(1)"), Some(START_PATIENCE)).await {
                Ok(ran) if ran.evaluation.verdict == Some(Verdict::Succeeded) => return Ok(()),
                Ok(ran) => bail!("the first evaluation did not succeed: {:?}", ran.evaluation),
                Err(error) if Instant::now() > deadline => {
                    let said = self.members.iter().map(Member::said).collect::<Vec<_>>().join("\n");
                    return Err(anyhow::Error::new(error).context(format!("nothing is accepted:\n{said}")));
                }
                Err(_) => tokio::time::sleep(POLL).await,
            }
        }
    }
}

impl Setting {
    async fn roles(&self, common: &Common) -> anyhow::Result<(Vec<Member>, [Client; 2])> {
        let key = self.path("api1");
        self.run(&["migrate", "--data-dir", &key, "--set", &self.shared[0]])?;
        let pki = self.path("pki");
        self.run(&["pki", "init", "--dir", &pki])?;
        self.run(&["pki", "issue", "dispatcher", "--name", "d1", "--host", "127.0.0.1", "--dir", &pki])?;
        self.run(&["pki", "issue", "worker", "--name", "w1", "--dir", &pki])?;
        let mut of_dispatcher = certificate(&pki, "dispatcher-d1");
        of_dispatcher.push("dispatcher.listen=127.0.0.1:0".to_owned());
        of_dispatcher.extend(common.places.map(|places| format!("worker.places={places}")));
        let dispatcher = self.spawn("dispatcher", "d1", &of_dispatcher)?;
        let address = dispatcher.greeting("https://").await?;
        let mut of_worker = [certificate(&pki, "worker-w1"), self.shared.clone()].concat();
        of_worker.push(format!("worker.dispatchers=https://{address}"));
        let worker = self.spawn("worker", "w1", &of_worker)?;
        let mut of_api = self.shared.clone();
        of_api.extend(["server.listen=127.0.0.1:0".to_owned(), "api.rate_per_second=0".to_owned()]);
        let apis = [self.spawn("api", "api1", &of_api)?, self.spawn("api", "api2", &of_api)?];
        let token = std::fs::read_to_string(Path::new(&key).join("token")).context("read the key")?;
        let mut replicas = Vec::new();
        for api in &apis {
            let address = api.greeting("http://").await?;
            let client = Client::builder(&format!("http://{address}")).token(Token::new(token.trim()));
            replicas.push(client.build()?);
        }
        let Ok(replicas) = <[Client; 2]>::try_from(replicas) else { bail!("there are two replicas") };
        let [one, other] = apis;
        Ok((vec![one, other, worker, dispatcher], replicas))
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_string_lossy().into_owned()
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        // Whoever runs this may have set up their own.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("FUMEHOOD_") {
                command.env_remove(name);
            }
        }
        command.stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> anyhow::Result<()> {
        let output = self.command().args(arguments).output().context("run fumehood")?;
        if !output.status.success() {
            bail!("fumehood {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }

    fn spawn(&self, role: &str, name: &str, settings: &[String]) -> anyhow::Result<Member> {
        let log = self.dir.path().join(format!("{name}.log"));
        let file = File::create(&log).context("make a log")?;
        let mut command = self.command();
        command.arg(role).args(["--data-dir", &self.path(name)]);
        for setting in settings {
            command.args(["--set", setting]);
        }
        command.stdout(Stdio::from(file.try_clone()?)).stderr(Stdio::from(file));
        let child = command.spawn().with_context(|| format!("start the {role}"))?;
        Ok(Member { child, log })
    }
}

impl Member {
    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The address after `scheme` in what it says when it is there.
    async fn greeting(&self, scheme: &str) -> anyhow::Result<String> {
        let deadline = Instant::now() + START_PATIENCE;
        loop {
            let said = self.said();
            let greeting = said.lines().find(|line| line.starts_with("fumehood "));
            if let Some((_, rest)) = greeting.and_then(|line| line.split_once(scheme)) {
                let end = rest.find([';', ' ']).unwrap_or(rest.len());
                return Ok(rest[..end].to_owned());
            }
            if Instant::now() > deadline {
                bail!("it does not come up:\n{said}");
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

fn certificate(pki: &str, name: &str) -> Vec<String> {
    vec![
        format!("tls.cert={pki}/{name}.crt"),
        format!("tls.key={pki}/{name}.key"),
        format!("tls.ca={pki}/ca.crt"),
    ]
}
