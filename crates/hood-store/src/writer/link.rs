//! How a lane holds its connection: SQLite's is there for good; PostgreSQL's may go at any moment and
//! is made again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::{Connection as _, PgConnection, SqliteConnection};
use tokio::sync::mpsc;

use super::context::Room;
use super::{Turn, Waiting, failed};
use crate::db::{self, Connection, DatabaseUrl, query};
use crate::error::StoreError;
use crate::gate::Gate;
use crate::migrate::{self, Duty};
use crate::ops::depth;
use crate::rows::get;
use crate::size::DatabaseSize;
use crate::upkeep::{QUIET, Upkeep};

/// Between two attempts to connect, from the first failure on; doubled after each, with as much again
/// of chance, so that lanes and processes do not come all at once.
const RECONNECT_MIN: Duration = Duration::from_millis(100);
const RECONNECT_MAX: Duration = Duration::from_secs(5);

/// Transactions after which a connection to a server plans its statements anew: a plan that was made while
/// a table was small is kept for no longer than it takes to fill a few pages more.
const PLANS_KEPT: u32 = 64;

/// Shards of the counts: more than there are writers that matter.
const SHARDS: i64 = 64;

#[derive(Debug)]
pub(crate) enum Link {
    Sqlite(Local),
    Postgres(Box<Remote>),
}

#[derive(Debug)]
pub(crate) struct Local {
    db: SqliteConnection,
    upkeep: Upkeep,
}

/// What every lane to one server shares.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) url: DatabaseUrl,
    pub(crate) duty: Duty,
    pub(crate) size: DatabaseSize,
    pub(crate) gate: Gate,
    /// Whether it was said that the server is away.
    away: std::sync::atomic::AtomicBool,
}

#[derive(Debug)]
pub(crate) struct Remote {
    server: Arc<Server>,
    db: Option<PgConnection>,
    shard: i64,
    /// Begun since the statements were planned.
    transactions: u32,
    failures: u32,
    /// Not before this is another attempt made; and why the last one failed.
    retry: Option<(Instant, StoreError)>,
}

impl Server {
    pub(crate) fn new(url: DatabaseUrl, duty: Duty, (size, gate): (DatabaseSize, Gate)) -> Self {
        Self { url, duty, size, gate, away: false.into() }
    }

    /// Says it once, not each time that somebody finds it so.
    fn is_gone(&self, error: &StoreError) {
        if !self.away.swap(true, std::sync::atomic::Ordering::Relaxed) {
            let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
            tracing::warn!(database = %self.url, error = %error, cause, "the database cannot be used; it is tried again and again");
        }
    }

    fn is_back(&self) {
        if self.away.swap(false, std::sync::atomic::Ordering::Relaxed) {
            tracing::info!(database = %self.url, "the database can be used again");
        }
    }
}

impl Link {
    pub(crate) const fn to_file(db: SqliteConnection, upkeep: Upkeep) -> Self {
        Self::Sqlite(Local { db, upkeep })
    }

    /// Connects when there is something to write.
    pub(crate) fn to_server(server: &Arc<Server>) -> Self {
        let server = Arc::clone(server);
        Self::Postgres(Box::new(Remote {
            server,
            db: None,
            shard: 0,
            transactions: 0,
            failures: 0,
            retry: None,
        }))
    }

    /// What is to be written next; meanwhile what is to be tidied is.
    pub(super) async fn next(&mut self, waiting: &mut mpsc::Receiver<Waiting>) -> Option<Waiting> {
        let Self::Sqlite(local) = self else { return waiting.recv().await };
        while local.upkeep.has_something_to_do() {
            match tokio::time::timeout(QUIET, waiting.recv()).await {
                Ok(next) => return next,
                Err(_) => local.upkeep.quiet(&mut Connection::Sqlite(&mut local.db)).await,
            }
        }
        waiting.recv().await
    }

    /// Transactions of what came together, those of a kind side by side. Where nobody else writes that
    /// is one.
    pub(super) fn arrange(&self, mut shared: Vec<Waiting>) -> Vec<Vec<Waiting>> {
        shared.sort_by_cached_key(Waiting::turn);
        if matches!(self, Self::Sqlite(_)) {
            return vec![shared];
        }
        let alone = shared.split_off(shared.partition_point(|waiting| waiting.turn() < Turn::Alone));
        let together = Some(shared).filter(|shared| !shared.is_empty());
        together.into_iter().chain(alone.into_iter().map(|one| vec![one])).collect()
    }

    pub(crate) async fn connect(&mut self) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(_) => Ok(()),
            Self::Postgres(remote) => remote.connect().await,
        }
    }

    pub(super) fn connection(&mut self) -> Result<Connection<'_>, StoreError> {
        match self {
            Self::Sqlite(local) => Ok(Connection::Sqlite(&mut local.db)),
            Self::Postgres(remote) => remote.connection(),
        }
    }

    /// Begins a transaction that adds so many evaluations.
    pub(super) async fn begin(&mut self, room: &mut Room, evaluations: u64) -> Result<(), StoreError> {
        match (self.try_to_begin(room, evaluations).await, &mut *self) {
            // The connection was dead, as after a restart of the server, and nothing was said in it yet.
            (Err(error), Self::Postgres(remote)) if error.is_away() => {
                remote.db = None;
                remote.connect().await?;
                self.try_to_begin(room, evaluations).await
            }
            (outcome, _) => outcome,
        }
    }

    async fn try_to_begin(&mut self, room: &mut Room, evaluations: u64) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(Local { db, upkeep }) => {
                let db = &mut Connection::Sqlite(db);
                db.command(db::sqlite::BEGIN).await.map_err(failed("writing"))?;
                room.used_bytes = upkeep.files().used_bytes(db).await?;
                room.queued = depth::queued(db).await?;
            }
            Self::Postgres(remote) => {
                let (server, shard) = (Arc::clone(&remote.server), remote.shard);
                remote.transactions = remote.transactions.wrapping_add(1);
                let stale = remote.transactions.is_multiple_of(PLANS_KEPT);
                let db = &mut remote.connection()?;
                if stale {
                    db.command(db::postgres::FORGET_PLANS).await.map_err(failed("writing"))?;
                }
                db.command(db::postgres::BEGIN).await.map_err(failed("writing"))?;
                room.used_bytes = server.size.bytes(db).await?;
                if evaluations > 0 {
                    room.queued = server.gate.enter(db, shard, evaluations).await?;
                }
            }
        }
        Ok(())
    }

    /// To be called with what was committed.
    pub(super) fn grown(&self, room: &Room) {
        if let Self::Postgres(remote) = self {
            remote.server.size.grown(room.added_bytes);
        }
    }

    /// To be called after each transaction.
    pub(super) async fn settle(&mut self, outcome: &Result<(), StoreError>) {
        match self {
            Self::Sqlite(local) => local.upkeep.written(&mut Connection::Sqlite(&mut local.db)).await,
            Self::Postgres(remote) => {
                if let Err(error) = outcome {
                    remote.lost(error);
                }
            }
        }
    }

    pub(super) const fn shard(&self) -> i64 {
        match self {
            Self::Sqlite(_) => 0,
            Self::Postgres(remote) => remote.shard,
        }
    }

    pub(super) async fn close(self) {
        match self {
            Self::Sqlite(Local { mut db, .. }) => {
                // Folds the log into the database; what cannot be done now is done at the next start.
                let _ = Connection::Sqlite(&mut db).script("PRAGMA wal_checkpoint(TRUNCATE)").await;
                let _ = db.close().await;
            }
            Self::Postgres(remote) => {
                if let Some(db) = remote.db {
                    let _ = db.close().await;
                }
            }
        }
    }
}

impl Remote {
    fn connection(&mut self) -> Result<Connection<'_>, StoreError> {
        match &mut self.db {
            Some(db) => Ok(Connection::Postgres(db)),
            None => Err(StoreError::Closed),
        }
    }

    async fn connect(&mut self) -> Result<(), StoreError> {
        if self.db.is_some() {
            return Ok(());
        }
        if let Some((at, error)) = &self.retry
            && Instant::now() < *at
        {
            return Err(error.clone());
        }
        match self.open().await {
            Ok(db) => {
                (self.db, self.failures, self.retry) = (Some(db), 0, None);
                self.server.is_back();
                Ok(())
            }
            Err(error) => {
                self.server.is_gone(&error);
                self.retry = Some((Instant::now() + pause(self.failures), error.clone()));
                self.failures = self.failures.saturating_add(1);
                Err(error)
            }
        }
    }

    /// A connection to a database whose schema is the one that we know.
    async fn open(&mut self) -> Result<PgConnection, StoreError> {
        let mut opened =
            db::postgres::connect_writer(&self.server.url).await.map_err(failed("connecting"))?;
        let db = &mut Connection::Postgres(&mut opened);
        migrate::ensure(db, &self.server.url.to_string(), self.server.duty).await?;
        let row = query("SELECT CAST(pg_backend_pid() AS BIGINT) AS pid").fetch_one(db).await;
        self.shard = get::<i64>(&row.map_err(failed("connecting"))?, "pid")? % SHARDS;
        Ok(opened)
    }

    /// A connection whose transaction failed as a whole is not trusted with another one.
    fn lost(&mut self, error: &StoreError) {
        self.db = None;
        if error.is_away() {
            self.server.is_gone(error);
        }
    }
}

/// What chance there is comes from the clock: it need not be good, only different.
fn pause(failures: u32) -> Duration {
    let base = RECONNECT_MIN.saturating_mul(1 << failures.min(16)).min(RECONNECT_MAX);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    base + base.mul_f64(f64::from(now.subsec_nanos() % 1_000_000) / 1_000_000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_to_connect_come_slower_and_slower_up_to_a_bound() {
        for failures in 0..100 {
            let pause = pause(failures);
            assert!(pause >= RECONNECT_MIN && pause <= RECONNECT_MAX * 2, "{failures}: {pause:?}");
        }
        assert!(pause(3) >= RECONNECT_MIN * 8 && pause(99) >= RECONNECT_MAX);
    }
}
