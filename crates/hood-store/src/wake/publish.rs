//! This process's hints, on their way to the others.

use std::collections::HashSet;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redis::RedisError;
use redis::aio::MultiplexedConnection;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::Signal;
use super::backoff::Backoff;
use super::config::Endpoint;
use super::link::{Half, Link};
use super::message::{Message, Notice};

/// Transactions whose hints may wait for the bus. Where more came it is slow or away, and the others
/// are told to look at everything instead.
const WAITING_MAX: usize = 256;

/// About how many entries a stream keeps: some seconds of the busiest installation. Who is further
/// behind sees the gap in the numbers.
const ENTRIES_KEPT: usize = 4096;

/// Beyond this the server is taken for gone.
const PATIENCE: Duration = Duration::from_millis(900);

/// A server that nothing was said to for so long is asked whether it is there.
const PING_EVERY: Duration = Duration::from_secs(2);

/// Where the writer leaves hints. It never waits.
#[derive(Debug)]
pub(super) struct Outbox {
    queue: mpsc::Sender<HashSet<Signal>>,
    /// Some hints found no room.
    overflowed: Arc<AtomicBool>,
}

impl Outbox {
    /// And the task that sends what is left there.
    pub(super) fn new(endpoint: Arc<Endpoint>, link: Arc<Link>) -> (Self, impl Future<Output = ()> + Send) {
        let (queue, waiting) = mpsc::channel(WAITING_MAX);
        let overflowed = Arc::new(AtomicBool::new(false));
        let origin = rand::random::<u64>();
        let publisher =
            Publisher { endpoint, link, waiting, overflowed: Arc::clone(&overflowed), origin, sent: 0 };
        (Self { queue, overflowed }, publisher.run())
    }

    pub(super) fn send(&self, signals: HashSet<Signal>) {
        if !signals.is_empty() && self.queue.try_send(signals).is_err() {
            self.overflowed.store(true, Ordering::Release);
        }
    }
}

struct Publisher {
    endpoint: Arc<Endpoint>,
    link: Arc<Link>,
    waiting: mpsc::Receiver<HashSet<Signal>>,
    overflowed: Arc<AtomicBool>,
    /// This process, among the others.
    origin: u64,
    sent: u64,
}

impl Publisher {
    async fn run(mut self) {
        let mut backoff = Backoff::default();
        let mut missed = Notice::default();
        loop {
            let reason = match self.endpoint.connect(PATIENCE).await {
                Ok(connection) => {
                    backoff = Backoff::default();
                    self.publish(connection, std::mem::take(&mut missed)).await
                }
                Err(reason) => reason,
            };
            self.link.down(Half::Publishing, &reason);
            // Whether what was on its way arrived is not known.
            missed.add_everything();
            sleep(backoff.pause()).await;
        }
    }

    /// Sends what comes, everything that came meanwhile in one entry; ends when it cannot.
    async fn publish(&mut self, mut connection: MultiplexedConnection, missed: Notice) -> RedisError {
        let mut next = missed;
        loop {
            let said = if next.is_empty() {
                redis::cmd("PING").query_async::<()>(&mut connection).await
            } else {
                self.add(&mut connection, std::mem::take(&mut next)).await
            };
            if let Err(reason) = said {
                return reason;
            }
            self.link.up(Half::Publishing);
            match timeout(PING_EVERY, self.waiting.recv()).await {
                Ok(Some(signals)) => next.add(signals),
                // Nobody can say anything any more: this task is about to be ended.
                Ok(None) => std::future::pending().await,
                Err(_) => {}
            }
            while let Ok(signals) = self.waiting.try_recv() {
                next.add(signals);
            }
            if self.overflowed.swap(false, Ordering::Acquire) {
                next.add_everything();
            }
        }
    }

    async fn add(
        &mut self,
        connection: &mut MultiplexedConnection,
        notice: Notice,
    ) -> Result<(), RedisError> {
        self.sent += 1;
        let message = Message { origin: self.origin, number: self.sent, notice };
        let mut add = redis::cmd("XADD");
        add.arg(self.endpoint.own_stream()).arg("MAXLEN").arg("~").arg(ENTRIES_KEPT).arg("*");
        for (name, value) in message.fields() {
            add.arg(name).arg(value);
        }
        add.query_async(connection).await
    }
}
