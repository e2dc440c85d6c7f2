use std::fmt;
use std::time::Duration;

use hood_core::lifecycle::AnyEvaluation;
use hood_core::outcome::Stream;
use hood_core::{EvaluationId, Tenant, Timestamp, Transition};

/// The right to write about one attempt. Made only by the store; the token rises with each new
/// holder, so that an older holder's writes affect no row.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lease {
    pub tenant: Tenant,
    pub evaluation: EvaluationId,
    pub token: u64,
    pub attempt: u32,
    /// As of when it was granted; what `renew` adds is the holder's to remember.
    pub expires_at: Timestamp,
}

/// Somebody wants it to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CancelIntent {
    /// `None`: the evaluation's own grace.
    pub grace_ms: Option<u64>,
}

/// A leased evaluation and all that is needed to run it.
#[derive(Clone, Debug)]
pub struct Claimed {
    pub lease: Lease,
    pub evaluation: AnyEvaluation,
    /// What was asked for, unless there is an `input`.
    pub request: String,
    /// The blob that all that was asked for is to be read from.
    pub input: Option<String>,
    pub cancel: Option<CancelIntent>,
    pub created_at: Timestamp,
}

/// Which leases `reclaim` takes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lapsed {
    /// Those whose time is over.
    Expired,
    /// Those granted before this store was opened, whatever time they have left: for whoever knows
    /// by other means (the data directory's lock) that no earlier holder lives.
    All,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewed {
    Held { cancel: Option<CancelIntent> },
    Lost,
}

/// A piece of output at its place in the stream.
#[derive(Clone, PartialEq, Eq)]
pub struct Chunk {
    pub stream: Stream,
    pub offset: u64,
    pub bytes: Vec<u8>,
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Chunk({} {}+{})", self.stream.as_str(), self.offset, self.bytes.len())
    }
}

/// What a lease's holder writes in one transaction.
///
/// The same commit made twice is as good as made once: transitions that are in the log already,
/// word for word, are passed over, and so are stored bytes.
#[derive(Clone, Debug, Default)]
pub struct Commit {
    /// In order.
    pub transitions: Vec<Transition>,
    pub output: Vec<Chunk>,
    /// Why this attempt was placed where it was.
    pub decision: Option<String>,
    pub environment_digest: Option<String>,
    /// Why this attempt was lost.
    pub lost: Option<String>,
    /// With the terminal transition, and only with it.
    pub result: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cancel {
    /// It was queued and has ended.
    EndedNow,
    /// The intent is stored; the lease's holder will see it.
    Requested,
    AlreadyTerminal,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delete {
    Deleted,
    NotTerminal,
}

/// Who takes leases, when, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenure {
    pub worker: String,
    pub now: Timestamp,
    pub ttl: Duration,
}

impl Tenure {
    /// When what is taken now lapses.
    pub(crate) fn until(&self) -> Timestamp {
        self.now.after(self.ttl)
    }
}

/// A client's wish that an evaluation end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CancelWish {
    /// Between SIGTERM and the kill; the evaluation's own grace if `None`.
    pub grace_ms: Option<u64>,
    pub now: Timestamp,
    /// The result of one that is still queued.
    pub result_if_queued: String,
}
