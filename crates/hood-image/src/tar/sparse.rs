//! Files with holes: where the stored bytes belong.

use ::tar::GnuSparseHeader;

use super::pax::number;

/// The most pieces in which a file may lie.
const PIECES_MAX: usize = 20_000;

/// Digits of the largest number.
const DIGITS_MAX: usize = 20;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Map {
    pieces: Vec<(u64, u64)>,
    size: u64,
}

impl Map {
    /// Pieces in order, apart, within the size, and as long together as what is stored.
    pub(super) fn new(pieces: Vec<(u64, u64)>, size: u64, stored: u64) -> Result<Self, String> {
        let (mut end, mut sum) = (0, 0_u64);
        for (offset, length) in &pieces {
            let next = offset.checked_add(*length).filter(|next| *offset >= end && *next <= size);
            end = next.ok_or("has a sparse map whose pieces overlap or lie outside of the file")?;
            sum += length;
        }
        if sum != stored {
            return Err("has a sparse map of another length than its data".to_owned());
        }
        Ok(Self { pieces, size })
    }

    pub(super) fn from_pax(numbers: &[u64], size: u64, stored: u64) -> Result<Self, String> {
        if !numbers.len().is_multiple_of(2) || numbers.len() / 2 > PIECES_MAX {
            return Err(format!("has a sparse map that is none, or of more than {PIECES_MAX} pieces"));
        }
        Self::new(numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect(), size, stored)
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn pieces(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.pieces.iter().copied()
    }
}

/// The pieces of one block of GNU tar's format.
pub(super) fn take_pieces(slots: &[GnuSparseHeader], pieces: &mut Vec<(u64, u64)>) -> Result<(), String> {
    for slot in slots.iter().filter(|slot| !slot.is_empty()) {
        let wrong = |_| "has a sparse map with what is no number".to_owned();
        pieces.push((slot.offset().map_err(wrong)?, slot.length().map_err(wrong)?));
    }
    if pieces.len() > PIECES_MAX {
        return Err(format!("has a sparse map of more than {PIECES_MAX} pieces"));
    }
    Ok(())
}

/// The map that leads a file's data: a count, then that many offsets and lengths, a line each.
#[derive(Debug, Default)]
pub(super) struct Lines {
    rest: Vec<u8>,
    count: Option<usize>,
    numbers: Vec<u64>,
}

impl Lines {
    pub(super) fn push(&mut self, block: &[u8]) {
        self.rest.extend_from_slice(block);
    }

    /// Whether the map is all there; what follows it in its block is padding.
    pub(super) fn complete(&mut self) -> Result<bool, String> {
        loop {
            if self.count.is_some_and(|count| self.numbers.len() == 2 * count) {
                return Ok(true);
            }
            let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') else {
                // A line that never ends must not be gathered.
                let too_long = self.rest.len() > DIGITS_MAX;
                return if too_long {
                    Err("has a sparse map with what is no number".to_owned())
                } else {
                    Ok(false)
                };
            };
            let value = number(&self.rest[..end])?;
            self.rest.drain(..=end);
            match self.count {
                None => {
                    let count = usize::try_from(value).ok().filter(|count| *count <= PIECES_MAX);
                    let wrong = || format!("has a sparse map of more than {PIECES_MAX} pieces");
                    self.count = Some(count.ok_or_else(wrong)?);
                }
                Some(_) => self.numbers.push(value),
            }
        }
    }

    pub(super) fn numbers(&self) -> &[u64] {
        &self.numbers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_fits_its_file_and_its_data() {
        assert!(Map::new(vec![(0, 2), (5, 3)], 8, 5).is_ok());
        for (pieces, size, stored) in [
            (vec![(0, 2), (1, 2)], 8, 4),
            (vec![(5, 3), (0, 2)], 8, 5),
            (vec![(6, 3)], 8, 3),
            (vec![(u64::MAX, 2)], u64::MAX, 2),
            (vec![(0, 2)], 8, 3),
        ] {
            assert!(Map::new(pieces.clone(), size, stored).is_err(), "{pieces:?}");
        }
        assert!(Map::from_pax(&[1], 8, 0).is_err());
    }
}
