//! The roles apart: two of each, on PostgreSQL and Redis, with certificates of their own.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::database::{Database, Postgres};
use crate::fleet::{
    Fleet, Pair, Setting, Spot, free_address, hosts, http, network, redis, settings, spot, text, token_in,
};
use crate::member::{Invocation, Member, Role};

/// Of each role.
const REPLICAS: u32 = 2;
/// Host ids for the sandboxes of one dispatcher: no two may share any.
const IDS: u64 = 16_384;
const FIRST_ID: u64 = 1_879_048_192;

/// A member that is not there yet.
pub(crate) struct Draft {
    pub(crate) role: Role,
    name: String,
    spot: Spot,
    /// Where it answers its callers, and where it tells of its health.
    pub(crate) serves: SocketAddr,
    pub(crate) health: SocketAddr,
}

impl Draft {
    pub(crate) fn new(role: Role, number: u32, spot: Spot) -> anyhow::Result<Self> {
        let serves = free_address(&spot.location)?;
        let health = if role == Role::Api { serves } else { free_address(&spot.location)? };
        Ok(Self { role, name: format!("{}{number}", role.as_str()), spot, serves, health })
    }
}

pub(crate) async fn start(setting: &Setting) -> anyhow::Result<Fleet> {
    let mut network = network(setting)?;
    let (at_database, at_bus) = (spot(&mut network)?, spot(&mut network)?);
    let mut drafts = Vec::new();
    for role in [Role::Dispatcher, Role::Worker, Role::Api] {
        for number in 1..=REPLICAS {
            drafts.push(Draft::new(role, number, spot(&mut network)?)?);
        }
    }
    let (postgres, url) = Postgres::start(at_database.location.clone()).await?;
    let bus = redis(at_bus.location.clone()).await?;
    let blobs = text(&setting.directory.join("blobs"))?;
    let common = [format!("store.url={url}"), format!("bus.url={}", bus.url()), format!("blobs.dir={blobs}")];
    let pki = setting.directory.join("pki");
    let mut migrate = at_database.location.command(&setting.binary);
    // It makes the key too, where the first API and this run look for it.
    let keys = text(&setting.directory.join("api1"))?;
    tool(migrate.args(settings(&[format!("store.url={url}")])), &["migrate", "--data-dir", &keys])?;
    tool(&mut Command::new(&setting.binary), &["pki", "init", "--dir", &text(&pki)?])?;
    let http = http()?;
    let mut members = Vec::new();
    for draft in &drafts {
        let mut member = member(setting, draft, (&drafts, &common, &pki))?;
        member.spawn()?;
        members.push(member);
    }
    for member in &mut members {
        member.until_ready(&http).await?;
    }
    let database = Database::Postgres(postgres);
    database.install_witness()?;
    let pairs = if network.is_some() { pairs(&drafts, at_database.party, at_bus.party) } else { Vec::new() };
    let apis = drafts.iter().filter(|draft| draft.role == Role::Api).map(|draft| draft.serves).collect();
    let token = token_in(&setting.directory.join("api1"))?;
    Ok(Fleet { members, database, bus: Some(bus), apis, token, http, network, pairs })
}

/// `common` is what those of its role are told.
pub(crate) fn member(
    setting: &Setting,
    draft: &Draft,
    (drafts, common, pki): (&[Draft], &[String], &PathBuf),
) -> anyhow::Result<Member> {
    let Draft { role, name, spot, serves, health } = draft;
    let data = setting.directory.join(name);
    let (host, pki_text) = (serves.ip().to_string(), text(pki)?);
    let mut arguments = vec![role.as_str().to_owned(), "--data-dir".to_owned(), text(&data)?];
    let mut more = Vec::new();
    if *role != Role::Api {
        more.push(format!("metrics.listen={health}"));
    }
    if matches!(role, Role::Dispatcher | Role::Worker) {
        let mut of = vec!["pki", "issue", role.as_str(), "--name", name, "--dir", &pki_text];
        // Nobody calls a worker.
        if *role == Role::Dispatcher {
            of.extend(["--host", &host]);
        }
        tool(&mut Command::new(&setting.binary), &of)?;
        more.extend([
            format!("tls.cert={pki_text}/{}-{name}.crt", role.as_str()),
            format!("tls.key={pki_text}/{}-{name}.key", role.as_str()),
            format!("tls.ca={pki_text}/ca.crt"),
        ]);
    }
    let number = drafts.iter().filter(|other| other.role == *role).position(|other| other.name == *name);
    let number = u64::try_from(number.unwrap_or(0))?;
    match role {
        Role::Dispatcher => {
            arguments.extend(["--listen".to_owned(), serves.to_string()]);
            arguments.extend(["--places".to_owned(), (setting.places / REPLICAS).max(1).to_string()]);
            more.push(format!("sandbox.id_range={}:{IDS}", FIRST_ID + number * IDS));
        }
        Role::Worker => {
            let dispatchers = drafts.iter().filter(|other| other.role == Role::Dispatcher);
            let urls: Vec<_> = dispatchers.map(|other| format!("https://{}", other.serves)).collect();
            more.push(format!("worker.dispatchers={}", urls.join(",")));
            more.extend_from_slice(common);
        }
        Role::Notifier => more.extend_from_slice(common),
        Role::Api | Role::Serve => {
            arguments.extend(["--listen".to_owned(), serves.to_string()]);
            more.push(hosts(setting, *serves));
            more.extend_from_slice(common);
        }
    }
    arguments.extend(settings(&more));
    let prefix = spot.location.prefix.clone();
    let invocation = Invocation { prefix, binary: setting.binary.clone(), arguments };
    let log = setting.directory.join(format!("{name}.log"));
    Ok(Member::new(*role, name.clone(), invocation, (log, *health)))
}

/// Who speaks to whom: a worker to each dispatcher, and all but dispatchers to database and Redis.
fn pairs(drafts: &[Draft], database: usize, bus: usize) -> Vec<Pair> {
    let mut pairs = Vec::new();
    for draft in drafts {
        let mine = draft.spot.party;
        match draft.role {
            Role::Api => {
                pairs.push(Pair { parties: (mine, database), name: "api and the database" });
                pairs.push(Pair { parties: (mine, bus), name: "api and redis" });
            }
            Role::Worker => {
                pairs.push(Pair { parties: (mine, database), name: "worker and the database" });
                pairs.push(Pair { parties: (mine, bus), name: "worker and redis" });
                let dispatchers = drafts.iter().filter(|other| other.role == Role::Dispatcher);
                pairs.extend(
                    dispatchers.map(|other| Pair {
                        parties: (mine, other.spot.party),
                        name: "worker and dispatcher",
                    }),
                );
            }
            Role::Dispatcher | Role::Notifier | Role::Serve => {}
        }
    }
    pairs
}

/// A command of the product's that does one thing and ends; answers what it said.
pub(crate) fn tool(command: &mut Command, arguments: &[&str]) -> anyhow::Result<String> {
    let output = command.args(arguments).output().context("run fumehood")?;
    if !output.status.success() {
        bail!("fumehood {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
