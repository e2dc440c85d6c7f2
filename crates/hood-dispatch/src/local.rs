//! The executor of one machine: warm single-use places of the namespace tier, made by a launcher
//! that this process owns. Places die with it; a successor proves them dead before it works.

mod observe;
mod place;
mod probe;
mod stock;
mod supervisor;
mod wire;
mod workshop;

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use hood_sandbox::{Buried, IdRange, Launcher, LauncherConfig};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::AGENT;
use crate::catalogue::Catalogue;
use crate::dispatch::{AttemptKey, Dispatch, DispatchError, Link, Order};
use crate::environment::{Declaration, Library, Workshop};
use crate::local::place::{Command, Job};
use crate::local::stock::Stock;
use crate::local::workshop::Bench;

/// How long a place keeps what was not acknowledged after its program's end.
pub const ORPHAN_AFTER: Duration = Duration::from_secs(300);

/// The executor's name where nothing else is called one.
pub const LOCAL: &str = "local";

/// Places beyond those at work and in stock: killed ones on their way to being proven dead.
const BODIES_SLACK: usize = 32;

/// Commands that may wait for one place.
const COMMANDS_IN_FLIGHT: usize = 8;

#[derive(Clone, Debug)]
pub struct LocalConfig {
    /// Records of live places, for a successor to find.
    pub state_dir: PathBuf,
    /// Host ids for places; `None` takes the default for this user.
    pub ids: Option<IdRange>,
    /// A cgroup to make ours beneath; `None` finds one.
    pub cgroup_parent: Option<PathBuf>,
    /// Evaluations that run at once.
    pub places: u32,
    /// Places kept ready, each with its agent waiting.
    pub stock: u32,
    /// The largest memory that one place may be given.
    pub memory_bytes_max: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot look for places of a predecessor in {}", dir.display())]
    Bury {
        dir: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("place {place} of a predecessor is not proven dead: {reason}")]
    Undead { place: String, reason: String },
    #[error("cannot start the launcher")]
    Launcher(#[source] hood_sandbox::Error),
}

#[derive(Clone, Debug)]
pub struct Local {
    inner: Arc<Inner>,
}

struct Inner {
    launcher: Launcher,
    library: Arc<Library>,
    stock: Stock,
    bodies: Arc<Semaphore>,
    places: Mutex<HashMap<AttemptKey, Entry>>,
    catalogue: RwLock<Arc<Catalogue>>,
    config: LocalConfig,
    /// Places live here, whichever runtime their worker lives in: its death is not theirs.
    runtime: Handle,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Local").field("config", &self.config).finish_non_exhaustive()
    }
}

/// A place that exists, by the attempt it runs.
#[derive(Debug)]
struct Entry {
    highest_token: u64,
    commands: mpsc::Sender<Command>,
}

impl Local {
    /// Buries what a predecessor left, starts the launcher and proves the layers by making a real
    /// place. Blocks; call it before anything is leased, within the runtime that places are to live
    /// in.
    pub fn start(config: LocalConfig, library: Arc<Library>) -> Result<(Self, Vec<Buried>), StartError> {
        let buried = hood_sandbox::bury_leftovers(&config.state_dir)
            .map_err(|source| StartError::Bury { dir: config.state_dir.clone(), source })?;
        if let Some(undead) = buried.iter().find(|place| place.unproven.is_some()) {
            let reason = undead.unproven.clone().unwrap_or_default();
            return Err(StartError::Undead { place: undead.place.clone(), reason });
        }
        let launcher = Launcher::start(
            AGENT,
            &LauncherConfig {
                state_dir: config.state_dir.clone(),
                ids: config.ids,
                cgroup_parent: config.cgroup_parent.clone(),
            },
        )
        .map_err(StartError::Launcher)?;
        let capacity = probe::look(&launcher, &config, probe::first_version());
        let catalogue = probe::catalogue(capacity, &library);
        let bodies = (config.places + config.stock) as usize + BODIES_SLACK;
        let inner = Inner {
            stock: Stock::new(config.stock as usize),
            launcher,
            library,
            bodies: Arc::new(Semaphore::new(bodies)),
            places: Mutex::new(HashMap::new()),
            catalogue: RwLock::new(Arc::new(catalogue)),
            config,
            runtime: Handle::current(),
        };
        let inner = Arc::new(inner);
        let local = Self { inner };
        local.inner.library.set_workshop(local.workshop());
        Ok((local, buried))
    }

    /// Looks again at everything on offer: proves the layers with a fresh place, asks the library
    /// what is built. Blocks.
    pub fn refresh(&self) {
        self.inner.refresh(true);
    }

    /// Takes note of environments that were built, or whose build failed.
    pub fn notice_builds(&self) {
        let environments = probe::environments(&self.inner.library);
        if environments != self.inner.catalogue().environments {
            self.inner.refresh(false);
        }
    }

    /// Reads the built images again, as something may have been written into them through the page
    /// cache. One that is not what it was is put aside, and built anew when it is next needed. Blocks.
    pub fn verify_images(&self) {
        for Declaration { name, .. } in self.inner.library.declarations() {
            if self.inner.library.is_ready(&name)
                && let Err(error) = self.inner.library.verify(&name)
            {
                tracing::error!(environment = name, error = %error.reason(), "an image is not what it was");
            }
        }
    }

    /// What runs an image's own interpreter in one of these places.
    pub fn workshop(&self) -> Arc<dyn Workshop> {
        Arc::new(Bench::of(&self.inner))
    }

    /// Places that are at work.
    pub fn live(&self) -> usize {
        self.inner.entries().len()
    }

    /// Places that stand ready.
    pub fn ready(&self) -> usize {
        self.inner.stock.ready()
    }

    /// First processes of the places that stand ready, for diagnostics.
    pub fn ready_pids(&self) -> Vec<rustix::process::Pid> {
        self.inner.stock.pids()
    }

    /// Ends every place and waits for the proof, up to `patience`.
    pub async fn shut_down(&self, patience: Duration) {
        let inner = Arc::clone(&self.inner);
        inner.stock.close();
        let keys: Vec<AttemptKey> = inner.entries().keys().copied().collect();
        for key in keys {
            self.cancel(key, Duration::ZERO);
        }
        let bodies = (inner.config.places + inner.config.stock) as usize + BODIES_SLACK;
        let all = u32::try_from(bodies).unwrap_or(u32::MAX);
        let _ = tokio::time::timeout(patience, inner.bodies.acquire_many(all)).await;
    }
}

impl Inner {
    fn entries(&self) -> MutexGuard<'_, HashMap<AttemptKey, Entry>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget(&self, key: AttemptKey) {
        self.entries().remove(&key);
    }

    fn catalogue(&self) -> Arc<Catalogue> {
        Arc::clone(&self.catalogue.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn refresh(&self, prove: bool) {
        let before = self.catalogue();
        let version = before.version + 1;
        let known = before.offers.first().filter(|_| !prove).map(|offer| offer.capacity.clone());
        let capacity = match known {
            Some(known) => hood_core::plan::Capacity { version, ..known },
            None => probe::look(&self.launcher, &self.config, version),
        };
        *self.catalogue.write().unwrap_or_else(PoisonError::into_inner) =
            Arc::new(probe::catalogue(capacity, &self.library));
    }
}

impl Dispatch for Local {
    fn execute(&self, order: Order) -> BoxFuture<'_, Result<Link, DispatchError>> {
        async move {
            let (key, token) = (order.key, order.token);
            place::fits(&order, self.inner.config.memory_bytes_max).map_err(DispatchError::TooLarge)?;
            let Some(commands) = self.inner.enter(key, token)? else {
                return self.attach(key, token, 0).await;
            };
            tracing::debug!(evaluation.id = %key.evaluation, attempt = key.attempt, "a place is ordered");
            let (opened, outcome) = oneshot::channel();
            let job = Job { order, root: None };
            self.inner.runtime.spawn(place::run(Arc::clone(&self.inner), job, commands, opened));
            outcome.await.unwrap_or(Err(DispatchError::Gone(key)))
        }
        .boxed()
    }

    fn attach(&self, key: AttemptKey, token: u64, after: u64) -> BoxFuture<'_, Result<Link, DispatchError>> {
        async move {
            let commands = {
                let mut entries = self.inner.entries();
                let entry = entries.get_mut(&key).ok_or(DispatchError::Gone(key))?;
                if token < entry.highest_token {
                    return Err(DispatchError::Stale(key));
                }
                entry.highest_token = token;
                entry.commands.clone()
            };
            let (reply, link) = oneshot::channel();
            commands.send(Command::Attach { after, reply }).await.map_err(|_| DispatchError::Gone(key))?;
            link.await.map_err(|_| DispatchError::Gone(key))
        }
        .boxed()
    }

    fn cancel(&self, key: AttemptKey, grace: Duration) {
        let commands = self.inner.entries().get(&key).map(|entry| entry.commands.clone());
        // A full queue holds cancels already, and a closed one belongs to a place that has ended.
        if let Some(commands) = commands
            && commands.try_send(Command::Cancel { grace }).is_err()
        {
            tracing::debug!(place = %key, "a cancel found nobody to take it");
        }
    }

    fn holds(&self, key: AttemptKey) -> BoxFuture<'_, Result<bool, DispatchError>> {
        std::future::ready(Ok(self.inner.entries().contains_key(&key))).boxed()
    }

    fn capacity(&self) -> Arc<Catalogue> {
        self.inner.catalogue()
    }
}

impl Inner {
    /// Registers the attempt; `None` where its place exists already.
    fn enter(&self, key: AttemptKey, token: u64) -> Result<Option<mpsc::Receiver<Command>>, DispatchError> {
        let mut entries = self.entries();
        if let Some(entry) = entries.get(&key) {
            return if token < entry.highest_token { Err(DispatchError::Stale(key)) } else { Ok(None) };
        }
        let (commands, receiver) = mpsc::channel(COMMANDS_IN_FLIGHT);
        entries.insert(key, Entry { highest_token: token, commands });
        Ok(Some(receiver))
    }
}
