//! What goes in and what comes out. Documents (`request`, `result`, `decision`, `lost`, the
//! capacity catalogue) are JSON text that the store keeps and never looks into.

mod delivery;
mod lease;
mod record;
mod submission;

pub use delivery::{Delivery, DeliveryBacklog, DeliveryId, DeliveryRecord, DeliveryState, Settled};
pub use lease::{
    Cancel, CancelIntent, CancelWish, Chunk, Claimed, Commit, Delete, Lapsed, Lease, Renewed, Tenure,
};
pub use record::{
    AttemptRecord, Backlog, BatchRecord, CapacityRecord, Dead, Filter, OutputSlice, Page, QueueRecord,
    Record, RecordSummary, Span, Storage,
};
pub use submission::{Accepted, Idempotency, Key, Lives, NewEvaluation, NewKey, NewSubmission, Requeued};
