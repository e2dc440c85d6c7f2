//! The in-process bus that says "look again". A hint, never the record: whoever is woken asks the
//! store, and whoever was not woken finds the same by asking. Subscribe before you query, so that
//! nothing can slip in between.
//!
//! Each subscription is one slot that takes any number of hints: a slow subscriber costs the writer
//! nothing and misses nothing but repetitions.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hood_core::EvaluationId;
use tokio::sync::{broadcast, watch};

/// Cancel intents that may wait for a slow listener before it is told to look at everything.
const CANCELS_PENDING_MAX: usize = 256;

#[derive(Clone, Debug)]
pub struct Wake {
    bus: Arc<Bus>,
}

struct Bus {
    work: watch::Sender<()>,
    cancels: broadcast::Sender<EvaluationId>,
    /// Only evaluations that somebody watches now.
    watched: Mutex<HashMap<EvaluationId, watch::Sender<()>>>,
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bus").field("watched", &self.lock().len()).finish_non_exhaustive()
    }
}

impl Bus {
    fn lock(&self) -> MutexGuard<'_, HashMap<EvaluationId, watch::Sender<()>>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake {
    pub(crate) fn new() -> Self {
        let bus = Bus {
            work: watch::Sender::new(()),
            cancels: broadcast::Sender::new(CANCELS_PENDING_MAX),
            watched: Mutex::default(),
        };
        Self { bus: Arc::new(bus) }
    }

    /// Ends when something was queued after this call, not after the first poll. What becomes due
    /// by the passing of time wakes nobody: whoever claims looks again by and by.
    pub fn work(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut work = self.bus.work.subscribe();
        async move {
            if work.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Hints about one evaluation: an event, output, or a cancel intent.
    pub fn watch(&self, id: EvaluationId) -> Subscription {
        let changes = self.bus.lock().entry(id).or_insert_with(|| watch::Sender::new(())).subscribe();
        Subscription { id, changes: Some(changes), bus: Arc::clone(&self.bus) }
    }

    /// Cancel intents for evaluations that somebody holds.
    pub fn cancels(&self) -> Cancels {
        Cancels { receiver: self.bus.cancels.subscribe() }
    }

    pub(crate) fn fire(&self, signal: Signal) {
        match signal {
            Signal::Work => {
                self.bus.work.send_replace(());
            }
            Signal::Changed(id) => {
                if let Some(changes) = self.bus.lock().get(&id) {
                    changes.send_replace(());
                }
            }
            Signal::Cancel(id) => {
                // Nobody listening is no fault.
                let _ = self.bus.cancels.send(id);
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Signal {
    Work,
    Changed(EvaluationId),
    Cancel(EvaluationId),
}

/// Somebody's interest in one evaluation; dropping it ends the interest.
#[derive(Debug)]
pub struct Subscription {
    id: EvaluationId,
    /// `None` only while it is dropped.
    changes: Option<watch::Receiver<()>>,
    bus: Arc<Bus>,
}

impl Subscription {
    /// Ends when something changed since it was made, or since the last time this ended. It may
    /// end for nothing.
    pub async fn changed(&mut self) {
        let Some(changes) = &mut self.changes else { return };
        if changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut watched = self.bus.lock();
        self.changes = None;
        if watched.get(&self.id).is_some_and(|changes| changes.receiver_count() == 0) {
            watched.remove(&self.id);
        }
    }
}

#[derive(Debug)]
pub struct Cancels {
    receiver: broadcast::Receiver<EvaluationId>,
}

impl Cancels {
    /// The next one; `None` where too many came at once and all held evaluations are to be looked at.
    pub async fn recv(&mut self) -> Option<EvaluationId> {
        match self.receiver.recv().await {
            Ok(id) => Some(id),
            Err(broadcast::error::RecvError::Lagged(_)) => None,
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}
