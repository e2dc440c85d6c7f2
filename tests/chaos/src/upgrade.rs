//! A rolling upgrade under load: the release before this one runs, this release's `fumehood migrate`
//! brings the schema up to date beneath it, this release's roles join, both do work together, the old ones
//! go. Clients ask all the while through a balancer; afterwards the whole history is judged.

mod hooks;
mod shift;
mod site;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use hood_client::Client;
use hood_wire::api::Evaluation;
use tokio::task::JoinSet;

use crate::balancer::Balancer;
use crate::check;
use crate::fleet::{Setting, client};
use crate::gather;
use crate::history::{Chronicle, Micros, now};
use crate::load::Load;
use crate::member::Role;
use crate::report::seconds;
use crate::work::Work;
use hooks::Hooks;
use shift::{Pair, Release, ended_by};
use site::Site;

/// Clients that submit at once.
const CLIENTS: u64 = 8;
/// More than can be run while every wait below lasts.
const EVALUATIONS_MAX: u64 = 50_000;
/// Ends that are waited for before the next step: of the old ones alone, of each worker with each
/// dispatcher, and of the new ones alone.
const ENDS: usize = 40;
/// Few: which of two dispatchers with the same room a worker takes is chance, and once one of the workers has
/// filled a dispatcher, the other one may for long find its room elsewhere.
const ENDS_OF_A_PAIR: usize = 3;
/// Of an API and of a notifier, as they count themselves.
const SUBMISSIONS: f64 = 10.0;
const MESSAGES: f64 = 2.0;
/// How long any of that may take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(250);
/// The order in which roles are brought up to date: whoever is asked, before whoever asks.
const ORDER: [Role; 4] = [Role::Dispatcher, Role::Worker, Role::Notifier, Role::Api];
/// How long clients get to leave an API that is about to stop: a request that waits for an end waits less.
const LEAVE: Duration = Duration::from_secs(15);
/// Submitted before the migration, and sent again when the old release is gone.
const REMEMBERED: u64 = 3;

/// What an upgrade came to.
#[derive(Debug)]
pub(crate) struct Upgraded {
    lines: Vec<String>,
    violations: Vec<String>,
    requests: u64,
    failed: u64,
    /// Why those failed: the first few.
    refusals: Vec<String>,
}

impl Upgraded {
    pub(crate) fn print(&self, shown: usize) {
        for line in &self.lines {
            println!("{line}");
        }
        println!("{:<44} {:>8}  ({} failed)", "requests", self.requests, self.failed);
        for refusal in &self.refusals {
            println!("a request failed {refusal}");
        }
        println!("{:<44} {:>8}", "violations", self.violations.len());
        for violation in self.violations.iter().take(shown) {
            println!("VIOLATION: {violation}");
        }
    }

    pub(crate) fn verdict(&self, at_least: f64) -> anyhow::Result<()> {
        let success = 100.0 * (self.requests - self.failed) as f64 / self.requests.max(1) as f64;
        ensure!(self.violations.is_empty(), "{} violations", self.violations.len());
        ensure!(success >= at_least, "{success:.3} % of requests succeeded, at least {at_least} % must");
        Ok(())
    }
}

pub(crate) async fn run(previous: &Path, setting: &Setting, seed: u64) -> anyhow::Result<Upgraded> {
    let mut site = Site::start(previous, setting).await?;
    let hooks = Hooks::listen().await?;
    let balancer = Balancer::start(setting.front, &site.fleet.apis, &site.fleet.http).await?;
    let client = client(setting.front, &site.fleet.token)?;
    let remembered = remember(&client, seed).await.context("submit before the upgrade")?;
    let load = Load::new(format!("upgrade-{seed}"), seed, 0, vec![client.clone()]);
    let load = Arc::new(load.at_most(EVALUATIONS_MAX).telling(hooks.url.clone()));
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        clients.spawn(Arc::clone(&load).client(number));
    }
    let upgrade = async {
        let front = Front { load: &load, balancer: &balancer, address: setting.front };
        let lines = upgrade(&mut site, front).await?;
        load.storm_is_over();
        anyhow::Ok(lines)
    };
    let calm = async {
        while let Some(done) = clients.join_next().await {
            done.context("a client")??;
        }
        anyhow::Ok(())
    };
    let (mut lines, ()) = tokio::try_join!(upgrade, calm)?;
    let (requests, failed) = (load.requests(), load.retried());
    let mut chronicle = chronicle(&mut site, &load).await?;
    chronicle.sightings.retain(|seen| !remembered.0.contains(&seen.evaluation));
    let mut violations = check::violations(&chronicle);
    violations.extend(remembered.changed(&client, seed).await?);
    let told = chronicle.histories.iter().filter(|history| history.work.is_told());
    let told: Vec<&Evaluation> = told.map(|history| &history.evaluation).collect();
    violations.extend(hooks.missing(&told, PATIENCE).await);
    lines.push(format!("{:<44} {:>8}", "evaluations", chronicle.histories.len()));
    lines.push(format!("{:<44} {:>8}", "  told to a webhook", told.len()));
    let attempts = chronicle.histories.iter().flat_map(|history| &history.evaluation.attempts);
    let lost = attempts.filter(|attempt| attempt.lost.is_some()).count();
    lines.push(format!("{:<44} {lost:>8}", "  attempts lost with a dispatcher that stopped"));
    site.stop().await?;
    Ok(Upgraded { lines, violations, requests, failed, refusals: load.refusals() })
}

/// Where clients ask.
#[derive(Clone, Copy)]
struct Front<'a> {
    load: &'a Load,
    balancer: &'a Balancer,
    address: SocketAddr,
}

impl Front<'_> {
    /// A connection stays with the API that it was made to, unless clients make new ones.
    fn connect_anew(self, site: &Site) -> anyhow::Result<()> {
        self.load.connect_anew(vec![client(self.address, &site.fleet.token)?]);
        Ok(())
    }

    /// Has clients leave the previous release's API, which closes idle connections as soon as it is told to
    /// stop: a request that sets out at that moment is lost with them.
    async fn leave_the_previous(self, site: &Site) -> anyhow::Result<()> {
        let previous = site.address_of_the_previous_api()?;
        self.balancer.take_out(previous, true);
        self.connect_anew(site)?;
        self.balancer.is_left(previous, LEAVE).await;
        Ok(())
    }
}

/// The steps, as docs/operations/upgrades.md has them. Answers what was seen at each.
async fn upgrade(site: &mut Site, front: Front<'_>) -> anyhow::Result<Vec<String>> {
    let began = now();
    let mut lines = Vec::new();
    let say = |line: String| {
        println!("{:>7}  {line}", seconds(began, now()));
    };
    let alone = Pair { worker: Release::Previous, dispatcher: Release::Previous };
    until_ended(site, began, &[(alone, ENDS)]).await.context("the previous release alone")?;
    let pending = site.migrate(&["--dry-run"]).await?;
    let pending: Vec<&str> = pending.lines().filter_map(|line| line.strip_prefix("-- ")).collect();
    let steps: Vec<&str> = pending.into_iter().filter(|line| starts_with_number(line)).collect();
    ensure!(!steps.is_empty(), "this release has no migration that the previous one has not");
    say(format!("the previous release works; to be migrated: {}", steps.join(", ")));
    let migrated_at = now();
    site.migrate(&[]).await?;
    say(format!("migrated in {}", seconds(migrated_at, now())));
    let said = site.migrate(&[]).await?;
    ensure!(said.contains("is up to date"), "a second `fumehood migrate` had something to do: {said}");
    until_ended(site, now(), &[(alone, ENDS)]).await.context("the previous release on the new schema")?;
    say("the previous release works on".to_owned());
    for role in ORDER {
        site.join(role).await?;
    }
    let joined_at = now();
    say("this release's roles are ready beside those".to_owned());
    lines.extend(together(site, front, joined_at).await.context("both releases together")?);
    // Whoever goes back starts the previous release on a schema that is newer than it.
    for role in ORDER {
        if role == Role::Api {
            front.leave_the_previous(site).await?;
        }
        site.restart_previous(role).await?;
    }
    front.balancer.take_out(site.address_of_the_previous_api()?, false);
    let back_at = now();
    say("the previous release's roles were started again, on the newer schema".to_owned());
    together(site, front, back_at).await.context("both releases together, the previous one started anew")?;
    for role in ORDER {
        if role == Role::Api {
            front.leave_the_previous(site).await?;
        }
        site.retire(role).await?;
    }
    let gone_at = now();
    say("the previous release is gone".to_owned());
    // Of dispatchers the one that was upgraded at its address, too.
    let alone =
        [Release::This, Release::Previous].map(|dispatcher| Pair { worker: Release::This, dispatcher });
    let wanted = alone.map(|pair| (pair, ENDS / 2));
    until_ended(site, gone_at, &wanted).await.context("this release alone")?;
    say("this release works alone".to_owned());
    Ok(lines)
}

fn starts_with_number(line: &str) -> bool {
    line.split(' ').next().is_some_and(|word| word.parse::<i64>().is_ok())
}

/// Waits until each worker has worked with each dispatcher, and each API and notifier has had its share.
async fn together(site: &mut Site, front: Front<'_>, since: Micros) -> anyhow::Result<Vec<String>> {
    front.connect_anew(site)?;
    let before = site.counts().await?;
    let wanted: Vec<(Pair, usize)> = Pair::ALL.into_iter().map(|pair| (pair, ENDS_OF_A_PAIR)).collect();
    let ended = until_ended(site, since, &wanted).await?;
    let deadline = Instant::now() + PATIENCE;
    let counts = loop {
        let counts = site.counts().await?;
        let grown = |which: fn(&site::Counts) -> [f64; 2], least: f64| {
            which(&counts).iter().zip(which(&before)).all(|(now, before)| now - before >= least)
        };
        if grown(|counts| counts.submissions, SUBMISSIONS) && grown(|counts| counts.messages, MESSAGES) {
            break counts;
        }
        ensure!(Instant::now() < deadline, "an API or a notifier has nothing to do: {before:?}, {counts:?}");
        tokio::time::sleep(POLL).await;
    };
    let line = |what: String, count: String| format!("{what:<44} {count:>8}");
    let mut lines: Vec<String> =
        ended.iter().map(|(pair, count)| line(format!("ended: {pair}"), count.to_string())).collect();
    for (which, release) in [Release::Previous, Release::This].into_iter().enumerate() {
        let taken = counts.submissions[which] - before.submissions[which];
        let sent = counts.messages[which] - before.messages[which];
        lines.push(line(format!("accepted by the API of {release}"), taken.to_string()));
        lines.push(line(format!("sent by the notifier of {release}"), sent.to_string()));
    }
    Ok(lines)
}

/// Waits until so many have ended since then, by each of these.
async fn until_ended(
    site: &mut Site,
    since: Micros,
    wanted: &[(Pair, usize)],
) -> anyhow::Result<BTreeMap<Pair, usize>> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        site.fleet.check_alive()?;
        site.witness.look()?;
        let leases = site.fleet.database.leases()?;
        let ended = ended_by(&site.witness.sightings, &leases, since);
        if wanted.iter().all(|(pair, least)| ended.get(pair).is_some_and(|count| count >= least)) {
            return Ok(ended);
        }
        if Instant::now() > deadline {
            bail!("{wanted:?} were waited for, and there are {ended:?}");
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn chronicle(site: &mut Site, load: &Load) -> anyhow::Result<Chronicle> {
    let histories = gather::histories(load).await?;
    let listed = gather::listed(load).await?;
    site.witness.look()?;
    Ok(Chronicle {
        histories,
        sightings: site.witness.sightings.clone(),
        leases: site.fleet.database.leases()?,
        people: site.fleet.members.iter().map(|member| member.person()).collect(),
        listed,
        ..Chronicle::default()
    })
}

/// What the previous release accepted under a key before anything was migrated.
struct Remembered(Vec<String>);

async fn remember(client: &Client, seed: u64) -> anyhow::Result<Remembered> {
    let mut ids = Vec::new();
    for number in 0..REMEMBERED {
        ids.push(submit(client, seed, number).await?);
    }
    Ok(Remembered(ids))
}

async fn submit(client: &Client, seed: u64, number: u64) -> anyhow::Result<String> {
    let submission = Work::of(seed, number).submission(&format!("before-{seed}"));
    let key = format!("before-{seed}-{number}");
    Ok(client.submit_once(&submission, &key, None).await?.evaluation.id)
}

impl Remembered {
    /// The same submission under the same key is the same evaluation, whichever release is asked.
    async fn changed(&self, client: &Client, seed: u64) -> anyhow::Result<Vec<String>> {
        let mut changed = Vec::new();
        for (number, id) in (0..).zip(&self.0) {
            let again = submit(client, seed, number).await.context("submit again")?;
            if again != *id {
                changed.push(format!("{id} was submitted again under its key, and became {again}"));
            }
        }
        Ok(changed)
    }
}
