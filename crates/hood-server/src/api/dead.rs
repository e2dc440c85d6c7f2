//! What infrastructure failed, and another life for it.

pub(super) mod list;
pub(super) mod requeue;
