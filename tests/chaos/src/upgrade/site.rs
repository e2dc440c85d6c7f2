//! An installation with two of each role, one of either release, on one PostgreSQL and one Redis. Each role
//! has a database user of its own with the rights that the migrations give it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use hood_testkit::Location;

use super::shift::Release;
use crate::database::{Database, Postgres, blocking};
use crate::fleet::{Fleet, Setting, http, redis, settings, spot, text, token_in};
use crate::member::{Member, Role};
use crate::roles::{Draft, member, tool};
use crate::witness::Witness;

/// Members stand in this order, the previous release's before this one's.
const ROLES: [Role; 4] = [Role::Dispatcher, Role::Worker, Role::Api, Role::Notifier];
/// Those with a user in the database.
const USERS: [&str; 3] = ["api", "worker", "notifier"];
/// Receivers are on this host.
const ALLOWED: &str = "webhooks.allow=127.0.0.0/8";
const SECRET: &str = "webhooks.secret=whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const METRICS_MAX: Duration = Duration::from_secs(5);

pub(super) struct Site {
    pub(super) fleet: Fleet,
    pub(super) witness: Witness,
    /// This release's.
    binary: PathBuf,
    owner_url: String,
    /// Where the first key is.
    keys: String,
}

/// What the members count of themselves, the previous release's first.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counts {
    pub(super) submissions: [f64; 2],
    pub(super) messages: [f64; 2],
}

impl Site {
    /// Starts the previous release's members, on a schema of theirs.
    pub(super) async fn start(previous: &Path, setting: &Setting) -> anyhow::Result<Self> {
        let directory = &setting.directory;
        let (postgres, owner_url) = Postgres::start(Location::default()).await?;
        for user in USERS {
            let create = format!("CREATE ROLE {} LOGIN", user_of(&postgres, user));
            postgres.cluster.sql(&postgres.name, &create).context("make a user")?;
        }
        let bus = redis(Location::default()).await?;
        let old = Setting { binary: previous.to_owned(), ..setting.clone() };
        let keys = text(&directory.join("api1"))?;
        migrate(&old.binary, &owner_url, &["--data-dir", &keys])
            .context("migrate as the previous release")?;
        for user in USERS {
            let join = format!("GRANT fumehood_{user} TO {}", user_of(&postgres, user));
            postgres.cluster.sql(&postgres.name, &join).context("put a user into its group")?;
        }
        let pki = directory.join("pki");
        tool(&mut Command::new(&old.binary), &["pki", "init", "--dir", &text(&pki)?])?;
        let mut drafts = Vec::new();
        for role in ROLES {
            for release in [Release::Previous, Release::This] {
                drafts.push(Draft::new(role, release.number(), spot(&mut None)?)?);
            }
        }
        let shared =
            [format!("bus.url={}", bus.url()), format!("blobs.dir={}", text(&directory.join("blobs"))?)];
        let mut members = Vec::new();
        for (index, draft) in drafts.iter().enumerate() {
            let of = if Release::of_member(index) == Release::Previous { &old } else { setting };
            let mut told = shared.to_vec();
            told.extend(told_besides(draft.role, &postgres));
            members.push(member(of, draft, (&drafts, &told, &pki))?);
        }
        let apis = drafts.iter().filter(|draft| draft.role == Role::Api).map(|draft| draft.serves).collect();
        let (token, http) = (token_in(&directory.join("api1"))?, http()?);
        let (database, pairs) = (Database::Postgres(postgres), Vec::new());
        let fleet = Fleet { members, database, bus: Some(bus), apis, token, http, network: None, pairs };
        let binary = setting.binary.clone();
        let mut site = Self { fleet, witness: Witness::default(), binary, owner_url, keys };
        for role in ROLES {
            site.begin(index_of(role, Release::Previous)).await?;
        }
        site.fleet.database.install_witness()?;
        Ok(site)
    }

    async fn begin(&mut self, index: usize) -> anyhow::Result<()> {
        let Some(member) = self.fleet.members.get_mut(index) else { bail!("there is no member {index}") };
        member.spawn()?;
        if member.role.dispatches() {
            self.witness.watch(index, member.log.clone());
        }
        member.until_ready(&self.fleet.http).await
    }

    /// Runs this release's `fumehood migrate`, and answers what it said.
    pub(super) async fn migrate(&self, more: &[&str]) -> anyhow::Result<String> {
        let (binary, url, keys) = (self.binary.clone(), self.owner_url.clone(), self.keys.clone());
        let more: Vec<String> = more.iter().map(|&word| word.to_owned()).collect();
        let migrated = blocking(move || {
            let arguments: Vec<&str> =
                ["--data-dir", &keys].into_iter().chain(more.iter().map(String::as_str)).collect();
            Ok(migrate(&binary, &url, &arguments))
        });
        migrated.await?
    }

    pub(super) async fn join(&mut self, role: Role) -> anyhow::Result<()> {
        self.begin(index_of(role, Release::This)).await.with_context(|| format!("join {}", role.as_str()))
    }

    /// Stops the previous release's member as an operator does. A dispatcher has a successor at its address, where
    /// workers look for what it had; of the others there is one elsewhere.
    pub(super) async fn retire(&mut self, role: Role) -> anyhow::Result<()> {
        let index = index_of(role, Release::Previous);
        if role != Role::Dispatcher {
            return self.end(index).await;
        }
        let Some(member) = self.fleet.members.get_mut(index) else { bail!("there is no member {index}") };
        member.invocation.binary = self.binary.clone();
        self.fleet.restart(index).await
    }

    pub(super) fn address_of_the_previous_api(&self) -> anyhow::Result<SocketAddr> {
        self.fleet.apis.first().copied().context("there is no API")
    }

    pub(super) async fn restart_previous(&mut self, role: Role) -> anyhow::Result<()> {
        self.fleet.restart(index_of(role, Release::Previous)).await
    }

    pub(super) async fn stop(&mut self) -> anyhow::Result<()> {
        for role in ROLES {
            self.end(index_of(role, Release::This)).await?;
        }
        self.end(index_of(Role::Dispatcher, Release::Previous)).await
    }

    async fn end(&mut self, index: usize) -> anyhow::Result<()> {
        let Some(member) = self.fleet.members.get_mut(index) else { bail!("there is no member {index}") };
        let status = member.stop().await?;
        ensure!(status.success(), "{} did not stop cleanly: {status}", member.name);
        Ok(())
    }

    /// While both releases' members run.
    pub(super) async fn counts(&self) -> anyhow::Result<Counts> {
        let accepted = "fumehood_submissions_total{outcome=\"accepted\"}";
        let delivered = "fumehood_webhook_tries_total{outcome=\"delivered\"}";
        Ok(Counts {
            submissions: self.count(Role::Api, accepted).await?,
            messages: self.count(Role::Notifier, delivered).await?,
        })
    }

    async fn count(&self, role: Role, series: &str) -> anyhow::Result<[f64; 2]> {
        let [previous, this] = [Release::Previous, Release::This].map(|release| index_of(role, release));
        Ok([self.metric(previous, series).await?, self.metric(this, series).await?])
    }

    /// 0 where it has counted nothing yet.
    async fn metric(&self, index: usize, series: &str) -> anyhow::Result<f64> {
        let member: &Member = self.fleet.members.get(index).context("there is no such member")?;
        let request = self.fleet.http.get(format!("http://{}/metrics", member.health));
        let answer = request.bearer_auth(&self.fleet.token).timeout(METRICS_MAX).send().await;
        let answer = answer.with_context(|| format!("ask {} for its metrics", member.name))?;
        let text = answer.error_for_status()?.text().await?;
        let value = text.lines().find_map(|line| line.strip_prefix(series));
        value.map_or(Ok(0.0), |value| value.trim().parse().context("read a metric"))
    }
}

fn migrate(binary: &Path, owner_url: &str, more: &[&str]) -> anyhow::Result<String> {
    let arguments: Vec<&str> = ["migrate"].into_iter().chain(more.iter().copied()).collect();
    tool(Command::new(binary).args(settings(&[format!("store.url={owner_url}")])), &arguments)
}

/// What those of a role are told besides what all are.
fn told_besides(role: Role, postgres: &Postgres) -> Vec<String> {
    let url = postgres.cluster.url(&user_of(postgres, role.as_str()), &postgres.name);
    let mut told = vec![format!("store.url={url}")];
    match role {
        Role::Api => told.push(ALLOWED.to_owned()),
        Role::Notifier => told.extend([ALLOWED, SECRET].map(str::to_owned)),
        Role::Worker | Role::Dispatcher | Role::Serve => {}
    }
    told
}

fn user_of(postgres: &Postgres, role: &str) -> String {
    format!("{role}_{}", postgres.name)
}

fn index_of(role: Role, release: Release) -> usize {
    let pair = ROLES.iter().position(|known| *known == role).unwrap_or(ROLES.len());
    2 * pair + usize::from(release == Release::This)
}
