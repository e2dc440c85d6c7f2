//! Executables that this crate's build script builds for musl. Static, and run from memory.

/// PID 1 of every place, and the launcher of places.
pub const AGENT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/hood-agent"));

/// Reads archives, confined.
pub(crate) const UNPACKER: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/hood-unpack"));
