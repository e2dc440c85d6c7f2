//! What happened, in order: always as a hash, and as lines for whoever wants to read them.

use std::fmt;
use std::io::Write as _;

use hood_core::Timestamp;

/// FNV-1a, 64 bits: told apart is all that traces are to be.
const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0000_0100_0000_01b3;

#[derive(Clone, Debug)]
pub(crate) struct Trace {
    hash: u64,
    /// Where time begins, for the lines.
    start: Timestamp,
    printed: bool,
}

impl Trace {
    pub(crate) const fn new(start: Timestamp, printed: bool) -> Self {
        Self { hash: OFFSET, start, printed }
    }

    pub(super) const fn hash(&self) -> u64 {
        self.hash
    }

    /// Something too small for a line.
    pub(super) fn mix(&mut self, number: u64) {
        self.mix_bytes(&number.to_le_bytes());
    }

    pub(super) fn note(&mut self, now: Timestamp, text: fmt::Arguments<'_>) {
        let line = format!("{:>12.6} {text}", now.since(self.start).as_secs_f64());
        self.mix_bytes(line.as_bytes());
        if self.printed {
            // A reader that has gone wants no more of it.
            let _ = writeln!(std::io::stdout(), "{line}");
        }
    }

    fn mix_bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.hash = (self.hash ^ u64::from(*byte)).wrapping_mul(PRIME);
        }
    }
}
