//! What the store does for itself, whenever there is something to do: one process at a time, on a
//! timer, from nothing but what the database says.

use std::sync::Arc;
use std::time::Duration;

use hood_store::{Retention, Store, StoreError};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::config::Config;

/// The name of the turn in the database.
const TURN: &str = "keeping";

/// How long a turn lasts that is not taken again: what its holder did not finish waits that long for
/// another to do it.
const TURN_TTL: Duration = Duration::from_secs(30);

/// Between two looks where there was nothing to do.
const PAUSE: Duration = Duration::from_secs(1);

/// After a failure: at first, and at most, doubled in between.
const FAILED_PAUSE_FIRST: Duration = Duration::from_secs(1);
const FAILED_PAUSE_CAP: Duration = Duration::from_secs(30);

/// Between two looks through all objects for those that nobody knows: nothing makes one but a crash at
/// the wrong moment.
const ORPHANS_INTERVAL: Duration = Duration::from_secs(3600);

/// One keeper, of which each process has one.
#[derive(Debug)]
pub(super) struct Keeper {
    store: Store,
    clock: Arc<dyn Clock>,
    retention: Retention,
    /// This process's, in turns.
    name: String,
}

impl Keeper {
    pub(super) fn new(store: &Store, clock: &Arc<dyn Clock>, config: &Config) -> Self {
        let name = format!("{:016x}", rand::random::<u64>());
        let retention = config.retention.into();
        Self { store: store.clone(), clock: Arc::clone(clock), retention, name }
    }

    pub(super) fn spawn(self, stop: &CancellationToken) -> JoinHandle<()> {
        tokio::spawn(self.run(stop.clone()))
    }

    /// Works until told to stop; what it was at is broken off, and done again by whoever is next.
    async fn run(self, stop: CancellationToken) {
        let mut orphans_due = Instant::now();
        let mut failures = 0;
        while !stop.is_cancelled() {
            let pause = match self.round(&mut orphans_due).await {
                Ok(busy) => {
                    if failures > 0 {
                        tracing::info!(failures, "the store's own work goes on");
                    }
                    failures = 0;
                    if busy { Duration::ZERO } else { PAUSE }
                }
                Err(StoreError::Closed) => return,
                Err(error) => {
                    if failures == 0 {
                        let error = anyhow::Error::new(error);
                        tracing::warn!(
                            error = format!("{error:#}"),
                            "the store's own work waits; it is tried again"
                        );
                    }
                    failures += 1;
                    (FAILED_PAUSE_FIRST * 2_u32.saturating_pow(failures - 1)).min(FAILED_PAUSE_CAP)
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => {}
            }
        }
    }

    /// True where there may be more to do.
    async fn round(&self, orphans_due: &mut Instant) -> Result<bool, StoreError> {
        let now = self.clock.now();
        if !self.store.take_turn(TURN, &self.name, now, TURN_TTL).await? {
            return Ok(false);
        }
        let mut done = self.store.move_outputs(now).await?;
        if let Some(age) = self.retention.archive_after {
            done += self.store.archive(now, now.before(age)).await?;
        }
        if let Some(age) = self.retention.delete_after {
            done += self.store.expire(now.before(age)).await?;
        }
        done += self.store.delete_blobs(now).await?;
        if *orphans_due <= Instant::now() {
            self.store.delete_orphans(now).await?;
            *orphans_due = Instant::now() + ORPHANS_INTERVAL;
        }
        Ok(done > 0)
    }
}
