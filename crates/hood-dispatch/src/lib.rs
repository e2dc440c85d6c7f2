//! From a decision to a program that runs: the [`Dispatch`] trait, the link to the agent, and the
//! executors. This crate cannot see the store: whatever it knows, an assignment told it.

mod agent_binary;
pub mod catalogue;
mod dispatch;
pub mod environment;
pub mod local;
pub mod outbox;
pub mod remote;

pub use agent_binary::AGENT;
pub(crate) use agent_binary::UNPACKER;
pub use catalogue::Catalogue;
pub use dispatch::{
    AttemptKey, Conduct, Dispatch, DispatchError, Link, LinkEnd, Order, Report, ReportBody, link,
};
