//! The store without a database: the same answers to the same calls, held in one process's memory.
//! Every call is one step that nothing can interrupt and no clock or chance has a part in, so that
//! the same calls in the same order give the same answers again. It keeps nothing: it is for
//! simulation and tests, and the conformance suite holds it to what the databases do.

mod book;
mod client;
mod lease;
mod look;
mod row;
mod write;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hood_core::{BatchId, EvaluationId, Event, Tenant, Timestamp};

use crate::config::StoreConfig;
use crate::error::{CommitError, FindError, StoreError, SubmitError};
use crate::model::{
    Accepted, BatchRecord, Cancel, CancelWish, CapacityRecord, Claimed, Commit, Delete, Filter, Idempotency,
    Key, Lapsed, Lease, NewKey, NewSubmission, OutputSlice, Page, QueueRecord, Record, RecordSummary,
    Renewed, Span, Storage, Tenure,
};
use crate::wake::{Signal, Wake};
use book::Book;

/// Cheap to clone: all clones are one opening of the same data.
#[derive(Clone, Debug)]
pub struct Memory {
    book: Arc<Mutex<Book>>,
    /// `false` once this opening was closed.
    open: Arc<Mutex<bool>>,
    wake: Wake,
    epoch: u64,
}

impl Memory {
    /// An empty one. Of `config` only the bounds count.
    pub fn new(config: StoreConfig) -> Self {
        Self::opening(Arc::new(Mutex::new(Book::new(config))), Wake::alone())
    }

    /// Another opening of the same data and the same bus, as another process would have it.
    pub fn reopen(&self) -> Self {
        Self::opening(Arc::clone(&self.book), self.wake.clone())
    }

    fn opening(book: Arc<Mutex<Book>>, wake: Wake) -> Self {
        let epoch = book.lock().unwrap_or_else(PoisonError::into_inner).next_opening();
        Self { book, open: Arc::new(Mutex::new(true)), wake, epoch }
    }

    pub async fn close(&self) {
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = false;
    }

    pub fn wake(&self) -> &Wake {
        &self.wake
    }

    pub async fn insert_key(&self, key: &NewKey) -> Result<(), StoreError> {
        self.book()?.insert_key(key)
    }

    pub async fn find_key(&self, hash: &[u8; 32]) -> Result<Option<Key>, StoreError> {
        Ok(self.book()?.find_key(hash))
    }

    pub async fn has_keys(&self) -> Result<bool, StoreError> {
        Ok(self.book()?.has_keys())
    }

    pub async fn submit(
        &self,
        tenant: &Tenant,
        now: Timestamp,
        submission: NewSubmission,
    ) -> Result<Accepted, SubmitError> {
        let accepted = self.book()?.submit(tenant, now, submission)?;
        if accepted == Accepted::New {
            self.fire(Signal::Work);
        }
        Ok(accepted)
    }

    pub async fn find_submission(
        &self,
        tenant: &Tenant,
        idempotency: &Idempotency,
    ) -> Result<Option<Accepted>, SubmitError> {
        self.book()?.existing(tenant, idempotency)
    }

    pub async fn claim(&self, tenure: &Tenure, limit: u32) -> Result<Vec<Claimed>, StoreError> {
        let claimed = self.book()?.claim(tenure, limit, self.epoch)?;
        for claimed in &claimed {
            self.fire(Signal::Changed(claimed.lease.evaluation));
        }
        Ok(claimed)
    }

    pub async fn reclaim(
        &self,
        tenure: &Tenure,
        limit: u32,
        which: Lapsed,
    ) -> Result<Vec<Claimed>, StoreError> {
        Ok(self.book()?.reclaim(tenure, limit, which, self.epoch))
    }

    pub async fn renew(
        &self,
        leases: &[Lease],
        now: Timestamp,
        ttl: Duration,
    ) -> Result<Vec<Renewed>, StoreError> {
        Ok(self.book()?.renew(leases, now.after(ttl)))
    }

    pub async fn commit(&self, lease: &Lease, commit: Commit) -> Result<(), CommitError> {
        let requeued = self.book()?.commit(lease, commit)?;
        if requeued {
            self.fire(Signal::Work);
        }
        self.fire(Signal::Changed(lease.evaluation));
        Ok(())
    }

    pub async fn request_cancel(
        &self,
        tenant: &Tenant,
        id: EvaluationId,
        wish: CancelWish,
    ) -> Result<Cancel, FindError> {
        let cancel = self.book()?.request_cancel(tenant, id, &wish)?;
        if cancel == Cancel::Requested {
            self.fire(Signal::Cancel(id));
        }
        if cancel != Cancel::AlreadyTerminal {
            self.fire(Signal::Changed(id));
        }
        Ok(cancel)
    }

    pub async fn delete(&self, tenant: &Tenant, id: EvaluationId) -> Result<Delete, FindError> {
        let delete = self.book()?.delete(tenant, id)?;
        if delete == Delete::Deleted {
            self.fire(Signal::Changed(id));
        }
        Ok(delete)
    }

    pub async fn get(&self, tenant: &Tenant, id: EvaluationId) -> Result<Record, FindError> {
        self.book()?.get(tenant, id)
    }

    pub async fn list(
        &self,
        tenant: &Tenant,
        filter: &Filter,
        cursor: Option<EvaluationId>,
        limit: u32,
    ) -> Result<Page<RecordSummary>, StoreError> {
        Ok(self.book()?.list(tenant, filter, cursor, limit as usize))
    }

    pub async fn events(
        &self,
        tenant: &Tenant,
        id: EvaluationId,
        after: u64,
        limit: u32,
    ) -> Result<Vec<Event>, FindError> {
        self.book()?.events(tenant, id, after, limit as usize)
    }

    pub async fn output(
        &self,
        tenant: &Tenant,
        id: EvaluationId,
        span: Span,
    ) -> Result<OutputSlice, FindError> {
        self.book()?.output(tenant, id, span)
    }

    pub async fn batch(&self, tenant: &Tenant, id: BatchId) -> Result<BatchRecord, FindError> {
        self.book()?.batch(tenant, id)
    }

    pub async fn queue(&self, tenant: &Tenant) -> Result<QueueRecord, StoreError> {
        Ok(self.book()?.queue(tenant))
    }

    pub async fn expire_queued(
        &self,
        older_than: Timestamp,
        now: Timestamp,
        limit: u32,
        result: &str,
    ) -> Result<u64, StoreError> {
        let given_up = self.book()?.expire_queued(older_than, now, limit as usize, result)?;
        for id in &given_up {
            self.fire(Signal::Changed(*id));
        }
        Ok(given_up.len() as u64)
    }

    pub async fn put_capacity(&self, version: u64, at: Timestamp, document: &str) -> Result<(), StoreError> {
        self.book()?.capacity = Some(CapacityRecord { version, at, document: document.to_owned() });
        Ok(())
    }

    pub async fn capacity(&self) -> Result<Option<CapacityRecord>, StoreError> {
        Ok(self.book()?.capacity.clone())
    }

    pub async fn storage(&self) -> Result<Storage, StoreError> {
        Ok(self.book()?.storage())
    }

    pub async fn check_writable(&self) -> Result<(), StoreError> {
        self.book().map(drop)
    }

    fn fire(&self, signal: Signal) {
        self.wake.fire(HashSet::from([signal]));
    }

    fn book(&self) -> Result<MutexGuard<'_, Book>, StoreError> {
        if !*self.open.lock().unwrap_or_else(PoisonError::into_inner) {
            return Err(StoreError::Closed);
        }
        Ok(self.book.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
