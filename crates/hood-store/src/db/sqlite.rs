//! SQLite: one file, one connection that writes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::sqlite::{
    SqliteAutoVacuum, SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{ConnectOptions as _, SqliteConnection, SqlitePool};

use super::STATEMENTS_CACHED;
use crate::upkeep::{LOG_BYTES_KEPT, LOG_PATIENCE};

/// Takes the write lock at once, so that no statement of the transaction can find it taken.
pub(crate) const BEGIN: &str = "BEGIN IMMEDIATE";

pub(crate) const DURABILITY: &[(&str, &str)] = &[
    ("journal_mode", "SELECT journal_mode AS value FROM pragma_journal_mode()"),
    // 2 is FULL.
    ("synchronous", "SELECT CAST(synchronous AS TEXT) AS value FROM pragma_synchronous()"),
];

const FILE: &str = "fumehood.db";
/// How long one connection waits for another's lock: nobody holds one for more than milliseconds.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a read waits for one of the readers.
const READER_WAIT: Duration = Duration::from_secs(10);
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

pub(crate) async fn connect_writer(path: &Path) -> Result<SqliteConnection, sqlx::Error> {
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

pub(crate) async fn connect_readers(path: &Path, readers: u32) -> Result<SqlitePool, sqlx::Error> {
    SqlitePoolOptions::new()
        .max_connections(readers.max(1))
        .acquire_timeout(READER_WAIT)
        .test_before_acquire(false)
        .connect_with(options(path).read_only(true))
        .await
}
