//! Dispatch over a wire: [`Service`] is the dispatcher's side, [`Remote`] the worker's. Neither
//! knows what carries the calls ([`Transport`]) nor what makes time pass ([`World`]), so that the
//! same code runs over HTTPS and under a simulation that drops, repeats and delays.
//!
//! Every call may be made twice and may arrive late. What keeps that harmless: an attempt has one
//! place, a place obeys the highest token that was seen, an answer "gone" is a promise that nothing
//! late will be taken, and no program runs before its worker has acknowledged the first report,
//! which it does only after a write under its lease.

mod backoff;
mod book;
mod client;
mod convert;
mod merge;
mod peer;
mod service;
mod session;
mod stream;
mod transport;
mod world;

pub use backoff::Backoff;
pub use client::{PeerHealth, Remote};
pub use service::{Service, ServiceConfig};
pub use transport::{Answer, Call, Failure, Frames, Said, Transport};
pub use world::World;

use std::time::Duration;

/// A stream with nothing to say says so this often.
pub const ALIVE_EVERY: Duration = Duration::from_secs(3);

/// A stream that is silent for this long is taken for broken: three signs of life were missed.
pub const SILENT_AFTER: Duration = Duration::from_secs(10);

/// Calls that only look something up or pass something on.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a dispatcher holds the answer to an order back while the place is being made; an
/// environment may have to be built first.
pub const OPENING_HELD: Duration = Duration::from_secs(45);

/// How long the worker waits for that answer.
pub const OPENING_TIMEOUT: Duration = Duration::from_secs(60);
