//! All SQL: accepting, leasing, committing, reading. Documents go in and come out as text; times,
//! ids and randomness come from the caller. Few tasks write, in transactions shared by all who
//! write at that moment; several connections read. Beneath is SQLite, or PostgreSQL.

mod archive;
mod blobs;
mod config;
mod db;
mod error;
mod gate;
mod inputs;
mod keeping;
#[cfg(feature = "memory")]
pub mod memory;
mod migrate;
mod model;
mod ops;
mod read;
mod rows;
mod size;
mod store;
#[cfg(test)]
mod testing;
pub mod transfer;
mod upkeep;
mod wake;
mod writer;

pub use archive::Retention;
pub use blobs::{
    Blob, BlobError, BlobPlace, BlobWriter, Blobs, BlobsConfig, Digest, Found, S3Config, S3Keys,
};
pub use config::{
    BLOBS_DIR, QUEUE_MAX_DEFAULT, READERS_DEFAULT, STORAGE_BYTES_DEFAULT, STORAGE_RESERVE_BYTES_DEFAULT,
    StoreConfig,
};
pub use db::{DatabaseUrl, UrlError};
pub use error::{CommitError, FindError, OpenError, StoreError, SubmitError};
pub use keeping::{ORPHAN_AGE, WRITING_MAX};
pub use migrate::{Duty, Migrated, Step, migrate, pending_on};
pub use model::{
    Accepted, AttemptRecord, Backlog, BatchRecord, Cancel, CancelIntent, CancelWish, CapacityRecord, Chunk,
    Claimed, Commit, Dead, Delete, Delivery, DeliveryBacklog, DeliveryId, DeliveryRecord, DeliveryState,
    Filter, Idempotency, Key, Lapsed, Lease, Lives, NewEvaluation, NewKey, NewSubmission, OutputSlice, Page,
    QueueRecord, Record, RecordSummary, Renewed, Requeued, Settled, Span, Storage, Tenure,
};
pub use store::Store;
pub use wake::{BusConfig, BusError, BusSide, Cancels, Mishaps, Reach, Subscription, Wake};
