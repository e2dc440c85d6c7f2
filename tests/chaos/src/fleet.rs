//! Everything that runs in a run, put together by its topology.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::ValueEnum;
use hood_client::{Client, Retry, Token};
use hood_testkit::{Location, Redis};

use crate::database::{Database, Postgres, blocking};
use crate::history::now;
use crate::member::{Invocation, Member, Role};
use crate::network::Network;
use crate::roles;

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
    /// Two each of API, worker and dispatcher, over PostgreSQL and Redis.
    Roles,
}

#[derive(Debug)]
pub(crate) struct Fleet {
    pub(crate) members: Vec<Member>,
    pub(crate) database: Database,
    pub(crate) bus: Option<Arc<Redis>>,
    /// Of each replica of the API.
    pub(crate) apis: Vec<SocketAddr>,
    pub(crate) token: String,
    pub(crate) http: reqwest::Client,
    /// Where the run has a network of its own: that, and who in it speaks to whom.
    pub(crate) network: Option<Network>,
    pub(crate) pairs: Vec<Pair>,
}

/// Two parties of a network that speak to each other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pair {
    pub(crate) parties: (usize, usize),
    pub(crate) name: &'static str,
}

/// What every topology is built from.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    pub(crate) binary: PathBuf,
    pub(crate) directory: PathBuf,
    /// Evaluations that run at once, in all.
    pub(crate) places: u32,
    /// Where a balancer may stand before the replicas of the API.
    pub(crate) front: SocketAddr,
    /// Whether each party is in a network namespace of its own.
    pub(crate) apart: bool,
}

/// Where one party runs.
#[derive(Clone, Debug)]
pub(crate) struct Spot {
    pub(crate) party: usize,
    pub(crate) location: Location,
}

impl Fleet {
    pub(crate) async fn start(topology: Topology, setting: &Setting) -> anyhow::Result<Self> {
        match topology {
            Topology::ServeSqlite => serve_sqlite(setting).await,
            Topology::ServePostgres => serve_postgres(setting).await,
            Topology::Roles => roles::start(setting).await,
        }
    }

    /// One for each replica of the API. Each sends a request once.
    pub(crate) fn clients(&self) -> anyhow::Result<Vec<Client>> {
        self.apis.iter().map(|address| client(*address, &self.token)).collect()
    }

    /// Indexes of those who own places.
    pub(crate) fn dispatching(&self) -> Vec<usize> {
        let indexes = 0..self.members.len();
        indexes.filter(|index| self.members[*index].role.dispatches()).collect()
    }

    pub(crate) fn check_alive(&mut self) -> anyhow::Result<()> {
        self.members.iter_mut().try_for_each(Member::check_alive)
    }

    /// As an operator does, and it has to end cleanly.
    pub(crate) async fn restart(&mut self, index: usize) -> anyhow::Result<()> {
        let member = &mut self.members[index];
        clean(member.name.clone(), member.stop().await?)?;
        member.spawn()?;
        member.until_ready(&self.http).await
    }

    pub(crate) async fn stop(&mut self) -> anyhow::Result<()> {
        for member in &mut self.members {
            clean(member.name.clone(), member.stop().await?)?;
        }
        Ok(())
    }
}

fn clean(name: String, status: ExitStatus) -> anyhow::Result<()> {
    if !status.success() {
        bail!("{name} did not stop cleanly: {status}");
    }
    Ok(())
}

pub(crate) fn spot(network: &mut Option<Network>) -> anyhow::Result<Spot> {
    let Some(network) = network else { return Ok(Spot { party: 0, location: Location::default() }) };
    let (party, host, prefix) = network.party()?;
    Ok(Spot { party, location: Location { host, prefix } })
}

pub(crate) fn network(setting: &Setting) -> anyhow::Result<Option<Network>> {
    setting.apart.then(Network::make).transpose()
}

async fn serve_sqlite(setting: &Setting) -> anyhow::Result<Fleet> {
    if setting.apart {
        bail!("one process speaks to nobody that it could be parted from: choose another topology");
    }
    let http = http()?;
    let (serve, address) = serve(setting, &spot(&mut None)?, (&http, &[])).await?;
    let database = Database::Sqlite { file: setting.directory.join("data/fumehood.db") };
    database.install_witness()?;
    let token = token_in(&setting.directory.join("data"))?;
    let (members, apis) = (vec![serve], vec![address]);
    Ok(Fleet { members, database, bus: None, apis, token, http, network: None, pairs: Vec::new() })
}

async fn serve_postgres(setting: &Setting) -> anyhow::Result<Fleet> {
    let mut network = network(setting)?;
    let (at_database, at_bus, at_serve) = (spot(&mut network)?, spot(&mut network)?, spot(&mut network)?);
    let (postgres, url) = Postgres::start(at_database.location.clone()).await?;
    let bus = redis(at_bus.location.clone()).await?;
    let http = http()?;
    let more = [format!("store.url={url}"), format!("bus.url={}", bus.url())];
    let (serve, address) = serve(setting, &at_serve, (&http, &more)).await?;
    let database = Database::Postgres(postgres);
    database.install_witness()?;
    let mut pairs = Vec::new();
    if network.is_some() {
        pairs.push(Pair { parties: (at_serve.party, at_database.party), name: "serve and the database" });
        pairs.push(Pair { parties: (at_serve.party, at_bus.party), name: "serve and redis" });
    }
    let token = token_in(&setting.directory.join("data"))?;
    let (members, apis) = (vec![serve], vec![address]);
    Ok(Fleet { members, database, bus: Some(bus), apis, token, http, network, pairs })
}

pub(crate) async fn redis(location: Location) -> anyhow::Result<Arc<Redis>> {
    // Who reaches it is in a network that this run made.
    let started = blocking(|| Redis::start_at(&["--protected-mode", "no"], location)).await;
    Ok(Arc::new(started.context("start Redis")?))
}

pub(crate) fn http() -> anyhow::Result<reqwest::Client> {
    reqwest::Client::builder().no_proxy().build().context("make an HTTP client")
}

pub(crate) fn token_in(data: &Path) -> anyhow::Result<String> {
    let token = std::fs::read_to_string(data.join("token")).context("read the token")?;
    Ok(token.trim().to_owned())
}

async fn serve(
    setting: &Setting,
    spot: &Spot,
    (http, more): (&reqwest::Client, &[String]),
) -> anyhow::Result<(Member, SocketAddr)> {
    let data = setting.directory.join("data");
    let address = free_address(&spot.location)?;
    let mut arguments = vec!["serve".to_owned(), "--data-dir".to_owned(), text(&data)?];
    arguments.extend(["--listen".to_owned(), address.to_string()]);
    arguments.extend(["--places".to_owned(), setting.places.to_string()]);
    arguments.extend(settings(more));
    arguments.extend(["--set".to_owned(), hosts(setting, address)]);
    let prefix = spot.location.prefix.clone();
    let invocation = Invocation { prefix, binary: setting.binary.clone(), arguments };
    let log = setting.directory.join("serve.log");
    let mut serve = Member::new(Role::Serve, "serve".to_owned(), invocation, (log, address));
    serve.spawn()?;
    serve.until_ready(http).await?;
    Ok((serve, address))
}

/// Under which names an API is asked.
pub(crate) fn hosts(setting: &Setting, address: SocketAddr) -> String {
    format!("server.allowed_hosts={address},{}", setting.front)
}

/// What every member is told, and this one besides.
pub(crate) fn settings(more: &[String]) -> Vec<String> {
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

pub(crate) fn client(address: SocketAddr, token: &str) -> anyhow::Result<Client> {
    let client = Client::builder(&format!("http://{address}")).token(Token::new(token)).retry(Retry::NONE);
    client.build().context("make a client")
}

/// One at which nobody listens. In a namespace of its own everything is free.
pub(crate) fn free_address(location: &Location) -> anyhow::Result<SocketAddr> {
    // From somewhere by chance, since runs may be beside each other, and on from there, since two
    // that are drawn may be the same.
    static NEXT: LazyLock<AtomicU64> = LazyLock::new(|| AtomicU64::new(now().unsigned_abs()));
    for _ in 0..PORT_TRIES {
        let port = PORTS.start + NEXT.fetch_add(1, Ordering::Relaxed) % (PORTS.end - PORTS.start);
        let address = SocketAddr::from((location.host, u16::try_from(port)?));
        if !location.host.is_loopback() || TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    bail!("no port between {} and {} is free", PORTS.start, PORTS.end)
}

pub(crate) fn text(path: &Path) -> anyhow::Result<String> {
    path.to_str().map(str::to_owned).with_context(|| format!("{} is no text", path.display()))
}
