//! The agent's executable, built for musl by this crate's build script.

/// Static, and the same for every place.
pub const AGENT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/hood-agent"));
