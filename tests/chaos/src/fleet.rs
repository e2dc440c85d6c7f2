//! Everything that runs in a run, put together by its topology.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::ValueEnum;
use hood_client::{Client, Retry, Token};
use hood_testkit::Redis;

use crate::database::{Database, Postgres, blocking};
use crate::dice::Dice;
use crate::history::now;
use crate::member::{Invocation, Member, Role};

/// How long a lease lasts without being renewed: short, so that many lapse in one run.
pub(crate) const LEASE: Duration = Duration::from_secs(1);

/// Below those that the kernel gives to outgoing connections: a port that is ours stays ours while
/// its process is dead.
const PORTS: std::ops::Range<u64> = 20_000..30_000;
const PORT_TRIES: u32 = 1000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Topology {
    /// One `fumehood serve` over SQLite.
    ServeSqlite,
    /// One `fumehood serve` over PostgreSQL, woken through Redis.
    ServePostgres,
}

#[derive(Debug)]
pub(crate) struct Fleet {
    pub(crate) members: Vec<Member>,
    pub(crate) database: Database,
    pub(crate) bus: Option<Arc<Redis>>,
    /// One for each replica of the API. Each sends a request once.
    pub(crate) clients: Vec<Client>,
    pub(crate) http: reqwest::Client,
}

/// What every topology is built from.
#[derive(Debug)]
pub(crate) struct Setting {
    pub(crate) binary: PathBuf,
    pub(crate) directory: PathBuf,
    /// Evaluations that run at once, in all.
    pub(crate) places: u32,
}

impl Fleet {
    pub(crate) async fn start(topology: Topology, setting: &Setting) -> anyhow::Result<Self> {
        match topology {
            Topology::ServeSqlite => serve_sqlite(setting).await,
            Topology::ServePostgres => serve_postgres(setting).await,
        }
    }

    /// Indexes of those who own places.
    pub(crate) fn dispatching(&self) -> Vec<usize> {
        let indexes = 0..self.members.len();
        indexes.filter(|index| self.members[*index].role.dispatches()).collect()
    }

    pub(crate) fn check_alive(&mut self) -> anyhow::Result<()> {
        self.members.iter_mut().try_for_each(Member::check_alive)
    }

    /// As an operator does: everybody ends cleanly.
    pub(crate) async fn stop(&mut self) -> anyhow::Result<()> {
        for member in &mut self.members {
            let status = member.stop().await?;
            if !status.success() {
                bail!("{} did not stop cleanly: {status}", member.name);
            }
        }
        Ok(())
    }
}

async fn serve_sqlite(setting: &Setting) -> anyhow::Result<Fleet> {
    let (serve, client, http) = serve(setting, &[]).await?;
    let database = Database::Sqlite { file: setting.directory.join("data/fumehood.db") };
    database.install_witness()?;
    Ok(Fleet { members: vec![serve], database, bus: None, clients: vec![client], http })
}

async fn serve_postgres(setting: &Setting) -> anyhow::Result<Fleet> {
    let (postgres, url) = Postgres::start().await?;
    let bus = Arc::new(blocking(Redis::start).await.context("start Redis")?);
    let more = [format!("store.url={url}"), format!("bus.url={}", bus.url())];
    let (serve, client, http) = serve(setting, &more).await?;
    let database = Database::Postgres(postgres);
    database.install_witness()?;
    Ok(Fleet { members: vec![serve], database, bus: Some(bus), clients: vec![client], http })
}

async fn serve(setting: &Setting, more: &[String]) -> anyhow::Result<(Member, Client, reqwest::Client)> {
    let http = reqwest::Client::new();
    let data = setting.directory.join("data");
    let address = free_address()?;
    let mut arguments = vec!["serve".to_owned(), "--data-dir".to_owned(), text(&data)?];
    arguments.extend(["--listen".to_owned(), address.to_string()]);
    arguments.extend(["--places".to_owned(), setting.places.to_string()]);
    arguments.extend(settings(more));
    let invocation = Invocation { binary: setting.binary.clone(), arguments };
    let log = setting.directory.join("serve.log");
    let mut serve = Member::new(Role::Serve, "serve".to_owned(), invocation, (log, address));
    serve.spawn()?;
    serve.until_ready(&http).await?;
    let token = std::fs::read_to_string(data.join("token")).context("read the token")?;
    let client = client(address, token.trim())?;
    Ok((serve, client, http))
}

/// What every member is told, and this one besides.
fn settings(more: &[String]) -> Vec<String> {
    let lease_ms = LEASE.as_millis();
    let common = [
        // The rate is not what is tried here.
        "api.rate_per_second=0".to_owned(),
        format!("worker.lease_ttl_ms={lease_ms}"),
        "log.format=json".to_owned(),
        "log.filter=info,hood_dispatch=debug".to_owned(),
    ];
    let all = common.iter().chain(more).cloned();
    all.flat_map(|setting| ["--set".to_owned(), setting]).collect()
}

fn client(address: SocketAddr, token: &str) -> anyhow::Result<Client> {
    let client = Client::builder(&format!("http://{address}")).token(Token::new(token)).retry(Retry::NONE);
    client.build().context("make a client")
}

fn free_address() -> anyhow::Result<SocketAddr> {
    let mut dice = Dice::new(now().unsigned_abs());
    for _ in 0..PORT_TRIES {
        let port = PORTS.start + dice.below(PORTS.end - PORTS.start);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, u16::try_from(port)?));
        if TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    bail!("no port between {} and {} is free", PORTS.start, PORTS.end)
}

fn text(path: &Path) -> anyhow::Result<String> {
    path.to_str().map(str::to_owned).with_context(|| format!("{} is no text", path.display()))
}
