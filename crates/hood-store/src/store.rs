//! The way in: each method is one operation or one look.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hood_core::{BatchId, EvaluationId, Event, Tenant, Timestamp};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use crate::blobs::Blobs;
use crate::config::StoreConfig;
use crate::db::{self, Db, Look, Pool};
use crate::error::{CommitError, FindError, OpenError, StoreError, SubmitError};
use crate::model::{
    Accepted, BatchRecord, Cancel, CancelWish, CapacityRecord, Claimed, Commit, Delete, Filter, Idempotency,
    Key, Lapsed, Lease, NewKey, NewSubmission, OutputSlice, Page, QueueRecord, Record, RecordSummary,
    Renewed, Span, Storage, Tenure,
};
use crate::ops::client::{Count, Durability, Expire, Forget, InsertKey, PutCapacity, RequestCancel};
use crate::ops::commit::Write;
use crate::ops::lease::{Claim, Reclaim, Renew};
use crate::ops::submit::{Submit, existing};
use crate::read;
use crate::upkeep::{Files, Upkeep};
use crate::wake::Wake;
use crate::writer::{Writer, failed};

/// Cheap to clone. The store closes when the last clone goes, or at [`Store::close`].
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: StoreConfig,
    files: Files,
    blobs: Blobs,
    writer: std::sync::Mutex<Option<Writer>>,
    writing: Mutex<Option<JoinHandle<()>>>,
    readers: Pool,
    wake: Wake,
    /// This opening's number: leases of earlier ones are a predecessor's.
    epoch: u64,
}

impl Store {
    /// Makes the directory and the database if they are not there, and brings the schema up to date.
    pub async fn open(config: StoreConfig) -> Result<Self, OpenError> {
        let path = db::file(&config.dir);
        prepare(&config.dir, &path)
            .map_err(|source| OpenError::Directory { path: config.dir.clone(), source })?;
        let connect = |source| OpenError::Connect { path: path.clone(), source };
        let mut connection = db::connect_writer(&path).await.map_err(connect)?;
        crate::migrate::migrate(&mut connection, &path).await?;
        let readers = db::connect_readers(&path, config.readers).await.map_err(connect)?;
        let blobs = Blobs::open(&config.blobs).await?;
        let files = Files::beside(&path, blobs.used());
        let wake = Wake::open(config.bus.as_ref())?;
        let upkeep = Upkeep::new(files.clone(), config.storage_bytes);
        let (writer, writing) = Writer::spawn(connection, wake.clone(), upkeep);
        let epoch = writer.run(Count("openings")).await?;
        let inner = Inner {
            config,
            files,
            blobs,
            writer: std::sync::Mutex::new(Some(writer)),
            writing: Mutex::new(Some(writing)),
            readers,
            wake,
            epoch,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Finishes what is being written and closes every connection. Later calls fail.
    pub async fn close(&self) {
        drop(self.inner.writer.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take());
        self.inner.readers.close().await;
        if let Some(writing) = self.inner.writing.lock().await.take() {
            // It ends by itself once nobody can hand it anything.
            let _ = writing.await;
        }
    }

    pub fn wake(&self) -> &Wake {
        &self.inner.wake
    }

    pub async fn insert_key(&self, key: &NewKey) -> Result<(), StoreError> {
        self.writer()?.run(InsertKey(key.clone())).await
    }

    /// `hash` is the token's, which is not kept.
    pub async fn find_key(&self, hash: &[u8; 32]) -> Result<Option<Key>, StoreError> {
        read::key(&mut *self.reader().await?, hash).await
    }

    pub async fn has_keys(&self) -> Result<bool, StoreError> {
        read::has_keys(&mut *self.reader().await?).await
    }

    /// Accepts all of it or nothing; durable when it returns.
    pub async fn submit(
        &self,
        tenant: &Tenant,
        now: Timestamp,
        submission: NewSubmission,
    ) -> Result<Accepted, SubmitError> {
        let config = self.inner.config.clone();
        self.writer()?.run(Submit { tenant: tenant.clone(), now, submission, config }).await
    }

    /// What an idempotency key stands for already: what was accepted stays accepted, though it would
    /// be refused today.
    pub async fn find_submission(
        &self,
        tenant: &Tenant,
        idempotency: &Idempotency,
    ) -> Result<Option<Accepted>, SubmitError> {
        let mut look = self.look().await?;
        existing(&mut look, tenant, idempotency).await
    }

    /// Begins the next attempt of up to `limit` evaluations that are queued and due.
    pub async fn claim(&self, tenure: &Tenure, limit: u32) -> Result<Vec<Claimed>, StoreError> {
        let epoch = self.inner.epoch;
        self.writer()?.run(Claim { tenure: tenure.clone(), limit, epoch }).await
    }

    /// Takes leases over that lapsed: for the same attempt, with a higher token, without an event.
    pub async fn reclaim(
        &self,
        tenure: &Tenure,
        limit: u32,
        which: Lapsed,
    ) -> Result<Vec<Claimed>, StoreError> {
        let epoch = self.inner.epoch;
        self.writer()?.run(Reclaim { tenure: tenure.clone(), limit, which, epoch }).await
    }

    /// One answer for each lease, in their order.
    pub async fn renew(
        &self,
        leases: &[Lease],
        now: Timestamp,
        ttl: Duration,
    ) -> Result<Vec<Renewed>, StoreError> {
        self.writer()?.run(Renew { leases: leases.to_vec(), now, ttl }).await
    }

    /// Writes what the lease's holder found out: all of it, or none.
    pub async fn commit(&self, lease: &Lease, commit: Commit) -> Result<(), CommitError> {
        let storage_bytes = self.inner.config.storage_bytes;
        self.writer()?.run(Write { lease: lease.clone(), commit, storage_bytes }).await
    }

    /// Stores the wish. One that is queued ends at once, with the wish's result.
    pub async fn request_cancel(
        &self,
        tenant: &Tenant,
        id: EvaluationId,
        wish: CancelWish,
    ) -> Result<Cancel, FindError> {
        self.writer()?.run(RequestCancel { tenant: tenant.clone(), id, wish }).await
    }

    pub async fn delete(&self, tenant: &Tenant, id: EvaluationId) -> Result<Delete, FindError> {
        self.writer()?.run(Forget { tenant: tenant.clone(), id }).await
    }

    pub async fn get(&self, tenant: &Tenant, id: EvaluationId) -> Result<Record, FindError> {
        let mut look = self.look().await?;
        read::record(&mut look, tenant, id).await
    }

    pub async fn list(
        &self,
        tenant: &Tenant,
        filter: &Filter,
        cursor: Option<EvaluationId>,
        limit: u32,
    ) -> Result<Page<RecordSummary>, StoreError> {
        read::list(&mut *self.reader().await?, tenant, filter, cursor, limit).await
    }

    pub async fn events(
        &self,
        tenant: &Tenant,
        id: EvaluationId,
        after: u64,
        limit: u32,
    ) -> Result<Vec<Event>, FindError> {
        read::events(&mut *self.reader().await?, tenant, id, after, limit).await
    }

    /// A part of one stream.
    pub async fn output(
        &self,
        tenant: &Tenant,
        id: EvaluationId,
        span: Span,
    ) -> Result<OutputSlice, FindError> {
        let mut look = self.look().await?;
        let (mut slice, blob) = read::output(&mut look, tenant, id, span).await?;
        // Nothing is held of the database while another store is asked.
        drop(look);
        let Some(blob) = blob else { return Ok(slice) };
        let end = span.offset.saturating_add(span.max as u64);
        match self.inner.blobs.read(&blob, span.offset..end).await {
            Ok(bytes) => slice.bytes = bytes.into(),
            Err(error) => {
                // Deleted between the two looks, perhaps.
                read::exists(&mut *self.reader().await?, tenant, id).await?;
                return Err(StoreError::from(error).into());
            }
        }
        Ok(slice)
    }

    pub async fn batch(&self, tenant: &Tenant, id: BatchId) -> Result<BatchRecord, FindError> {
        let mut look = self.look().await?;
        read::batch(&mut look, tenant, id).await
    }

    pub async fn queue(&self, tenant: &Tenant) -> Result<QueueRecord, StoreError> {
        let mut look = self.look().await?;
        read::queue(&mut look, tenant).await
    }

    /// Gives up on up to `limit` that have been queued since `older_than`.
    pub async fn expire_queued(
        &self,
        older_than: Timestamp,
        now: Timestamp,
        limit: u32,
        result: &str,
    ) -> Result<u64, StoreError> {
        self.writer()?.run(Expire { older_than, now, limit, result: result.to_owned() }).await
    }

    pub async fn put_capacity(&self, version: u64, at: Timestamp, document: &str) -> Result<(), StoreError> {
        self.writer()?.run(PutCapacity { version, at, document: document.to_owned() }).await
    }

    pub async fn capacity(&self) -> Result<Option<CapacityRecord>, StoreError> {
        read::capacity(&mut *self.reader().await?).await
    }

    pub async fn storage(&self) -> Result<Storage, StoreError> {
        let used_bytes = self.inner.files.used_bytes(&mut *self.reader().await?).await?;
        let StoreConfig { storage_bytes, storage_reserve_bytes, .. } = self.inner.config;
        Ok(Storage { used_bytes, limit_bytes: storage_bytes, reserve_bytes: storage_reserve_bytes })
    }

    /// Proves it by a real write.
    pub async fn check_writable(&self) -> Result<(), StoreError> {
        self.writer()?.run(Count("checks")).await.map(|_| ())
    }

    /// The journal's mode and the level of synchronisation, as the database itself reports them.
    pub async fn durability(&self) -> Result<(String, i64), StoreError> {
        self.writer()?.run(Durability).await
    }

    /// Where large things are kept.
    pub fn blobs(&self) -> &Blobs {
        &self.inner.blobs
    }

    pub(crate) fn writer(&self) -> Result<Writer, StoreError> {
        let writer = self.inner.writer.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        writer.clone().ok_or(StoreError::Closed)
    }

    pub(crate) async fn reader(&self) -> Result<sqlx::pool::PoolConnection<Db>, StoreError> {
        self.inner.readers.acquire().await.map_err(failed("waiting for a reader"))
    }

    /// Several statements that must see the same moment.
    pub(crate) async fn look(&self) -> Result<Look, StoreError> {
        self.inner.readers.begin().await.map_err(failed("beginning to read"))
    }
}

/// The directory for its owner alone; and made by us and private the file from which the engine's
/// other files take their mode, before the engine makes it with the umask's.
fn prepare(dir: &Path, file: &Path) -> io::Result<()> {
    const OTHERS: u32 = 0o077;
    if !dir.is_dir() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        // The engine flushes the directory that its files are in, and not the one above.
        if let Some(parent) = fs::canonicalize(dir)?.parent() {
            fs::File::open(parent)?.sync_all()?;
        }
    }
    if fs::metadata(dir)?.permissions().mode() & OTHERS != 0 {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
    }
    let opened = fs::OpenOptions::new().create(true).append(true).mode(0o600).open(file)?;
    opened.set_permissions(fs::Permissions::from_mode(0o600))
}
