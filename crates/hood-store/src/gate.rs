//! The bound of the queue where several processes accept at once. None of them sees what the others
//! are about to commit, so that how many those are, and how much each of them adds, must be known.
//!
//! While the queue is less than half full a transaction takes one of a few slots, and may add no
//! more than its share of the other half: all slots together cannot fill it. From there on it takes
//! all slots, and so accepts alone and sees the count as it is.

use crate::db::{Connection, postgres, query};
use crate::error::StoreError;
use crate::ops::depth;
use crate::writer::failed;

/// Transactions that may accept at the same time.
const SLOTS: i64 = 8;

/// Advisory locks are a number each, of everybody who uses the database: "fume", and a slot.
const LOCKS: i64 = 0x6675_6d65_0000_0100;

#[derive(Debug)]
pub(crate) struct Gate {
    queue_max: u64,
}

impl Gate {
    pub(crate) const fn new(queue_max: u64) -> Self {
        Self { queue_max }
    }

    /// Waits until the transaction may add so many, and tells how many are queued then. Nothing may
    /// have been written in it yet.
    pub(crate) async fn enter(
        &self,
        db: &mut Connection<'_>,
        shard: i64,
        evaluations: u64,
    ) -> Result<u64, StoreError> {
        if self.has_room(depth::queued(db).await?, evaluations) {
            let slot = shard.rem_euclid(SLOTS);
            lock(db, (slot, slot)).await?;
            let queued = depth::queued(db).await?;
            if self.has_room(queued, evaluations) {
                return Ok(queued);
            }
            // Not while a slot is held: two who do so would wait for each other.
            db.command("ROLLBACK").await.map_err(failed("accepting"))?;
            db.command(postgres::BEGIN).await.map_err(failed("accepting"))?;
        }
        lock(db, (0, SLOTS - 1)).await?;
        depth::queued(db).await
    }

    fn has_room(&self, queued: u64, evaluations: u64) -> bool {
        queued.saturating_add(evaluations) <= self.queue_max / 2
            && evaluations <= self.queue_max / 2 / SLOTS as u64
    }
}

/// Until the end of the transaction.
async fn lock(db: &mut Connection<'_>, (first, last): (i64, i64)) -> Result<(), StoreError> {
    const SQL: &str = "SELECT pg_advisory_xact_lock($1 + slot) FROM generate_series($2, $3) AS slot";
    let locked = query(SQL).bind(LOCKS).bind(first).bind(last).execute(db).await;
    locked.map(drop).map_err(failed("waiting to accept"))
}
