//! What the simulated programs do: said in the code that is submitted, so that it goes the whole way
//! that code goes.

use std::fmt;

use hood_core::outcome::Stream;
use hood_dispatch::AttemptKey;

use crate::rng::Rng;

/// The longest piece that is printed at once.
const PIECE_BYTES_MAX: u64 = 200;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Script {
    /// Pieces of output, on stdout and stderr in turn.
    pub(crate) pieces: u32,
    pub(crate) piece_bytes: u64,
    /// Between two pieces at most.
    pub(crate) pause_ms: u64,
    pub(crate) exit: u8,
    /// It takes its place down with it, at the end.
    pub(crate) fatal: bool,
}

impl Script {
    pub(crate) fn random(rng: &mut Rng) -> Self {
        let small = |n: u64| u32::try_from(n).unwrap_or(0);
        Self {
            pieces: small(rng.below(7)),
            piece_bytes: rng.below(PIECE_BYTES_MAX) + 1,
            pause_ms: if rng.chance(100) { 20_000 } else { rng.below(300) },
            exit: if rng.chance(250) { 3 } else { 0 },
            fatal: rng.chance(30),
        }
    }

    pub(crate) fn parse(code: &str) -> Option<Self> {
        let mut words = code.split(' ');
        Some(Self {
            pieces: words.next()?.parse().ok()?,
            piece_bytes: words.next()?.parse().ok()?,
            pause_ms: words.next()?.parse().ok()?,
            exit: words.next()?.parse().ok()?,
            fatal: words.next()? == "fatal",
        })
    }

    /// The stream that a piece goes to, counted from 0.
    pub(crate) const fn stream(piece: u32) -> Stream {
        if piece.is_multiple_of(2) { Stream::Stdout } else { Stream::Stderr }
    }

    /// All that it prints on a stream if nobody ends it.
    pub(crate) fn total(&self, stream: Stream) -> u64 {
        (0..self.pieces).filter(|piece| Self::stream(*piece) == stream).count() as u64 * self.piece_bytes
    }
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = if self.fatal { "fatal" } else { "end" };
        write!(f, "{} {} {} {} {end}", self.pieces, self.piece_bytes, self.pause_ms, self.exit)
    }
}

/// What an attempt prints at a place of a stream: each another text, so that bytes of one attempt
/// are never taken for another's.
pub(crate) fn printed(key: AttemptKey, stream: Stream, from: u64, to: u64) -> Vec<u8> {
    let name = key.evaluation.as_uuid().as_u128();
    let folded = u64::try_from((name >> 64) ^ (name & u128::from(u64::MAX))).unwrap_or(u64::MAX);
    let salt = u64::from(key.attempt) * 2 + u64::from(stream == Stream::Stderr);
    let base = Rng::new(folded.wrapping_add(salt)).next();
    let byte = |at: u64| Rng::new(base ^ at).next().to_le_bytes()[0];
    (from..to).map(byte).collect()
}

#[cfg(test)]
mod tests {
    use hood_core::{EvaluationId, Timestamp};

    use super::*;

    #[test]
    fn a_script_survives_its_way_as_code() {
        let mut rng = Rng::new(1);
        for script in (0..100).map(|_| Script::random(&mut rng)) {
            assert_eq!(Script::parse(&script.to_string()), Some(script));
        }
        assert_eq!(Script::parse("print('hello')"), None);
    }

    #[test]
    fn every_attempt_prints_another_text_and_always_the_same() {
        let evaluation = EvaluationId::new(Timestamp::from_micros(5), [1; 10]);
        let of = |attempt| printed(AttemptKey { evaluation, attempt }, Stream::Stdout, 0, 64);
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
        let key = AttemptKey { evaluation, attempt: 1 };
        assert_ne!(of(1), printed(key, Stream::Stderr, 0, 64));
        assert_eq!(of(1)[10..20], printed(key, Stream::Stdout, 10, 20));
    }
}
