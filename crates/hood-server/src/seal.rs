//! How a server proves to a command of the same user that it is the one which announced itself in their
//! data directory, before the command sends it a key. One that was killed leaves its announcement behind,
//! and then anybody on the machine may take its port.

use std::fmt;

use serde::{Deserialize, Serialize};

const BYTES: usize = 32;

/// Drawn anew by each server, and told to whoever may read its data directory.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seal([u8; BYTES]);

impl Seal {
    pub fn draw() -> Self {
        Self(rand::random())
    }

    /// What nobody can answer who does not have it. It serves no other purpose, so that it can be asked
    /// for by anybody.
    pub fn prove(&self, challenge: &str) -> String {
        blake3::keyed_hash(&self.0, challenge.as_bytes()).to_hex().to_string()
    }
}

/// A question that was never asked before.
pub fn challenge() -> String {
    blake3::Hash::from_bytes(rand::random()).to_hex().to_string()
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seal(..)")
    }
}
