//! The worker apart: it leases from the store and has dispatchers run what it leased. It has no place
//! of its own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use hood_dispatch::Dispatch;
use hood_dispatch::remote::{Remote, Transport};
use hood_store::{BusSide, Store};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::keeping::Keeper;
use super::serve::{publish, worker_config};
use super::{apart, side};
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::figures::Figure;
use crate::health::Health;
use crate::link::{Https, RealWorld};
use crate::telemetry::metrics::Process;
use crate::tls::{Credentials, Role};
use crate::worker::{Means, ThreadDice, TokioSpawner, Worker};

/// The offer is said again this often though it did not change, so that its age tells whether
/// anybody looks.
const OFFER_AGAIN_EVERY: Duration = Duration::from_secs(10);

/// A worker at work. Dropping it without [`Running::shutdown`] is what a kill does.
#[derive(Debug)]
pub struct Running {
    /// Where health and metrics are, if anywhere.
    pub side: Option<SocketAddr>,
    pub name: String,
    store: Store,
    stop_intake: CancellationToken,
    stop: CancellationToken,
    working: JoinHandle<()>,
}

/// Returns as soon as it is at work on becoming ready: store and dispatchers may be late.
pub async fn start(config: &Config) -> anyhow::Result<Running> {
    let credentials = apart::credentials(config, Role::Worker)?;
    apart::shared(config, Role::Worker)?;
    if config.worker.dispatchers.is_empty() {
        bail!("a worker needs dispatchers: set worker.dispatchers to their addresses, as https://HOST:PORT");
    }
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let store = apart::store(config, BusSide::Worker).await?;
    let remote = dispatchers(&config.worker.dispatchers, &credentials)?;
    let (stop, stop_intake) = (CancellationToken::new(), CancellationToken::new());
    let health = Health::default();
    apart::watch_store(&health, &store);
    watch_dispatchers(&health, &remote);
    health.figures().of_bus(&store);
    health.figures().of_queue(&store, &clock);
    health.tell_leases();
    let side = side::start(config.metrics.listen, Process::Worker, &health, &stop).await?;

    let identity = credentials.identity();
    let mut worker_config = worker_config(config);
    // Unique over machines and restarts: a predecessor's leases are not this one's.
    worker_config.name = format!("worker-{}-{}", identity.name, std::process::id());
    let keeper = Keeper::new(&store, &clock, config);
    let means = Means {
        store: Arc::new(store.clone()),
        dispatch: Arc::new(remote.clone()),
        clock: Arc::clone(&clock),
        dice: Arc::new(ThreadDice),
        spawner: Arc::new(TokioSpawner),
    };
    let worker = Worker::new(means, health.clone(), worker_config);
    health.register_pulse(worker.pulse());
    tokio::spawn(stop.clone().run_until_cancelled_owned(credentials.keep_current()));
    let offering = keep_offering(store.clone(), remote.clone(), config.clone(), clock);
    tokio::spawn(stop.clone().run_until_cancelled_owned(offering));
    keeper.spawn(&stop);
    let working = tokio::spawn(worker.run(stop_intake.clone()));
    Ok(Running { side, name: identity.name, store, stop_intake, stop, working })
}

fn dispatchers(addresses: &[String], credentials: &Credentials) -> anyhow::Result<Remote> {
    let mut ways: Vec<(String, Arc<dyn Transport>)> = Vec::new();
    for address in addresses {
        let way = Https::new(address, credentials).context("worker.dispatchers")?;
        ways.push((address.clone(), Arc::new(way)));
    }
    Ok(Remote::new(Arc::new(RealWorld::default()), ways))
}

/// One that answers is enough to work; those that do not are named either way.
fn watch_dispatchers(health: &Health, remote: &Remote) {
    let away = |remote: &Remote| {
        let peers = remote.health();
        let away: Vec<String> = peers
            .iter()
            .filter_map(|peer| {
                let (since, why) = peer.away.as_ref()?;
                Some(format!("{} has not answered for {} s: {why}", peer.address, since.as_secs()))
            })
            .collect();
        (away.len() == peers.len(), away.join("; "))
    };
    let asked = remote.clone();
    health.register("dispatchers", move || {
        let (all, which) = away(&asked);
        async move { if all { Err(which) } else { Ok(()) } }
    });
    let asked = remote.clone();
    health.figures().register(move || {
        let peers = asked.health();
        let away = peers.iter().filter(|peer| peer.away.is_some()).count();
        async move { Figure::Dispatchers { answering: peers.len() - away, away } }
    });
    let asked = remote.clone();
    health.register_spare("every_dispatcher", move || {
        let (_, which) = away(&asked);
        async move { if which.is_empty() { Ok(()) } else { Err(which) } }
    });
}

/// Says in the store what is offered: whenever that changes, and now and then besides.
async fn keep_offering(store: Store, remote: Remote, config: Config, clock: Arc<dyn Clock>) {
    loop {
        let changed = remote.changed();
        if !remote.capacity().offers.is_empty() {
            apart::until_done("publishing what is offered", || {
                let (store, remote, config) = (store.clone(), remote.clone(), config.clone());
                let now = clock.now();
                async move { publish(&store, &remote, &config, now).await }
            })
            .await;
        }
        tokio::select! {
            () = changed => {}
            () = tokio::time::sleep(OFFER_AGAIN_EVERY) => {}
        }
    }
}

impl Running {
    /// Drains: nothing new is leased, what runs may end within the drain time, and the rest is left to
    /// lapse for another worker, which goes on where this one stopped.
    pub async fn shutdown(self) -> anyhow::Result<()> {
        self.stop_intake.cancel();
        self.working.await.context("the worker panicked")?;
        self.stop.cancel();
        let closing = self.store.close();
        if tokio::time::timeout(apart::STOP_PATIENCE, closing).await.is_err() {
            tracing::warn!("the store's connections were cut off");
        }
        Ok(())
    }

    /// Completes when a part ends that should not have.
    pub async fn failed(&mut self) -> anyhow::Error {
        match (&mut self.working).await {
            Ok(()) => anyhow::anyhow!("the worker stopped"),
            Err(panic) => anyhow::Error::new(panic).context("the worker panicked"),
        }
    }
}
