//! What goes in and what comes out. Documents (`request`, `result`, `decision`, `lost`, the
//! capacity catalogue) are JSON text that the store keeps and never looks into.

mod lease;
mod record;
mod submission;

pub use lease::{
    Cancel, CancelIntent, CancelWish, Chunk, Claimed, Commit, Delete, Lapsed, Lease, Renewed, Tenure,
};
pub use record::{
    AttemptRecord, BatchRecord, CapacityRecord, Filter, OutputSlice, Page, QueueRecord, Record,
    RecordSummary, Span, Storage,
};
pub use submission::{Accepted, Idempotency, Key, NewEvaluation, NewKey, NewSubmission};
