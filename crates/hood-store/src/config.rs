//! Where the store lives and how much it may hold.

use std::path::PathBuf;

use crate::blobs::BlobsConfig;
use crate::db::DatabaseUrl;
use crate::migrate::Duty;
use crate::wake::BusConfig;

const MIB: u64 = 1024 * 1024;

/// Database, write-ahead log and outputs together.
pub const STORAGE_BYTES_DEFAULT: u64 = 8 * 1024 * MIB;
/// Kept back from new submissions so that what was accepted can be finished: room for the results
/// and a share of the outputs of some thousands of evaluations.
pub const STORAGE_RESERVE_BYTES_DEFAULT: u64 = 512 * MIB;
/// Evaluations waiting in the queue, a million: more than a machine works off in a day.
pub const QUEUE_MAX_DEFAULT: u64 = 1_000_000;
/// The directory of blobs, within the store's own.
pub const BLOBS_DIR: &str = "blobs";
/// Connections that only read. Each is a thread; reads are short.
pub const READERS_DEFAULT: u32 = 4;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreConfig {
    /// The store's own directory; made with mode 0700 if it is not there.
    pub dir: PathBuf,
    /// Bound of database, write-ahead log, outputs and those blobs that are files of this machine.
    pub storage_bytes: u64,
    /// The part of `storage_bytes` that new submissions may not use.
    pub storage_reserve_bytes: u64,
    /// Bound of evaluations in state `queued`.
    pub queue_max: u64,
    pub readers: u32,
    pub blobs: BlobsConfig,
    /// How other processes on the same database are woken; `None` where there are none.
    pub bus: Option<BusConfig>,
    /// `None` is SQLite, in `dir`; otherwise `dir` is not used.
    pub url: Option<DatabaseUrl>,
    pub duty: Duty,
}

impl StoreConfig {
    /// The defaults, in `dir`.
    pub fn at(dir: PathBuf) -> Self {
        Self {
            blobs: BlobsConfig::files(dir.join(BLOBS_DIR)),
            dir,
            storage_bytes: STORAGE_BYTES_DEFAULT,
            storage_reserve_bytes: STORAGE_RESERVE_BYTES_DEFAULT,
            queue_max: QUEUE_MAX_DEFAULT,
            readers: READERS_DEFAULT,
            bus: None,
            url: None,
            duty: Duty::Migrate,
        }
    }
}
