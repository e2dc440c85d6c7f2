//! The link to the agent: the frames that a dispatcher and PID 1 of a place exchange.
//!
//! `docs/agent-protocol.md` describes the bytes. Every type here is plain data with a hand-written
//! encoding, because the agent is a small static binary and because the reading side faces bytes
//! that an attacker may have chosen: nothing in here can panic, hold more than a small multiple of
//! [`MAX_FRAME_BYTES`] for one frame, or accept a frame out of order.

mod codec;
mod conversation;
mod frames;
#[cfg(test)]
mod tests;

pub use codec::{Body, FrameError, FrameReader, encode};
pub use conversation::{Breach, Conversation};
pub use frames::{
    AgentFrame, Assignment, EarlyEnd, Ending, Exit, ForeignCall, HostFrame, KillCause, Lacking,
    OnOutputLimit, Stage, Stream, Streams, Usage,
};

/// The protocol that this build speaks. An agent also says the oldest that it still understands, so
/// that a dispatcher one version away can work with it.
pub const VERSION: u32 = 1;
/// The oldest protocol that this build still speaks.
pub const OLDEST_VERSION: u32 = 1;

/// Largest frame on the wire, header included. It must hold an [`Assignment`]: Linux bounds
/// arguments and environment by 128 KiB a string, and the API bounds their sum well below this.
pub const MAX_FRAME_BYTES: usize = 1024 * 1024;
/// Largest piece of a file, of stdin or of output in one frame: what a pipe holds by default, so
/// that one read of a full pipe is one frame.
pub const MAX_CHUNK_BYTES: usize = 64 * 1024;
