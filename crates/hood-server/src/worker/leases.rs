//! The leases that this worker holds: kept alive together, and each attempt told when its own is
//! gone or a cancel has come.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::StreamExt as _;
use hood_core::EvaluationId;
use hood_store::{CancelIntent, Lease, Renewed};
use tokio::sync::watch;

use super::{Means, Shared};

/// Renewals in one life of a lease: two may fail before it lapses.
const RENEWALS_PER_TTL: u32 = 3;

#[derive(Debug, Default)]
pub(super) struct Leases {
    held: Mutex<BTreeMap<EvaluationId, Entry>>,
}

#[derive(Debug)]
struct Entry {
    lease: Lease,
    told: watch::Sender<Told>,
}

/// What an attempt has been told from outside.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Told {
    pub(super) cancel: Option<CancelIntent>,
    /// Somebody else holds it now: write nothing more.
    pub(super) lost: bool,
}

/// An attempt's side; dropping it lets the lease go.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) lease: Lease,
    pub(super) told: watch::Receiver<Told>,
}

impl Leases {
    pub(super) fn hold(&self, lease: Lease, cancel: Option<CancelIntent>) -> Held {
        let (sender, receiver) = watch::channel(Told { cancel, lost: false });
        let entry = Entry { lease: lease.clone(), told: sender };
        self.lock().insert(lease.evaluation, entry);
        Held { lease, told: receiver }
    }

    pub(super) fn release(&self, held: &Held) {
        let mut entries = self.lock();
        let current =
            entries.get(&held.lease.evaluation).is_some_and(|entry| entry.lease.token == held.lease.token);
        if current {
            entries.remove(&held.lease.evaluation);
        }
    }

    pub(super) fn count(&self) -> usize {
        self.lock().len()
    }

    fn all(&self) -> Vec<Lease> {
        self.lock().values().map(|entry| entry.lease.clone()).collect()
    }

    fn one(&self, id: EvaluationId) -> Option<Lease> {
        self.lock().get(&id).map(|entry| entry.lease.clone())
    }

    fn tell(&self, lease: &Lease, told: Told) {
        let entries = self.lock();
        if let Some(entry) = entries.get(&lease.evaluation).filter(|entry| entry.lease.token == lease.token) {
            entry.told.send_replace(told);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<EvaluationId, Entry>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Renews every lease well before it lapses, and looks at once where a cancel was asked for.
pub(super) async fn keep(shared: Arc<Shared>) {
    let Means { store, clock, .. } = &shared.means;
    let every = shared.config.lease_ttl / RENEWALS_PER_TTL;
    let mut tick = clock.sleep(every);
    let mut cancels = store.cancels();
    loop {
        let due = tokio::select! {
            biased;
            () = &mut tick => {
                tick = clock.sleep(every);
                shared.leases.all()
            }
            Some(cancelled) = cancels.next() => match cancelled {
                Some(id) => shared.leases.one(id).into_iter().collect(),
                None => shared.leases.all(),
            },
        };
        renew(&shared, &due).await;
    }
}

async fn renew(shared: &Shared, leases: &[Lease]) {
    if leases.is_empty() {
        return;
    }
    let now = shared.means.clock.now();
    match shared.means.store.renew(leases, now, shared.config.lease_ttl).await {
        Ok(renewed) => {
            for (lease, renewed) in leases.iter().zip(renewed) {
                let told = match renewed {
                    Renewed::Held { cancel } => Told { cancel, lost: false },
                    Renewed::Lost => Told { cancel: None, lost: true },
                };
                shared.leases.tell(lease, told);
            }
        }
        Err(error) => tracing::error!(error = %error, leases = leases.len(), "cannot renew leases"),
    }
}
