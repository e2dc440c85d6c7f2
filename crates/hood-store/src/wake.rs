//! The bus that says "look again". A hint, never the record: whoever is woken asks the store, and
//! whoever was not woken finds the same by asking. Subscribe before you query, so that nothing can
//! slip in between.
//!
//! Each subscription is one slot that takes any number of hints: a slow subscriber costs the writer
//! nothing and misses nothing but repetitions.
//!
//! Within a process the bus is memory. Where several processes share a database, streams of a Redis
//! carry the hints between them: each side writes to its own and reads all. They are bounded, and
//! whatever may have been missed (an outage, a gap in a sender's numbers) makes everybody look.

mod backoff;
mod config;
mod link;
mod listen;
mod local;
mod message;
mod publish;

use std::collections::HashSet;
use std::future::Future;
use std::sync::Arc;

use hood_core::EvaluationId;
use tokio::task::AbortHandle;

use config::Endpoint;
pub use config::{BusConfig, BusError, BusSide};
use link::Link;
pub use link::{Mishaps, Reach};
use local::Bus;
pub use local::{Cancels, Subscription};
use publish::Outbox;

#[derive(Clone, Debug)]
pub struct Wake {
    bus: Arc<Bus>,
    beyond: Option<Arc<Beyond>>,
}

/// What ties this process's bus to the others'. The ties are cut when the last handle goes.
#[derive(Debug)]
struct Beyond {
    outbox: Outbox,
    link: Arc<Link>,
    tasks: [AbortHandle; 2],
}

impl Drop for Beyond {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl Wake {
    /// Within this process.
    pub(crate) fn alone() -> Self {
        Self { bus: Arc::new(Bus::new()), beyond: None }
    }

    /// Returns before the others are reached: a bus that is away delays hints and stops nobody.
    pub(crate) fn open(config: Option<&BusConfig>) -> Result<Self, BusError> {
        let Some(config) = config else { return Ok(Self::alone()) };
        let bus = Arc::new(Bus::new());
        let endpoint = Arc::new(Endpoint::new(config)?);
        let link = Arc::new(Link::default());
        let (outbox, publishing) = Outbox::new(Arc::clone(&endpoint), Arc::clone(&link));
        let listening = listen::listen(endpoint, Arc::clone(&bus), Arc::clone(&link));
        let tasks = [tokio::spawn(publishing).abort_handle(), tokio::spawn(listening).abort_handle()];
        Ok(Self { bus, beyond: Some(Arc::new(Beyond { outbox, link, tasks })) })
    }

    /// Whether other processes hear this one and are heard.
    pub fn reach(&self) -> Reach {
        self.beyond.as_ref().map_or(Reach::Alone, |beyond| beyond.link.reach())
    }

    pub fn mishaps(&self) -> Mishaps {
        self.beyond.as_ref().map_or_else(Mishaps::default, |beyond| beyond.link.mishaps())
    }

    /// Ends when something was queued after this call, not after the first poll. What becomes due
    /// by the passing of time wakes nobody: whoever claims looks again by and by.
    pub fn work(&self) -> impl Future<Output = ()> + Send + 'static {
        self.bus.work()
    }

    /// Ends when a delivery was noted after this call.
    pub fn deliveries(&self) -> impl Future<Output = ()> + Send + 'static {
        self.bus.deliveries()
    }

    /// Hints about one evaluation: an event, output, or a cancel intent.
    pub fn watch(&self, id: EvaluationId) -> Subscription {
        self.bus.watch(id)
    }

    /// Cancel intents for evaluations that somebody holds.
    pub fn cancels(&self) -> Cancels {
        self.bus.cancels()
    }

    /// What one transaction did, once it is durable.
    pub(crate) fn fire(&self, signals: HashSet<Signal>) {
        signals.iter().for_each(|signal| self.bus.fire(*signal));
        if let Some(beyond) = &self.beyond {
            beyond.outbox.send(signals);
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Signal {
    Work,
    /// Something is to be told to a client's URL.
    Deliveries,
    Changed(EvaluationId),
    Cancel(EvaluationId),
}
