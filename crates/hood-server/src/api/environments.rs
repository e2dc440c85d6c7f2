//! Environments: what code can run in, as the worker last reported it.

pub(crate) mod get;
pub(crate) mod list;
