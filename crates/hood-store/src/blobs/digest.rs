//! What a blob must read as: the hash of each piece of it, so that a part can be checked without the
//! whole.

use std::ops::Range;

/// The part that has a hash of its own: what is read for the smallest range, and 32 bytes of record
/// for it.
pub(crate) const PIECE_BYTES: usize = 64 * 1024;

const HASH_BYTES: usize = blake3::OUT_LEN;

/// The hashes of a blob's pieces, one behind the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Digest(Vec<u8>);

impl Digest {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let mut hashing = Hashing::default();
        hashing.update(bytes);
        hashing.finish()
    }

    pub(crate) const fn from_stored(hashes: Vec<u8>) -> Self {
        Self(hashes)
    }

    pub(crate) fn as_stored(&self) -> &[u8] {
        &self.0
    }

    /// The whole pieces that hold `range` of a blob of `size` bytes.
    pub(crate) fn pieces_around(range: &Range<u64>, size: u64) -> Range<u64> {
        const PIECE: u64 = PIECE_BYTES as u64;
        range.start / PIECE * PIECE..range.end.div_ceil(PIECE).saturating_mul(PIECE).min(size)
    }

    /// Whether `bytes`, whole pieces from `from` on, are those that were hashed.
    pub(crate) fn fits(&self, from: u64, bytes: &[u8]) -> bool {
        let first = usize::try_from(from / PIECE_BYTES as u64).unwrap_or(usize::MAX);
        let hashes = self.0.chunks_exact(HASH_BYTES).skip(first);
        let pieces = bytes.chunks(PIECE_BYTES);
        hashes.len() >= pieces.len()
            && pieces.zip(hashes).all(|(piece, hash)| blake3::hash(piece).as_bytes() == hash)
    }
}

/// A digest of bytes as they come.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hashing {
    done: Vec<u8>,
    piece: blake3::Hasher,
    in_piece: usize,
}

impl Hashing {
    pub(crate) fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(PIECE_BYTES - self.in_piece));
            self.piece.update(now);
            self.in_piece += now.len();
            if self.in_piece == PIECE_BYTES {
                self.end_piece();
            }
            bytes = later;
        }
    }

    fn end_piece(&mut self) {
        self.done.extend_from_slice(self.piece.finalize().as_bytes());
        self.piece.reset();
        self.in_piece = 0;
    }

    pub(crate) fn finish(mut self) -> Digest {
        if self.in_piece > 0 {
            self.end_piece();
        }
        Digest(self.done)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pattern(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i.wrapping_mul(31) ^ (i >> 8)) as u8).collect()
    }

    #[test]
    fn one_changed_byte_is_seen_in_its_piece_and_in_no_other() {
        let mut bytes = pattern(3 * PIECE_BYTES + 5);
        let digest = Digest::of(&bytes);
        let piece = PIECE_BYTES;
        assert!(digest.fits(0, &bytes));
        bytes[piece + 1] ^= 1;
        assert!(!digest.fits(0, &bytes) && !digest.fits(piece as u64, &bytes[piece..2 * piece]));
        assert!(digest.fits(0, &bytes[..piece]) && digest.fits(2 * piece as u64, &bytes[2 * piece..]));
        assert!(
            !digest.fits(0, &[&bytes[..piece], &[0; 3 * PIECE_BYTES + 6]].concat()),
            "longer than it was"
        );
        assert!(!digest.fits(3 * piece as u64, &bytes[3 * piece..3 * piece + 4]), "shorter than it was");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

        #[test]
        fn in_whatever_parts_it_comes(sizes in prop::collection::vec(0..400_000_usize, 0..6)) {
            let whole = pattern(sizes.iter().sum());
            let (mut hashing, mut at) = (Hashing::default(), 0);
            for size in sizes {
                hashing.update(&whole[at..at + size]);
                at += size;
            }
            prop_assert_eq!(hashing.finish(), Digest::of(&whole));
        }
    }
}
