//! Batches: many evaluations accepted at once, or none.

pub(crate) mod create;
pub(crate) mod get;
