//! How large a PostgreSQL database is. To ask means to look at every file of it, so that it is asked
//! now and then, and between what this process itself has added is counted on top.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::db::{Connection, query};
use crate::error::StoreError;
use crate::rows::number;
use crate::writer::failed;

/// How long an answer holds. Others write too: their share is seen this much later.
const FRESH: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct DatabaseSize {
    measured: Mutex<Option<(Instant, u64)>>,
    grown: AtomicU64,
    /// Of those blobs that are files of this machine.
    blobs_bytes: Arc<AtomicU64>,
}

impl DatabaseSize {
    pub(crate) fn new(blobs_bytes: Arc<AtomicU64>) -> Self {
        Self { measured: Mutex::default(), grown: AtomicU64::new(0), blobs_bytes }
    }

    /// Bytes in use: the database, and the blobs of this machine.
    pub(crate) async fn bytes(&self, db: &mut Connection<'_>) -> Result<u64, StoreError> {
        let known = *self.measured.lock().unwrap_or_else(PoisonError::into_inner);
        let measured = match known {
            Some((at, bytes)) if at.elapsed() < FRESH => bytes,
            _ => self.measure(db).await?,
        };
        let beside = [&self.grown, &*self.blobs_bytes].map(|bytes| bytes.load(Ordering::Relaxed));
        Ok(beside.into_iter().fold(measured, u64::saturating_add))
    }

    async fn measure(&self, db: &mut Connection<'_>) -> Result<u64, StoreError> {
        let row = query("SELECT pg_database_size(current_database()) AS bytes").fetch_one(db).await;
        let bytes = number(&row.map_err(failed("measuring the database"))?, "bytes")?;
        *self.measured.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), bytes));
        self.grown.store(0, Ordering::Relaxed);
        Ok(bytes)
    }

    pub(crate) fn grown(&self, bytes: u64) {
        self.grown.fetch_add(bytes, Ordering::Relaxed);
    }
}
