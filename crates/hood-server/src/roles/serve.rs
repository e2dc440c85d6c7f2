//! Everything in one process: store, places, worker and API over one data directory. The command
//! line's embedded mode is this role on a port that nobody else knows.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use hood_core::Timestamp;
use hood_core::plan::{Degraded, PolicyMode, first_fatal};
use hood_core::retry::RetryPolicy;
use hood_dispatch::local::{Local, LocalConfig};
use hood_dispatch::{Catalogue, Dispatch};
use hood_sandbox::IdRange;
use hood_store::{BusSide, Duty, Store, StoreConfig};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::data_dir::DataDir;
use super::environments::open_library;
use super::keeping::Keeper;
use super::key::token;
use super::{apart, bus, offer, webhooks};
use crate::api::{self, ApiState};
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::document;
use crate::figures::Figure;
use crate::health::Health;
use crate::notifier::Notifier;
use crate::telemetry::metrics::Process;
use crate::telemetry::{Metrics, Traced};
use crate::worker::{Means, ThreadDice, TokioSpawner, Worker, WorkerConfig};

/// Between two looks at whether the offer has changed.
const OFFER_INTERVAL: Duration = Duration::from_millis(500);

/// Between two looks for a database that is late.
const STORE_PAUSE: Duration = Duration::from_millis(250);

/// Between two proofs of the layers by a fresh place, and of the images by their digests.
const PROOF_INTERVAL: Duration = Duration::from_secs(60);

/// How long killed places may take to be proven dead at a stop.
pub(super) const BURIAL_PATIENCE: Duration = Duration::from_secs(10);

/// What a start may differ in.
#[derive(Clone, Debug, Default)]
pub struct Options {
    pub purpose: Purpose,
    /// The configuration as it may be shown, which is announced to commands.
    pub settings: BTreeMap<String, String>,
}

/// What a server is started for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Purpose {
    /// To stay.
    #[default]
    Standing,
    /// For one command: a free loopback port, nothing kept ready.
    Command,
    /// For one command that only looks: besides, no evaluation is taken up, so that none is broken
    /// off when the command ends, and no other command is invited.
    Look,
}

/// A server that answers. Dropping it without [`Running::shutdown`] is what a kill does.
#[derive(Debug)]
pub struct Running {
    pub address: SocketAddr,
    /// The key of this data directory's user.
    pub token: String,
    /// The key was made by this start, and should be shown once.
    pub token_is_new: bool,
    /// Evaluations of a predecessor that were taken over.
    pub taken_over: usize,
    data_dir: DataDir,
    store: Store,
    local: Local,
    stop_intake: CancellationToken,
    stop_serving: CancellationToken,
    worker: JoinHandle<()>,
    api: JoinHandle<anyhow::Result<()>>,
    offers: JoinHandle<()>,
    keeping: JoinHandle<()>,
    notifier: JoinHandle<()>,
}

/// Starts every part, in the order in which each needs the one before it, and answers requests when
/// it returns.
pub async fn start(config: &Config, options: Options) -> anyhow::Result<Running> {
    let data_dir = DataDir::lock(&config.data_dir)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let bus = bus::configured(&config.bus, BusSide::Serve)?;
    let store = StoreConfig { bus, ..config.store(Duty::Migrate)? };
    let store = Store::open(store).await.context("cannot open the store")?;
    until_there(&store).await;
    let (token, token_is_new) = token(&data_dir, &store, clock.now()).await?;
    let local = start_places(config, options.purpose).await?;
    let dispatch: Arc<dyn Dispatch> = Arc::new(Traced::new(local.clone()));
    publish(&store, &*dispatch, config, clock.now()).await?;
    let offers =
        tokio::spawn(keep_offering(store.clone(), local.clone(), config.clone(), Arc::clone(&clock)));

    Metrics::of(Process::Serve)?;
    let health = Health::default();
    let means = Means {
        store: Arc::new(store.clone()),
        dispatch,
        clock: Arc::clone(&clock),
        dice: Arc::new(ThreadDice),
        spawner: Arc::new(TokioSpawner),
    };
    let worker = Worker::new(means, health.clone(), worker_config(config));
    let stop_intake = CancellationToken::new();
    let taken_over = if options.purpose == Purpose::Look {
        stop_intake.cancel();
        0
    } else {
        worker.recover().await.context("cannot take over what a predecessor left")?
    };
    let policy = config.sandbox.policy.into();
    if let Err(why) = sound(&local.capacity(), policy) {
        tracing::warn!(reason = %why, "nothing can be run here as it is");
    }
    watch_over(&health, &store, &local, &worker, policy);
    let keeping = Keeper::new(&store, &clock, config).spawn(&stop_intake);
    let worker = tokio::spawn(worker.run(stop_intake.clone()));
    tell_places(&health, &local, config.worker.places);
    let notifier = notifier(config, &data_dir, &health, (&store, &clock))?;
    let notifier = tokio::spawn(notifier.run(stop_intake.clone()));

    let listen = match options.purpose {
        Purpose::Standing => config.server.listen,
        Purpose::Command | Purpose::Look => SocketAddr::from(([127, 0, 0, 1], 0)),
    };
    let listener = TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    let address = listener.local_addr()?;
    let state = ApiState::new(store.clone(), clock, config, (address, data_dir.seal()), health)?;
    let stop_serving = CancellationToken::new();
    let api = tokio::spawn(api::serve(listener, state, (stop_serving.clone(), Duration::ZERO)));
    if options.purpose != Purpose::Look {
        data_dir.announce(address, options.settings)?;
    }
    Ok(Running {
        address,
        token,
        token_is_new,
        taken_over,
        data_dir,
        store,
        local,
        stop_intake,
        stop_serving,
        worker,
        api,
        offers,
        keeping,
        notifier,
    })
}

impl Running {
    /// Drains: nothing new is leased, what runs may end within the worker's drain time, answers go
    /// on being given meanwhile; then every place is ended and proven dead.
    pub async fn shutdown(self) -> anyhow::Result<()> {
        self.stop_intake.cancel();
        self.worker.await.context("the worker panicked")?;
        self.stop_serving.cancel();
        self.data_dir.withdraw();
        let served = self.api.await.context("the API panicked")?;
        // What is on its way was told to end when the intake was.
        self.notifier.await.context("the sender of webhooks panicked")?;
        self.offers.abort();
        self.keeping.abort();
        self.local.shut_down(BURIAL_PATIENCE).await;
        self.store.close().await;
        served
    }

    /// Completes when a part ends that should not have.
    pub async fn failed(&mut self) -> anyhow::Error {
        tokio::select! {
            ended = &mut self.api => match ended {
                Ok(Ok(())) => anyhow::anyhow!("the API stopped serving"),
                Ok(Err(error)) => error.context("the API stopped serving"),
                Err(panic) => anyhow::Error::new(panic).context("the API panicked"),
            },
            ended = &mut self.worker => match ended {
                Ok(()) => anyhow::anyhow!("the worker stopped"),
                Err(panic) => anyhow::Error::new(panic).context("the worker panicked"),
            },
            ended = &mut self.notifier => match ended {
                Ok(()) => anyhow::anyhow!("the sender of webhooks stopped"),
                Err(panic) => anyhow::Error::new(panic).context("the sender of webhooks panicked"),
            },
        }
    }
}

/// The sender of webhooks, and how it is.
fn notifier(
    config: &Config,
    data_dir: &DataDir,
    health: &Health,
    (store, clock): (&Store, &Arc<dyn Clock>),
) -> anyhow::Result<Notifier> {
    let secret = webhooks::secret(&config.webhooks, data_dir)?;
    let notifier = webhooks::notifier(&config.webhooks, &secret, store, clock)?;
    health.register_pulse(notifier.pulse());
    health.figures().of_deliveries(store, clock);
    Ok(notifier)
}

/// A database of its own is there. A server that is late is waited for: this role has its places on
/// this machine, and nothing to do with them without it.
async fn until_there(store: &Store) {
    loop {
        match store.check_writable().await {
            Err(error) if error.is_away() => tokio::time::sleep(STORE_PAUSE).await,
            // A full disk, say, is for those who write to tell.
            Ok(()) | Err(_) => return,
        }
    }
}

pub(super) async fn start_places(config: &Config, purpose: Purpose) -> anyhow::Result<Local> {
    let library = open_library(config)?;
    let local = LocalConfig {
        state_dir: config.data_dir.join("sandbox"),
        ids: config.sandbox.id_range.map(|range| IdRange { first: range.first, pairs: range.count / 2 }),
        cgroup_parent: config.sandbox.cgroup_parent.clone(),
        places: config.worker.places,
        stock: if purpose == Purpose::Standing { config.worker.stock } else { 0 },
        memory_bytes_max: config.sandbox.memory_bytes_max,
    };
    let started = tokio::task::spawn_blocking(move || Local::start(local, Arc::new(library))).await?;
    let (local, buried) = started.context("cannot start the sandbox")?;
    for place in buried {
        tracing::info!(place = %place.place, killed = place.killed, "a predecessor's place is proven dead");
    }
    Ok(local)
}

pub(super) fn worker_config(config: &Config) -> WorkerConfig {
    WorkerConfig {
        name: format!("worker-{}", std::process::id()),
        places: config.worker.places,
        lease_ttl: config.worker.lease_ttl,
        queue_ttl: config.worker.queue_ttl,
        drain: config.server.drain,
        retry: RetryPolicy::DEFAULT,
        policy: config.sandbox.policy.into(),
    }
}

pub(super) async fn publish(
    store: &Store,
    dispatch: &dyn Dispatch,
    config: &Config,
    now: Timestamp,
) -> anyhow::Result<()> {
    let catalogue = dispatch.capacity();
    let text = document::to_json(&offer::document(&catalogue, config));
    store.put_capacity(catalogue.version, now, &text).await.context("cannot publish what is offered")
}

/// Publishes the offer whenever it changes.
async fn keep_offering(store: Store, local: Local, config: Config, clock: Arc<dyn Clock>) {
    let mut published = local.capacity().version;
    let proving = keep_proven(local.clone());
    let publishing = async {
        loop {
            tokio::time::sleep(OFFER_INTERVAL).await;
            let version = local.capacity().version;
            if version != published {
                match publish(&store, &local, &config, clock.now()).await {
                    Ok(()) => published = version,
                    Err(error) => tracing::error!(error = %error, "cannot publish what is offered"),
                }
            }
        }
    };
    tokio::join!(proving, publishing);
}

/// Notices what is built, and proves layers and images anew now and then.
pub(super) async fn keep_proven(local: Local) {
    let mut proven = tokio::time::Instant::now();
    loop {
        tokio::time::sleep(OFFER_INTERVAL).await;
        if proven.elapsed() >= PROOF_INTERVAL {
            let local = local.clone();
            let _ = tokio::task::spawn_blocking(move || {
                local.refresh();
                local.verify_images();
            })
            .await;
            proven = tokio::time::Instant::now();
        }
        local.notice_builds();
    }
}

/// Whether the places can take anything at all under the policy.
pub(super) fn sound(catalogue: &Catalogue, policy: PolicyMode) -> Result<(), String> {
    let Some(capacity) = catalogue.summary() else { return Err("no place is known".to_owned()) };
    if capacity.places == 0 {
        return Err(match capacity.unproven.first() {
            Some((_, reason)) => format!("no place can be made: {reason}; run `fumehood doctor`"),
            None => "no place is configured: set worker.places".to_owned(),
        });
    }
    match first_fatal(&capacity, policy) {
        None => Ok(()),
        Some(Degraded { layer, reason }) => {
            let (layer, policy) = (layer.as_str(), policy.as_str());
            Err(format!(
                "every evaluation is refused: policy `{policy}` needs the layer `{layer}`, which is not proven: \
                 {reason}; run `fumehood doctor`, or set sandbox.policy"
            ))
        }
    }
}

/// How many places there are.
pub(super) fn tell_places(health: &Health, local: &Local, most: u32) {
    let local = local.clone();
    health.figures().register(move || {
        let live = local.live();
        async move { Figure::Places { live, most } }
    });
}

fn watch_over(health: &Health, store: &Store, local: &Local, worker: &Worker, policy: PolicyMode) {
    apart::watch_store(health, store);
    let places = local.clone();
    health.register("sandbox", move || {
        let sound = sound(&places.capacity(), policy);
        async move { sound }
    });
    health.register_pulse(worker.pulse());
    health.tell_leases();
}
