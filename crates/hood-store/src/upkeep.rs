//! What the engine's files need so that they stay small. None of it changes what is stored.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::db::{Connection, query};
use crate::error::StoreError;
use crate::rows::number;
use crate::writer::failed;

/// A log of this size is folded back into the database even if the writer has to wait for readers:
/// the engine does so by itself at 4 MiB, but only at a moment when nobody reads.
const LOG_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// The share of a small storage that the log may take before it is folded back: one in so many.
const LOG_SHARE: u64 = 16;

/// What the log's file keeps of its size once it was folded back, so that a busy store does not
/// grow it again each time.
pub(crate) const LOG_BYTES_KEPT: u64 = 16 * 1024 * 1024;

/// How long the writer waits for readers at that. Nobody else writes: it waits for nothing more.
pub(crate) const LOG_PATIENCE: Duration = Duration::from_secs(1);

/// Free pages that stay in the database, to be filled again without growing it: 8 MiB.
const FREE_PAGES_KEPT: u64 = 2048;

/// Pages given back at a time, 2 MiB: whoever comes meanwhile waits for no more than that.
const FREED_PAGES: u64 = 512;

/// Time without anything to write after which there is time to give pages back.
pub(crate) const QUIET: Duration = Duration::from_millis(50);

/// The files beside the database.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    log: PathBuf,
    /// Of those blobs that are files of this machine.
    blobs_bytes: Arc<AtomicU64>,
}

impl Files {
    pub(crate) fn beside(database: &Path, blobs_bytes: Arc<AtomicU64>) -> Self {
        let mut log = database.as_os_str().to_owned();
        log.push("-wal");
        Self { log: log.into(), blobs_bytes }
    }

    fn log_bytes(&self) -> Result<u64, StoreError> {
        match fs::metadata(&self.log) {
            Ok(log) => Ok(log.len()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(StoreError::Measure { path: self.log.clone(), source: Arc::new(error) }),
        }
    }

    /// Bytes in use: the log, the blobs of this machine, and the database without what deletions have
    /// freed within it.
    pub(crate) async fn used_bytes(&self, db: &mut Connection<'_>) -> Result<u64, StoreError> {
        let sql = "SELECT (p.page_count - f.freelist_count) * s.page_size AS used \
             FROM pragma_page_count() p, pragma_freelist_count() f, pragma_page_size() s";
        let row = query(sql).fetch_one(db).await.map_err(failed("measuring the database"))?;
        Ok(number(&row, "used")? + self.log_bytes()? + self.blobs_bytes.load(Ordering::Relaxed))
    }
}

/// The writer's housekeeping, between its transactions.
#[derive(Debug)]
pub(crate) struct Upkeep {
    files: Files,
    log_bytes_max: u64,
    /// The log is folded back once it is longer than this.
    log_bytes_next: u64,
    /// Something was written since the free pages were looked at.
    untidy: bool,
}

impl Upkeep {
    pub(crate) fn new(files: Files, storage_bytes: u64) -> Self {
        let log_bytes_max = LOG_BYTES_MAX.min(storage_bytes / LOG_SHARE);
        Self { files, log_bytes_max, log_bytes_next: log_bytes_max, untidy: true }
    }

    pub(crate) const fn files(&self) -> &Files {
        &self.files
    }

    pub(crate) const fn has_something_to_do(&self) -> bool {
        self.untidy
    }

    /// To be called after each transaction: bounds the log.
    pub(crate) async fn written(&mut self, db: &mut Connection<'_>) {
        self.untidy = true;
        if let Err(error) = self.bound_log(db).await {
            tracing::warn!(error = %error, "the write-ahead log could not be folded back");
        }
    }

    async fn bound_log(&mut self, db: &mut Connection<'_>) -> Result<(), StoreError> {
        let long = self.files.log_bytes()?;
        if long <= self.log_bytes_next {
            return Ok(());
        }
        let row = query("PRAGMA wal_checkpoint(TRUNCATE)")
            .fetch_one(db)
            .await
            .map_err(failed("folding the log back"))?;
        let busy: i64 = row.try_get("busy").map_err(failed("folding the log back"))?;
        // A reader that does not end must not cost every transaction the wait for it.
        self.log_bytes_next = if busy == 0 { self.log_bytes_max } else { long + self.log_bytes_max };
        if busy != 0 {
            tracing::warn!(log_bytes = long, "a reader keeps the write-ahead log from being folded back");
        }
        Ok(())
    }

    /// To be called when nobody writes: gives some of the free pages back to the file system.
    pub(crate) async fn quiet(&mut self, db: &mut Connection<'_>) {
        self.untidy = match give_back(db).await {
            Ok(more) => more,
            Err(error) => {
                tracing::warn!(error = %error, "free pages could not be given back");
                false
            }
        };
    }
}

/// True where there is more to give back.
async fn give_back(db: &mut Connection<'_>) -> Result<bool, StoreError> {
    let row = query("SELECT freelist_count AS free FROM pragma_freelist_count()")
        .fetch_one(db)
        .await
        .map_err(failed("counting free pages"))?;
    let spare = number(&row, "free")?.saturating_sub(FREE_PAGES_KEPT);
    if spare == 0 {
        return Ok(false);
    }
    let pages = spare.min(FREED_PAGES);
    let vacuum = format!("PRAGMA incremental_vacuum({pages}); PRAGMA wal_checkpoint(PASSIVE)");
    db.script(vacuum).await.map_err(failed("giving pages back"))?;
    Ok(spare > pages)
}
