use std::collections::BTreeMap;

use hood_core::lifecycle::History;
use hood_core::outcome::Stream;
use hood_core::{BatchId, EvaluationId, State, Timestamp, Verdict};

use super::CancelIntent;

/// An evaluation as the store has it, without the documents that only one reader at a time wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordSummary {
    pub id: EvaluationId,
    pub state: State,
    pub verdict: Option<Verdict>,
    pub history: History,
    pub environment: String,
    pub environment_digest: Option<String>,
    pub priority: u8,
    pub labels: BTreeMap<String, String>,
    pub batch: Option<BatchId>,
    pub cancel_requested: Option<CancelIntent>,
    pub created_at: Timestamp,
    /// When the current attempt was leased.
    pub leased_at: Option<Timestamp>,
    /// When the current attempt's program was released.
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    /// While it waits for another attempt: no earlier than this.
    pub not_before: Option<Timestamp>,
    pub result: Option<String>,
    /// It has left the database, and is read from the archive.
    pub archived: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub summary: RecordSummary,
    /// What was asked for; of what was too large for the database, what is to be shown of it.
    pub request: String,
    /// Oldest first.
    pub attempts: Vec<AttemptRecord>,
}

/// So that a record is read like its summary.
impl std::ops::Deref for Record {
    type Target = RecordSummary;

    fn deref(&self) -> &RecordSummary {
        &self.summary
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptRecord {
    pub number: u32,
    pub leased_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
    pub lost: Option<String>,
    pub decision: Option<String>,
    /// The storage was full beyond its reserve: of this attempt's output only the beginning is kept.
    pub output_cut: bool,
}

/// Which evaluations a list shows; what is empty or `None` filters nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Any of these.
    pub states: Vec<State>,
    /// All of these.
    pub labels: Vec<(String, String)>,
    /// Created then or later.
    pub since: Option<Timestamp>,
    pub batch: Option<BatchId>,
    /// Those alone that infrastructure failed.
    pub dead: Option<Dead>,
}

/// Which of those that infrastructure failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dead {
    /// Those that were given no other life.
    Left,
    All,
}

/// A page of a list, and where the next one goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// `None` on the last page.
    pub next: Option<EvaluationId>,
}

#[derive(Clone, PartialEq, Eq)]
pub struct OutputSlice {
    /// The attempt that the bytes are of; 0 where none has begun.
    pub attempt: u32,
    pub bytes: Vec<u8>,
    /// Bytes stored of this stream in all.
    pub stored: u64,
    /// This attempt will write no more.
    pub ended: bool,
    /// See [`AttemptRecord::output_cut`].
    pub cut: bool,
}

impl std::fmt::Debug for OutputSlice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OutputSlice")
            .field("attempt", &self.attempt)
            .field("bytes", &self.bytes.len())
            .field("stored", &self.stored)
            .field("ended", &self.ended)
            .field("cut", &self.cut)
            .finish()
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchRecord {
    pub id: BatchId,
    pub created_at: Timestamp,
    /// States that none of it is in are left out.
    pub counts: Vec<(State, u64)>,
}

/// What waits and what runs, of everybody together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Evaluations that are not terminal, by state and priority.
    pub depth: Vec<(State, u8, u64)>,
    /// By priority: since when the one that waits the longest does, of those that could be taken.
    pub oldest: Vec<(u8, Timestamp)>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueRecord {
    /// Evaluations that have not ended, by state and priority; none is left out, zero is.
    pub depth: Vec<(State, u8, u64)>,
    /// The one that has waited longest in `queued`, and since when.
    pub oldest: Option<(EvaluationId, Timestamp)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CapacityRecord {
    pub version: u64,
    pub at: Timestamp,
    pub document: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Storage {
    /// Database and write-ahead log. Free pages inside the database do not count: they are used
    /// again before it grows.
    pub used_bytes: u64,
    pub limit_bytes: u64,
    pub reserve_bytes: u64,
}

/// What to read of an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub stream: Stream,
    /// `None`: the current attempt.
    pub attempt: Option<u32>,
    pub offset: u64,
    /// Bytes at most.
    pub max: usize,
}
