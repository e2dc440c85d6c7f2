//! Where large things are kept, apart from the records: files of the data directory, or a bucket that
//! every role reaches. A blob is written once, under a name that is never used again, and then only
//! read or deleted; who refers to it, and whether anybody still does, is the database's to say.

mod config;
mod digest;
mod error;
mod files;
mod open;
mod writer;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use hood_core::Timestamp;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt as _};

pub use config::{BlobPlace, BlobsConfig, S3Config, S3Keys};
pub use error::BlobError;

pub use digest::Digest;
pub(crate) use error::failed;
pub(crate) use files::Files;
pub use writer::BlobWriter;

/// The object that proves that blobs can be written: each proof replaces the one before.
const PROBE: &str = "probe";

/// How long a proof may take: whoever asks for one does not wait out every retry, and wants to hear why
/// before its own time is over.
const PROBE_TIMEOUT: Duration = Duration::from_millis(1500);

/// A blob as the database knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    pub name: String,
    pub bytes: u64,
    pub digest: Digest,
}

/// An object that is there, whoever knows of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub name: String,
    pub bytes: u64,
    pub written_at: Timestamp,
}

/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct Blobs {
    store: Arc<dyn ObjectStore>,
    /// Where they are files of this machine, which `storage_bytes` bounds.
    files: Option<Arc<Files>>,
    used_bytes: Arc<AtomicU64>,
}

impl Blobs {
    /// Makes the directory if blobs are files and it is not there. Nothing is asked of a bucket: it
    /// may be away for now.
    pub async fn open(config: &BlobsConfig) -> Result<Self, BlobError> {
        let (store, files) = open::open(config).await?;
        let used = match &files {
            Some(files) => files.measure().await?,
            None => 0,
        };
        Ok(Self { store, files: files.map(Arc::new), used_bytes: Arc::new(AtomicU64::new(used)) })
    }

    /// Whether they take of this machine's disk.
    pub(crate) const fn are_files(&self) -> bool {
        self.files.is_some()
    }

    /// Bytes that blobs take of this machine's disk: none where they are in a bucket.
    pub fn used_bytes(&self) -> u64 {
        self.used_bytes.load(Ordering::Relaxed)
    }

    /// The same, as it changes.
    pub(crate) fn used(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.used_bytes)
    }

    pub fn write(&self, name: String) -> BlobWriter {
        BlobWriter::new(self.clone(), name)
    }

    /// Durable when it returns.
    pub async fn put(&self, name: String, bytes: Bytes) -> Result<Blob, BlobError> {
        let blob = Blob { name, bytes: bytes.len() as u64, digest: Digest::of(&bytes) };
        self.put_hashed(&blob, bytes).await?;
        Ok(blob)
    }

    /// The same for bytes that are known to be the blob's.
    pub(crate) async fn put_hashed(&self, blob: &Blob, bytes: Bytes) -> Result<(), BlobError> {
        let path = Path::from(blob.name.as_str());
        self.store.put(&path, bytes.into()).await.map_err(failed("writing", &blob.name))?;
        self.grown(blob.bytes);
        Ok(())
    }

    /// Bytes of `range`, as far as the blob reaches. They are those that were written, or it is an error.
    pub async fn read(&self, blob: &Blob, range: Range<u64>) -> Result<Bytes, BlobError> {
        let wanted = range.start.min(blob.bytes)..range.end.min(blob.bytes);
        if wanted.is_empty() {
            return Ok(Bytes::new());
        }
        let pieces = Digest::pieces_around(&wanted, blob.bytes);
        let path = Path::from(blob.name.as_str());
        let bytes =
            self.store.get_range(&path, pieces.clone()).await.map_err(failed("reading", &blob.name))?;
        if bytes.len() as u64 != pieces.end - pieces.start || !blob.digest.fits(pieces.start, &bytes) {
            return Err(BlobError::Damaged { name: blob.name.clone(), from: pieces.start, to: pieces.end });
        }
        let within = |at: u64| usize::try_from(at - pieces.start).unwrap_or(usize::MAX);
        Ok(bytes.slice(within(wanted.start)..within(wanted.end)))
    }

    /// One that is not there is as good as deleted.
    pub async fn delete(&self, name: &str) -> Result<(), BlobError> {
        let path = Path::from(name);
        let size = match &self.files {
            Some(_) => self.store.head(&path).await.map_or(0, |found| found.size),
            None => 0,
        };
        match self.store.delete(&path).await {
            Ok(()) => {
                self.shrunk(size);
                Ok(())
            }
            Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(failed("deleting", name)(error)),
        }
    }

    /// Everything that is there, in no order.
    pub fn list(&self) -> impl futures::Stream<Item = Result<Found, BlobError>> + Send + use<> {
        let listed = self.store.list(None).map_err(failed("listing", ""));
        listed
            .try_filter_map(async |meta| {
                let written_at = Timestamp::from_micros(meta.last_modified.timestamp_micros());
                let found = Found { name: meta.location.to_string(), bytes: meta.size, written_at };
                Ok((found.name != PROBE).then_some(found))
            })
            .boxed()
    }

    /// Removes what writers that died had not finished. True figures of what is used follow.
    pub async fn tidy(&self, older_than: Timestamp) -> Result<u64, BlobError> {
        let Some(files) = &self.files else { return Ok(0) };
        let (removed, bytes) = files.remove_unfinished(older_than).await?;
        self.shrunk(bytes);
        Ok(removed)
    }

    /// Proves that blobs can be written, by a real write.
    pub async fn check(&self) -> Result<(), BlobError> {
        let probe = Path::from(PROBE);
        let writing = self.store.put(&probe, Bytes::from_static(b"probe").into());
        match tokio::time::timeout(PROBE_TIMEOUT, writing).await {
            Ok(written) => written.map(drop).map_err(failed("writing", PROBE)),
            Err(_) => Err(BlobError::Slow { waited: PROBE_TIMEOUT }),
        }
    }

    fn grown(&self, bytes: u64) {
        if self.files.is_some() {
            self.used_bytes.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    fn shrunk(&self, bytes: u64) {
        if self.files.is_some() {
            let less = |used: u64| Some(used.saturating_sub(bytes));
            // The closure always has an answer.
            let _ = self.used_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        }
    }
}
