//! Everything that is SQLite's own. The statements elsewhere are portable: for another database
//! this module is what is written again, and nothing else.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::ConnectOptions as _;
use sqlx::sqlite::{
    SqliteAutoVacuum, SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous,
};

use crate::upkeep::{LOG_BYTES_KEPT, LOG_PATIENCE};

pub(crate) type Db = sqlx::Sqlite;
pub(crate) type Connection = sqlx::SqliteConnection;
pub(crate) type Pool = sqlx::SqlitePool;
pub(crate) type Row = sqlx::sqlite::SqliteRow;
pub(crate) type Look = sqlx::Transaction<'static, Db>;

/// Takes the write lock at once, so that no statement of the transaction can find it taken.
pub(crate) const BEGIN: &str = "BEGIN IMMEDIATE";

/// The end of a SELECT whose rows this transaction is about to change. One connection writes here,
/// so there is nobody to skip; PostgreSQL says ` FOR UPDATE SKIP LOCKED`.
macro_rules! lock_clause {
    () => {
        ""
    };
}
pub(crate) use lock_clause;

const FILE: &str = "fumehood.db";
/// How long one connection waits for another's lock: nobody holds one for more than milliseconds.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a read waits for one of the readers.
const READER_WAIT: Duration = Duration::from_secs(10);
/// More than there are statements.
const STATEMENTS_CACHED: usize = 256;
/// 32 MiB of pages: the upper levels of the indexes of a million rows.
const WRITER_CACHE: &str = "-32768";

pub(crate) fn file(dir: &Path) -> PathBuf {
    dir.join(FILE)
}

fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .busy_timeout(BUSY_TIMEOUT)
        .statement_cache_capacity(STATEMENTS_CACHED)
        .disable_statement_logging()
}

pub(crate) async fn connect_writer(path: &Path) -> Result<Connection, sqlx::Error> {
    options(path)
        .auto_vacuum(SqliteAutoVacuum::Incremental)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .pragma("journal_size_limit", LOG_BYTES_KEPT.to_string())
        .busy_timeout(LOG_PATIENCE)
        .pragma("cache_size", WRITER_CACHE)
        .connect()
        .await
}

pub(crate) async fn connect_readers(path: &Path, readers: u32) -> Result<Pool, sqlx::Error> {
    SqlitePoolOptions::new()
        .max_connections(readers.max(1))
        .acquire_timeout(READER_WAIT)
        .test_before_acquire(false)
        .connect_with(options(path).read_only(true))
        .await
}

/// How the database says it is kept: the journal's mode and the level of synchronisation.
pub(crate) async fn durability(db: &mut Connection) -> Result<(String, i64), sqlx::Error> {
    let journal = sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&mut *db).await?;
    let synchronous = sqlx::query_scalar("PRAGMA synchronous").fetch_one(db).await?;
    Ok((journal, synchronous))
}
