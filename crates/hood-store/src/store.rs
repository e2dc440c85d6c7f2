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
use crate::db::{self, Connection, DatabaseUrl, Look, Reader, Readers};
use crate::error::{CommitError, FindError, OpenError, StoreError};
use crate::gate::Gate;
use crate::migrate;
use crate::model::{
    Backlog, BatchRecord, Cancel, CancelWish, CapacityRecord, Claimed, Commit, Delete, Delivery,
    DeliveryBacklog, DeliveryId, DeliveryRecord, DeliveryState, Filter, Key, Lapsed, Lease, Lives, NewKey,
    OutputSlice, Page, QueueRecord, Record, RecordSummary, Renewed, Settled, Span, Storage, Tenure,
};
use crate::ops::archive;
use crate::ops::client::{Count, Durability, Expire, Forget, InsertKey, PutCapacity, RequestCancel};
use crate::ops::commit::Write;
use crate::ops::deliver::{ClaimDeliveries, Redeliver, SettleDelivery};
use crate::ops::lease::{Claim, Reclaim, Renew};
use crate::read;
use crate::size::DatabaseSize;
use crate::upkeep::{Files, Upkeep};
use crate::wake::Wake;
use crate::writer::{Link, Server, Writer, failed};

/// Connections to a server that accept, and that write everything else.
const ACCEPTING: usize = 2;
const OTHERS: usize = 2;

/// Cheap to clone. The store closes when the last clone goes, or at [`Store::close`].
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: StoreConfig,
    place: Place,
    blobs: Blobs,
    writer: std::sync::Mutex<Option<Writer>>,
    writing: Mutex<Vec<JoinHandle<()>>>,
    readers: Readers,
    wake: Wake,
    /// This opening's number, where one at a time has the database: leases of earlier ones are a
    /// predecessor's.
    epoch: u64,
}

/// Where it is, for what only that engine can tell.
#[derive(Debug)]
enum Place {
    File(Files),
    Server(Arc<Server>),
}

impl Store {
    /// Makes what is not there, if that is its duty, and brings the schema up to date. A server that
    /// is away is no failure: whoever asks for something is told so until it comes.
    pub async fn open(config: StoreConfig) -> Result<Self, OpenError> {
        match config.url.clone() {
            None => Self::open_file(config).await,
            Some(url) => Self::open_server(config, url).await,
        }
    }

    async fn open_file(config: StoreConfig) -> Result<Self, OpenError> {
        let path = db::sqlite::file(&config.dir);
        prepare(&config.dir, &path)
            .map_err(|source| OpenError::Directory { path: config.dir.clone(), source })?;
        let at = path.display().to_string();
        let connect = |source| OpenError::Connect { at: at.clone(), source };
        let mut connection = db::sqlite::connect_writer(&path).await.map_err(connect)?;
        migrate::ensure(&mut Connection::Sqlite(&mut connection), &at, config.duty).await?;
        let readers = db::sqlite::connect_readers(&path, config.readers).await.map_err(connect)?;
        let blobs = Blobs::open(&config.blobs).await?;
        let files = Files::beside(&path, blobs.used());
        let wake = Wake::open(config.bus.as_ref())?;
        let upkeep = Upkeep::new(files.clone(), config.storage_bytes);
        let writer = Writer::spawn(vec![Link::to_file(connection, upkeep)], 0, &wake);
        let epoch = writer.0.run(Count("openings")).await?;
        let place = Place::File(files);
        Ok(Self::of(config, (place, blobs, Readers::Sqlite(readers)), writer, (wake, epoch)))
    }

    async fn open_server(config: StoreConfig, url: DatabaseUrl) -> Result<Self, OpenError> {
        let connect = |source| OpenError::Connect { at: url.to_string(), source };
        let readers = db::postgres::readers(&url, config.readers).map_err(connect)?;
        let blobs = Blobs::open(&config.blobs).await?;
        let bounds = (DatabaseSize::new(blobs.used()), Gate::new(config.queue_max));
        let server = Arc::new(Server::new(url.clone(), config.duty, bounds));
        let mut links: Vec<Link> = (0..ACCEPTING + OTHERS).map(|_| Link::to_server(&server)).collect();
        match links[0].connect().await {
            Err(StoreError::Unready(error)) if !StoreError::Unready(Arc::clone(&error)).is_away() => {
                return Err(OpenError::Read(StoreError::Unready(error)));
            }
            // It is away, or its owner has still to migrate it: that is said, and it is tried again.
            Ok(()) | Err(_) => {}
        }
        let wake = Wake::open(config.bus.as_ref())?;
        let writer = Writer::spawn(links, ACCEPTING, &wake);
        let place = Place::Server(server);
        Ok(Self::of(config, (place, blobs, Readers::Postgres(readers)), writer, (wake, 0)))
    }

    fn of(
        config: StoreConfig,
        (place, blobs, readers): (Place, Blobs, Readers),
        (writer, writing): (Writer, Vec<JoinHandle<()>>),
        (wake, epoch): (Wake, u64),
    ) -> Self {
        let (writer, writing) = (std::sync::Mutex::new(Some(writer)), Mutex::new(writing));
        Self { inner: Arc::new(Inner { config, place, blobs, writer, writing, readers, wake, epoch }) }
    }

    /// Finishes what is being written and closes every connection. Later calls fail.
    pub async fn close(&self) {
        drop(self.inner.writer.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take());
        self.inner.readers.close().await;
        for writing in self.inner.writing.lock().await.drain(..) {
            // It ends by itself once nobody can hand it anything.
            let _ = writing.await;
        }
    }

    /// Whether other processes may write to it at the same time.
    pub fn is_shared(&self) -> bool {
        matches!(self.inner.place, Place::Server(_))
    }

    pub fn wake(&self) -> &Wake {
        &self.inner.wake
    }

    pub async fn insert_key(&self, key: &NewKey) -> Result<(), StoreError> {
        self.writer()?.run(InsertKey(key.clone())).await
    }

    /// `hash` is the token's, which is not kept.
    pub async fn find_key(&self, hash: &[u8; 32]) -> Result<Option<Key>, StoreError> {
        read::key(&mut self.reader().await?.connection(), hash).await
    }

    pub async fn has_keys(&self) -> Result<bool, StoreError> {
        read::has_keys(&mut self.reader().await?.connection()).await
    }

    pub async fn lives(&self, tenant: &Tenant, id: EvaluationId) -> Result<Lives, StoreError> {
        read::lives(&mut self.reader().await?.connection(), tenant, id).await
    }

    /// Takes deliveries that are due, for as long as the tenure lasts.
    pub async fn claim_deliveries(&self, tenure: &Tenure, limit: u32) -> Result<Vec<Delivery>, StoreError> {
        self.writer()?.run(ClaimDeliveries { tenure: tenure.clone(), limit }).await
    }

    /// False where the claim was over and somebody else has it.
    pub async fn settle_delivery(&self, of: &Delivery, settled: Settled) -> Result<bool, StoreError> {
        self.writer()?.run(SettleDelivery { id: of.id.clone(), token: of.token, settled }).await
    }

    /// Tells it once more, with as many tries as in the beginning.
    pub async fn redeliver(&self, id: &DeliveryId, now: Timestamp) -> Result<(), FindError> {
        self.writer()?.run(Redeliver { id: id.clone(), now }).await
    }

    /// Newest first; `of` is one evaluation, and where the page begins. Those of what is archived are in
    /// no list but that of their evaluation.
    pub async fn deliveries(
        &self,
        tenant: &Tenant,
        states: &[DeliveryState],
        of: (Option<EvaluationId>, Option<EvaluationId>),
        limit: u32,
    ) -> Result<Page<DeliveryRecord>, StoreError> {
        let mut reader = self.reader().await?;
        let mut page = read::deliveries(&mut reader.connection(), tenant, states, of, limit).await?;
        drop(reader);
        if let (Some(id), None, true) = (of.0, of.1, page.items.is_empty()) {
            page.items = self.archived_deliveries((tenant, id)).await?;
            page.items.retain(|one| states.is_empty() || states.contains(&one.state));
        }
        Ok(page)
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
        self.writer()?.run_together(Write { lease: lease.clone(), commit, storage_bytes }).await
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
        match read::record(&mut look.connection(), tenant, id).await {
            Err(FindError::NotFound) => {
                drop(look);
                self.archived_record(tenant, id).await
            }
            found => found,
        }
    }

    pub async fn list(
        &self,
        tenant: &Tenant,
        filter: &Filter,
        cursor: Option<EvaluationId>,
        limit: u32,
    ) -> Result<Page<RecordSummary>, StoreError> {
        read::list(&mut self.reader().await?.connection(), tenant, filter, cursor, limit).await
    }

    pub async fn events(
        &self,
        tenant: &Tenant,
        id: EvaluationId,
        after: u64,
        limit: u32,
    ) -> Result<Vec<Event>, FindError> {
        let mut reader = self.reader().await?;
        match read::events(&mut reader.connection(), tenant, id, after, limit).await {
            Err(FindError::NotFound) => {
                drop(reader);
                self.archived_events((tenant, id), after, limit).await
            }
            found => found,
        }
    }

    /// A part of one stream.
    pub async fn output(
        &self,
        tenant: &Tenant,
        id: EvaluationId,
        span: Span,
    ) -> Result<OutputSlice, FindError> {
        let mut look = self.look().await?;
        let (mut slice, blob) = match read::output(&mut look.connection(), tenant, id, span).await {
            Err(FindError::NotFound) => {
                drop(look);
                return self.archived_output(tenant, id, span).await;
            }
            found => found?,
        };
        // Nothing is held of the database while another store is asked.
        drop(look);
        let Some(blob) = blob else { return Ok(slice) };
        let end = span.offset.saturating_add(span.max as u64);
        match self.inner.blobs.read(&blob, span.offset..end).await {
            Ok(bytes) => slice.bytes = bytes.into(),
            Err(error) => {
                // Deleted between the two looks, perhaps.
                let mut reader = self.reader().await?;
                if !archive::is_archived(&mut reader.connection(), (tenant, id)).await? {
                    read::exists(&mut reader.connection(), tenant, id).await?;
                }
                return Err(StoreError::from(error).into());
            }
        }
        Ok(slice)
    }

    pub async fn batch(&self, tenant: &Tenant, id: BatchId) -> Result<BatchRecord, FindError> {
        let mut look = self.look().await?;
        read::batch(&mut look.connection(), tenant, id).await
    }

    pub async fn queue(&self, tenant: &Tenant) -> Result<QueueRecord, StoreError> {
        let mut look = self.look().await?;
        read::queue(&mut look.connection(), tenant).await
    }

    /// What waits and what runs, of everybody together.
    pub async fn backlog(&self) -> Result<Backlog, StoreError> {
        let mut look = self.look().await?;
        read::backlog(&mut look.connection()).await
    }

    /// What is still to be told, of everybody together.
    pub async fn delivery_backlog(&self) -> Result<DeliveryBacklog, StoreError> {
        read::delivery_backlog(&mut self.reader().await?.connection()).await
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
        read::capacity(&mut self.reader().await?.connection()).await
    }

    pub async fn storage(&self) -> Result<Storage, StoreError> {
        let mut reader = self.reader().await?;
        let used_bytes = match &self.inner.place {
            Place::File(files) => files.used_bytes(&mut reader.connection()).await?,
            Place::Server(server) => server.size.bytes(&mut reader.connection()).await?,
        };
        let StoreConfig { storage_bytes, storage_reserve_bytes, .. } = self.inner.config;
        Ok(Storage { used_bytes, limit_bytes: storage_bytes, reserve_bytes: storage_reserve_bytes })
    }

    /// Proves it by a real write.
    pub async fn check_writable(&self) -> Result<(), StoreError> {
        self.writer()?.run(Count("checks")).await.map(|_| ())
    }

    /// The settings that decide what a commit outlives, by name, as the database itself reports them
    /// on a connection that writes.
    pub async fn durability(&self) -> Result<Vec<(String, String)>, StoreError> {
        self.writer()?.run(Durability).await
    }

    /// Where large things are kept.
    pub fn blobs(&self) -> &Blobs {
        &self.inner.blobs
    }

    pub(crate) fn config(&self) -> &StoreConfig {
        &self.inner.config
    }

    pub(crate) fn writer(&self) -> Result<Writer, StoreError> {
        let writer = self.inner.writer.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        writer.clone().ok_or(StoreError::Closed)
    }

    pub(crate) async fn reader(&self) -> Result<Reader, StoreError> {
        self.inner.readers.acquire().await.map_err(failed("waiting for a reader"))
    }

    /// Several statements that must see the same moment.
    pub(crate) async fn look(&self) -> Result<Look, StoreError> {
        self.inner.readers.begin().await.map_err(failed("beginning to read"))
    }
}

/// The directory for its owner alone; and made by us and private the file from which the engine's
/// other files take their mode, before the engine makes it with the umask's.
pub(crate) fn prepare(dir: &Path, file: &Path) -> io::Result<()> {
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
