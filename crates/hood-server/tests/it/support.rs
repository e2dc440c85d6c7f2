//! What the tests of this crate share.

pub(crate) mod answer;
pub(crate) mod app;
pub(crate) mod contract;
pub(crate) mod fake_worker;
pub(crate) mod server;
pub(crate) mod shell;
