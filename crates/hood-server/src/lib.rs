//! The binary `fumehood`: every role, and the command line.

pub mod api;
pub mod cli;
pub mod clock;
pub mod config;
pub mod dispatcher;
pub mod document;
pub(crate) mod figures;
pub mod health;
pub mod link;
pub mod notifier;
pub mod roles;
pub mod seal;
pub mod telemetry;
pub mod tls;
mod unpacker;
pub mod webhook;
pub mod worker;
