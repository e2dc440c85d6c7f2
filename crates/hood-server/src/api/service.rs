//! The service itself: its version, its queue, its health, its metrics.

pub(crate) mod health;
pub(crate) mod metrics;
pub(crate) mod queue;
pub(crate) mod version;
