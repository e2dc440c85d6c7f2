//! The command line, and a run from its start to its verdict.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Parser;
use hood_testkit::Location;
use tokio::task::JoinSet;

use crate::fleet::{Fleet, Setting, Topology};
use crate::history::{Chronicle, Incident, Victim, now};
use crate::load::Load;
use crate::plan::{self, Blow, Measure};
use crate::report::{Floors, seconds, tally};
use crate::storm::Storm;
use crate::witness::Witness;
use crate::{check, fleet, gather, network, rolling, upgrade};

/// Clients that submit at once.
const CLIENTS: u64 = 8;
/// Violations that are printed; the rest are counted.
const SHOWN: usize = 40;

/// Kills and freezes a running Fumehood over and over while evaluations go through it, then reads the
/// complete history and judges it.
#[derive(Debug, Parser)]
#[command(name = "hood-chaos", version)]
struct Args {
    #[arg(long, value_enum, default_value = "serve-sqlite")]
    topology: Topology,
    /// Evaluations at least.
    #[arg(long, default_value_t = 2_000)]
    evaluations: u64,
    /// Kills with SIGKILL.
    #[arg(long, default_value_t = 20)]
    kills: usize,
    /// Freezes with SIGSTOP, for longer than a lease lasts.
    #[arg(long, default_value_t = 4)]
    freezes: usize,
    /// Partings of two that speak to each other, for longer than a lease lasts. Gives each party a
    /// network namespace of its own, which takes root.
    #[arg(long, default_value_t = 0)]
    partings: usize,
    /// Instead of all that: restarts each member in turn this often, as an operator does, and counts
    /// the requests that fail.
    #[arg(long)]
    rolling: Option<u32>,
    /// Instead of all that: begins with the binary of an earlier release, named here, and upgrades to this one
    /// while work goes on, role by role.
    #[arg(long, conflicts_with_all = ["rolling", "partings"])]
    upgrade_from: Option<PathBuf>,
    /// Requests of 100 that a rolling restart, or an upgrade, must leave alone.
    #[arg(long, default_value_t = 99.95)]
    success_at_least: f64,
    /// Blows at least to each kind of victim.
    #[arg(long, default_value_t = 3)]
    blows_each: usize,
    /// What chance grows from; the time of day if left out.
    #[arg(long)]
    seed: Option<u64>,
    /// Evaluations that run at once.
    #[arg(long, default_value_t = 8)]
    places: u32,
    /// Seconds after which a run that is not over has failed.
    #[arg(long, default_value_t = 480)]
    limit_s: u64,
    /// The binary to try; the one beside this one if left out.
    #[arg(long)]
    fumehood: Option<PathBuf>,
    /// Set by a run that has started itself again.
    #[arg(long, hide = true)]
    inside_own_network: bool,
    /// Keeps data and logs of the run in this directory.
    #[arg(long)]
    keep: Option<PathBuf>,
}

pub(crate) fn main() -> ExitCode {
    match begin() {
        Ok(()) => ExitCode::SUCCESS,
        // What went wrong is the last line of all, and no backtrace stands in its way.
        Err(error) => {
            eprintln!("hood-chaos: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn begin() -> anyhow::Result<()> {
    let args = Args::parse();
    if args.partings > 0 && !args.inside_own_network {
        return Err(network::enter());
    }
    // One thread: a child's death is tied to the thread that made it.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let limit = Duration::from_secs(args.limit_s);
    runtime.block_on(async {
        let Ok(done) = tokio::time::timeout(limit, run(&args)).await else {
            bail!("not over after {} s", limit.as_secs());
        };
        done
    })
}

async fn run(args: &Args) -> anyhow::Result<()> {
    let seed = args.seed.unwrap_or_else(|| now().unsigned_abs() / 1_000_000);
    let temporary = tempfile::tempdir().context("make a directory")?;
    let directory = args.keep.clone().unwrap_or_else(|| temporary.path().to_owned());
    std::fs::create_dir_all(&directory).context("make the directory to keep")?;
    let directory = directory.canonicalize().context("find the directory to keep")?;
    let apart = args.partings > 0;
    let setting = Setting {
        binary: binary(args)?,
        directory,
        places: args.places,
        front: fleet::free_address(&Location::default())?,
        apart,
    };
    if let Some(previous) = &args.upgrade_from {
        println!("upgrade from {}, seed {seed}", previous.display());
        let upgraded = upgrade::run(previous, &setting, seed).await?;
        upgraded.print(SHOWN);
        return upgraded.verdict(args.success_at_least);
    }
    let began = now();
    let mut fleet = Fleet::start(args.topology, &setting).await?;
    println!("{:?}, seed {seed}", args.topology);
    if let Some(rounds) = args.rolling {
        let rolled = rolling::run(&mut fleet, setting.front, (seed, rounds)).await?;
        rolled.print();
        fleet.stop().await?;
        return rolled.verdict(args.success_at_least);
    }
    let victims = victims(&fleet);
    let measure = Measure { kills: args.kills, freezes: args.freezes, partings: args.partings };
    let plan = plan::make(seed, &victims, measure);
    for (index, blow) in plan.iter().enumerate() {
        println!("{:>4}  {blow}", index + 1);
    }
    let chronicle = through(args, seed, &mut fleet, &plan).await?;
    println!("over after {}", seconds(began, now()));
    let floors = Floors {
        evaluations: usize::try_from(args.evaluations)?,
        kills: args.kills,
        blows_each: args.blows_each,
    };
    let tally = tally(&chronicle, &victims, floors);
    let violations = check::violations(&chronicle);
    print!("{}", tally.text());
    println!("{:<44} {:>8}", "violations", violations.len());
    for violation in violations.iter().take(SHOWN) {
        println!("VIOLATION: {violation}");
    }
    if !(violations.is_empty() && tally.shortfalls.is_empty()) {
        bail!("seed {seed}: {} violations; short of: {:?}", violations.len(), tally.shortfalls);
    }
    Ok(())
}

/// Load and storm together, then everything that was seen.
async fn through(args: &Args, seed: u64, fleet: &mut Fleet, plan: &[Blow]) -> anyhow::Result<Chronicle> {
    let mut witness = Witness::default();
    for (index, member) in fleet.members.iter().enumerate() {
        if member.role.dispatches() {
            witness.watch(index, member.log.clone());
        }
    }
    let run = format!("chaos-{seed}");
    let load = Arc::new(Load::new(run, seed, args.evaluations, fleet.clients()?));
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        clients.spawn(Arc::clone(&load).client(number));
    }
    let storm = async {
        let mut storm = Storm { fleet: &mut *fleet, witness: &mut witness, incidents: Vec::new() };
        let weathered = storm.run(plan).await;
        load.storm_is_over();
        weathered.map(|()| storm.incidents)
    };
    let calm = async {
        while let Some(done) = clients.join_next().await {
            done.context("a client")??;
        }
        anyhow::Ok(())
    };
    let (incidents, ()): (Vec<Incident>, ()) = tokio::try_join!(storm, calm)?;
    let histories = gather::histories(&load).await?;
    let listed = gather::listed(&load).await?;
    fleet.stop().await.context("stop after the storm")?;
    witness.look()?;
    println!("requests sent again: {}; submissions repeated: {}", load.retried(), load.repeated());
    Ok(Chronicle {
        histories,
        sightings: witness.sightings,
        leases: fleet.database.leases()?,
        people: fleet.members.iter().map(|member| member.person()).collect(),
        incidents,
        pairs: fleet.pairs.iter().map(|pair| pair.name).collect(),
        listed,
    })
}

fn victims(fleet: &Fleet) -> Vec<Victim> {
    let mut victims: Vec<Victim> = (0..fleet.members.len()).map(Victim::Member).collect();
    if fleet.database.is_a_victim() {
        victims.push(Victim::Database);
    }
    if fleet.bus.is_some() {
        victims.push(Victim::Bus);
    }
    victims.extend((0..fleet.pairs.len()).map(Victim::Pair));
    victims
}

fn binary(args: &Args) -> anyhow::Result<PathBuf> {
    let path = match &args.fumehood {
        Some(path) => path.clone(),
        None => std::env::current_exe().context("find this program")?.with_file_name("fumehood"),
    };
    if !path.is_file() {
        bail!("there is no {}: build hood-server first, or name another with --fumehood", path.display());
    }
    Ok(path)
}
