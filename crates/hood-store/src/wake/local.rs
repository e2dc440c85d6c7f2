//! The bus within this process.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hood_core::EvaluationId;
use tokio::sync::{broadcast, watch};

use super::Signal;

/// Cancel intents that may wait for a slow listener before it is told to look at everything.
const CANCELS_PENDING_MAX: usize = 256;

pub(super) struct Bus {
    work: watch::Sender<()>,
    deliveries: watch::Sender<()>,
    /// `None`: look at all of them.
    cancels: broadcast::Sender<Option<EvaluationId>>,
    /// Only evaluations that somebody watches now.
    watched: Mutex<HashMap<EvaluationId, watch::Sender<()>>>,
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bus").field("watched", &self.lock().len()).finish_non_exhaustive()
    }
}

impl Bus {
    pub(super) fn new() -> Self {
        Self {
            work: watch::Sender::new(()),
            deliveries: watch::Sender::new(()),
            cancels: broadcast::Sender::new(CANCELS_PENDING_MAX),
            watched: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<EvaluationId, watch::Sender<()>>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn work(&self) -> impl Future<Output = ()> + Send + 'static {
        next(&self.work)
    }

    pub(super) fn deliveries(&self) -> impl Future<Output = ()> + Send + 'static {
        next(&self.deliveries)
    }

    pub(super) fn watch(self: &Arc<Self>, id: EvaluationId) -> Subscription {
        let changes = self.lock().entry(id).or_insert_with(|| watch::Sender::new(())).subscribe();
        Subscription { id, changes: Some(changes), bus: Arc::clone(self) }
    }

    pub(super) fn cancels(&self) -> Cancels {
        Cancels { receiver: self.cancels.subscribe() }
    }

    pub(super) fn fire(&self, signal: Signal) {
        match signal {
            Signal::Work => {
                self.work.send_replace(());
            }
            Signal::Deliveries => {
                self.deliveries.send_replace(());
            }
            Signal::Changed(id) => {
                if let Some(changes) = self.lock().get(&id) {
                    changes.send_replace(());
                }
            }
            Signal::Cancel(id) => {
                // Nobody listening is no fault.
                let _ = self.cancels.send(Some(id));
            }
        }
    }

    /// Something may have been missed: everybody looks.
    pub(super) fn fire_everything(&self) {
        self.work.send_replace(());
        self.deliveries.send_replace(());
        self.lock().values().for_each(|changes| {
            changes.send_replace(());
        });
        let _ = self.cancels.send(None);
    }
}

/// Ends at the next hint after this call.
fn next(hints: &watch::Sender<()>) -> impl Future<Output = ()> + Send + 'static {
    let mut hints = hints.subscribe();
    async move {
        if hints.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
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
    receiver: broadcast::Receiver<Option<EvaluationId>>,
}

impl Cancels {
    /// The next one; `None` where too many came at once, or some may have been missed, and all held
    /// evaluations are to be looked at.
    pub async fn recv(&mut self) -> Option<EvaluationId> {
        match self.receiver.recv().await {
            Ok(hint) => hint,
            Err(broadcast::error::RecvError::Lagged(_)) => None,
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}
