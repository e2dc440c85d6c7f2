//! What can go wrong, by what the caller can do about it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use hood_core::EvaluationId;
use hood_core::outcome::Stream;

use crate::blobs::BlobError;
use crate::wake::BusError;

/// The store itself failed; the caller's request was well formed and may be tried again.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the store is closed")]
    Closed,
    #[error("the database failed while {doing}")]
    Database {
        doing: &'static str,
        /// Shared, since one failed commit is the answer to everybody in its group.
        #[source]
        source: Arc<sqlx::Error>,
    },
    /// It may have been written, and may not: who asks again must say the same.
    #[error("the database cannot be reached while {doing}")]
    Away {
        doing: &'static str,
        #[source]
        source: Arc<sqlx::Error>,
    },
    #[error("the database cannot be used as it is")]
    Unready(#[source] Arc<OpenError>),
    #[error("the database contradicts itself: {what}")]
    Corrupt { what: String },
    #[error("large data cannot be had")]
    Blob(#[from] BlobError),
    #[error("cannot measure {path}")]
    Measure {
        path: PathBuf,
        #[source]
        source: Arc<io::Error>,
    },
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("cannot prepare {path}")]
    Directory {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot open the database {at}")]
    Connect {
        at: String,
        #[source]
        source: sqlx::Error,
    },
    #[error(
        "{at} was written by fumehood {written_by} with schema {found}, which needs a fumehood that \
         knows at least schema {oldest_compatible}; this one knows {known}. Start fumehood {written_by} \
         or newer, or point this one at another database"
    )]
    TooNew { at: String, written_by: String, found: i64, oldest_compatible: i64, known: i64 },
    #[error(
        "migration {version} of {at} is not the one that this program carries: the database comes \
         from another line of development. Point this program at another database"
    )]
    MigrationChanged { at: String, version: i64 },
    #[error(
        "{at} has schema {found}, and this program needs {known}: run `fumehood migrate` as the owner of \
         the database"
    )]
    NotMigrated { at: String, found: i64, known: i64 },
    #[error("migration {version} ({name}) failed")]
    Migrate {
        version: i64,
        name: &'static str,
        #[source]
        source: sqlx::Error,
    },
    #[error("cannot open the blob store")]
    Blobs(#[from] BlobError),
    #[error("cannot use the bus")]
    Bus(#[from] BusError),
    #[error("cannot read what the store holds")]
    Read(#[from] StoreError),
}

#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// The same key came before with another body.
    #[error("the idempotency key was used before for a different submission")]
    IdempotencyConflict,
    #[error("the storage is full: {used_bytes} of {limit_bytes} bytes are used")]
    StorageFull {
        used_bytes: u64,
        /// What new submissions may use: `storage_bytes` less the reserve.
        limit_bytes: u64,
    },
    #[error("the queue is full: {queued} of {limit} evaluations wait")]
    QueueFull { queued: u64, limit: u64 },
    /// No evaluation in it, or several without a batch to hold them together.
    #[error("a submission is one evaluation, or a batch of one or more")]
    Malformed,
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// Token or attempt are not the row's: somebody else holds it, or nobody does any more.
    /// Nothing was written.
    #[error("the lease is not held any more")]
    StaleLease,
    /// A transition that does not follow from what is stored. Nothing was written.
    #[error("event {number} does not follow event {last_event} of {evaluation}")]
    OutOfOrder { evaluation: EvaluationId, number: u64, last_event: u64 },
    /// A chunk that begins after what is stored: bytes between are missing. Nothing was written.
    #[error("{} of {evaluation} goes on at {offset}, but only {stored} bytes are stored", stream.as_str())]
    OutputGap { evaluation: EvaluationId, stream: Stream, offset: u64, stored: u64 },
    /// A result without the terminal transition, or the other way round. Nothing was written.
    #[error("a result comes with the terminal transition of {evaluation}, and only with it")]
    Unpaired { evaluation: EvaluationId },
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[derive(Debug, thiserror::Error)]
pub enum FindError {
    #[error("there is no such thing")]
    NotFound,
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<OpenError> for StoreError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Read(error) => error,
            error => Self::Unready(Arc::new(error)),
        }
    }
}

impl StoreError {
    /// The disk beneath the database is full: it works again once there is room.
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::Database { source, .. } => Self::is_full(source),
            Self::Blob(error) => error.is_disk_full(),
            _ => false,
        }
    }

    pub(crate) fn is_full(error: &sqlx::Error) -> bool {
        /// SQLITE_FULL, and PostgreSQL's disk_full.
        const FULL: [&str; 2] = ["13", "53100"];
        match error {
            sqlx::Error::Database(error) => error.code().is_some_and(|code| FULL.contains(&&*code)),
            sqlx::Error::Io(error) => error.kind() == io::ErrorKind::StorageFull,
            _ => false,
        }
    }

    /// Nothing is wrong but that the database is not there now, or that somebody else came first:
    /// the same, said again a little later, has every chance.
    pub fn is_away(&self) -> bool {
        match self {
            Self::Away { .. } => true,
            Self::Database { source, .. } => crate::db::postgres::is_clash(source),
            Self::Unready(error) => {
                matches!(**error, OpenError::NotMigrated { .. } | OpenError::Connect { .. })
            }
            Self::Closed | Self::Corrupt { .. } | Self::Measure { .. } | Self::Blob(_) => false,
        }
    }
}
