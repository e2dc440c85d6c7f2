//! The service itself: its version, its queue, its health, its metrics,
//! and the proof of who it is.

pub(crate) mod health;
pub(crate) mod metrics;
pub(crate) mod proof;
pub(crate) mod queue;
pub(crate) mod version;
