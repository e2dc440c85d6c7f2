//! The worker: takes leases on what is queued, has each planned and run, and writes down what came
//! of it. It takes no more than it has places for, holds no database connection while user code
//! runs, and every write of its goes through a lease.

mod attempt;
mod dice;
mod evidence;
mod leases;
mod means;
mod request;

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use hood_core::plan::PolicyMode;
use hood_core::retry::RetryPolicy;
use hood_core::waiting::{Left, Places, Sight};
use hood_dispatch::Catalogue;
use hood_store::{Claimed, Lapsed, StoreError, Tenure};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::document;
use crate::health::{Health, Pulse};
use crate::worker::leases::Leases;

pub use dice::{Dice, ThreadDice};
pub use means::{Ledger, Means, Spawner, TokioSpawner};

/// How long a worker with free places sleeps when nothing wakes it: the bus is a hint, and what is
/// due after a back-off wakes nobody.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// Evaluations given up on in one sweep.
const SWEEP_MAX: u32 = 100;

/// After a failed look at the store, the pause before the next one.
const STORE_PAUSE: Duration = Duration::from_millis(500);

/// It looks several times a second; one that did not for this long is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(10);

#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// This worker, in leases.
    pub name: String,
    /// Evaluations that it runs at once.
    pub places: u32,
    pub lease_ttl: Duration,
    /// What waits longer than this is given up on.
    pub queue_ttl: Duration,
    /// How long a shutdown waits for what runs before it is handed back.
    pub drain: Duration,
    pub retry: RetryPolicy,
    pub policy: PolicyMode,
}

/// What every part of the worker shares.
#[derive(Debug)]
struct Shared {
    means: Means,
    health: Health,
    config: WorkerConfig,
    leases: Leases,
    permits: Arc<Semaphore>,
    /// Rung when a place has become free.
    freed: Notify,
    pulse: Pulse,
}

#[derive(Debug)]
pub struct Worker {
    shared: Arc<Shared>,
    attempts: TaskTracker,
}

impl Worker {
    /// `health` is told what the worker holds and when it last finished something.
    pub fn new(means: Means, health: Health, config: WorkerConfig) -> Self {
        let permits = Arc::new(Semaphore::new(config.places as usize));
        let (leases, pulse) = (Leases::default(), Pulse::new("worker", "evaluations to lease", STUCK_AFTER));
        let freed = Notify::new();
        let shared = Shared { means, health, config, leases, permits, freed, pulse };
        Self { shared: Arc::new(shared), attempts: TaskTracker::new() }
    }

    /// Tells whether this worker still looks at the queue.
    pub fn pulse(&self) -> Pulse {
        self.shared.pulse.clone()
    }

    /// Takes over what a predecessor that is proven dead had leased. To be called before anything
    /// is claimed: each of these either has its place still, or is lost and counted as such.
    pub async fn recover(&self) -> Result<usize, StoreError> {
        let mut taken_over = 0;
        loop {
            let claimed = self.reclaim(Lapsed::All).await?;
            if claimed == 0 {
                return Ok(taken_over);
            }
            taken_over += claimed;
        }
    }

    /// Works until told to stop, then drains: nothing new is leased, what runs has the drain time
    /// to end, and the rest is left for a successor to find.
    pub async fn run(self, stop: CancellationToken) {
        let means = &self.shared.means;
        let mut places = Places::unseen(means.clock.now());
        // Leases are kept for as long as this runs, and not a moment longer, however it ends.
        let working = CancellationToken::new();
        let keep = leases::keep(Arc::clone(&self.shared));
        means.spawner.spawn(working.clone().run_until_cancelled_owned(keep).map(drop).boxed());
        let _until_gone = working.drop_guard();
        while !stop.is_cancelled() {
            let wake = means.store.work();
            let looked = self.round(&mut places).await;
            self.shared.pulse.beat(looked.as_ref().err());
            let pause = match looked {
                Ok(true) => Duration::ZERO,
                Ok(false) => POLL_INTERVAL,
                Err(error) => {
                    tracing::error!(error = %error, "the store did not answer the worker");
                    STORE_PAUSE
                }
            };
            if !pause.is_zero() {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => {}
                    () = wake => {}
                    () = self.shared.freed.notified() => {}
                    () = means.clock.sleep(pause) => {}
                }
            }
        }
        self.attempts.close();
        tokio::select! {
            biased;
            () = self.attempts.wait() => {}
            () = means.clock.sleep(self.shared.config.drain) => {
                tracing::warn!(attempts = self.attempts.len(), "still running at the end of the drain time");
            }
        }
    }

    /// One look at the queue. True where more may be waiting.
    async fn round(&self, places: &mut Places) -> Result<bool, StoreError> {
        let means = &self.shared.means;
        let catalogue = means.dispatch.capacity();
        places.look(sight(&catalogue), means.clock.now());
        // Nothing is leased before anybody has said what is offered: until then every plan would be a
        // guess, and every takeover a question to nobody.
        if catalogue.offers.is_empty() {
            self.give_up_on_the_oldest(places, &catalogue, Left::Perhaps).await?;
            return Ok(false);
        }
        self.reclaim(Lapsed::Expired).await?;
        // What can be taken is, however long it has waited; only the rest is given up on.
        let (left, more) = self.take(&catalogue).await?;
        self.give_up_on_the_oldest(places, &catalogue, left).await?;
        Ok(more)
    }

    /// Takes as much as there are free places. True where another look may find more at once.
    async fn take(&self, catalogue: &Catalogue) -> Result<(Left, bool), StoreError> {
        let shared = &self.shared;
        let free = shared.permits.available_permits();
        if free == 0 || catalogue.open_places() == 0 {
            return Ok((Left::Perhaps, false));
        }
        // Taken before the leases are, so that no lease is ever held for want of a place.
        let wanted = u32::try_from(free).unwrap_or(u32::MAX);
        let Ok(mut permits) = Arc::clone(&shared.permits).try_acquire_many_owned(wanted) else {
            return Ok((Left::NothingDue, true));
        };
        let claimed = shared.means.store.claim(&self.tenure(), wanted).await?;
        let left = if claimed.len() < free { Left::NothingDue } else { Left::Perhaps };
        for claimed in claimed {
            self.begin(claimed, attempt::Entry::Fresh, permits.split(1));
        }
        Ok((left, left == Left::Perhaps))
    }

    fn tenure(&self) -> Tenure {
        let Shared { config, means, .. } = &*self.shared;
        Tenure { worker: config.name.clone(), now: means.clock.now(), ttl: config.lease_ttl }
    }

    async fn reclaim(&self, which: Lapsed) -> Result<usize, StoreError> {
        let shared = &self.shared;
        let claimed = shared.means.store.reclaim(&self.tenure(), SWEEP_MAX, which).await?;
        let count = claimed.len();
        for claimed in claimed {
            // Before anything else is claimed, and of what there is: it has its place already, or never
            // will. What was claimed since may wait for that very place, so it waits for none of that.
            let free = shared.permits.available_permits();
            let wanted = if is_suspect(&claimed) { free } else { free.min(1) };
            let wanted = u32::try_from(wanted).unwrap_or(u32::MAX);
            let permit = Arc::clone(&shared.permits).try_acquire_many_owned(wanted).ok();
            self.begin(claimed, attempt::Entry::TakenOver, permit);
        }
        Ok(count)
    }

    /// Ends what waited longer than `queue_ttl`, with the reason why nothing took it.
    async fn give_up_on_the_oldest(
        &self,
        places: &Places,
        catalogue: &Catalogue,
        left: Left,
    ) -> Result<(), StoreError> {
        let shared = &self.shared;
        let now = shared.means.clock.now();
        let Some(cause) = places.cause(left, shared.config.queue_ttl, now) else { return Ok(()) };
        let micros = i64::try_from(shared.config.queue_ttl.as_micros()).unwrap_or(i64::MAX);
        let older_than = hood_core::Timestamp::from_micros(now.as_micros().saturating_sub(micros));
        let given_up = evidence::given_up(cause, catalogue, shared.config.policy);
        let result = document::to_json(&given_up);
        let given_up = shared.means.store.expire_queued(older_than, now, SWEEP_MAX, &result).await?;
        if given_up > 0 {
            tracing::warn!(evaluations = given_up, "given up on after queue_ttl");
        }
        Ok(())
    }

    fn begin(&self, claimed: Claimed, entry: attempt::Entry, permit: Option<OwnedSemaphorePermit>) {
        let shared = Arc::clone(&self.shared);
        let held = shared.leases.hold(claimed.lease.clone(), claimed.cancel);
        let attempt = async move {
            let permits = Arc::clone(&shared.permits);
            let permit = if entry == attempt::Entry::Fresh && is_suspect(&claimed) {
                // It runs with nothing beside it. It gives its own place back first, or two of them
                // would wait for each other.
                drop(permit);
                permits.acquire_many_owned(shared.config.places).await.ok()
            } else {
                permit
            };
            attempt::run(&shared, claimed, held, entry).await;
            drop(permit);
            shared.freed.notify_one();
            shared.count_leases();
        };
        self.shared.means.spawner.spawn(self.attempts.track_future(attempt).boxed());
        self.shared.count_leases();
    }
}

impl Shared {
    fn count_leases(&self) {
        let held = self.leases.count();
        self.health.vitals().set_leases_held(held as u64);
    }
}

fn is_suspect(claimed: &Claimed) -> bool {
    claimed.evaluation.history().losses.suspect > 0
}

fn sight(catalogue: &Catalogue) -> Sight {
    match catalogue.open_places() {
        0 if catalogue.offers.is_empty() => Sight::Unheard,
        0 => Sight::Closed,
        _ => Sight::Open,
    }
}
