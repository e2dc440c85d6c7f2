//! Chance from a seed. Our own few lines (SplitMix64), so that a seed means the same for as long as
//! this file does, whatever becomes of anybody's crate.

use std::time::Duration;

#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// From 0 up to `n`, which it never is; 0 where `n` is.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        let high = (u128::from(self.next()) * u128::from(n)) >> 64;
        u64::try_from(high).unwrap_or(0)
    }

    pub(crate) fn chance(&mut self, per_mille: u32) -> bool {
        self.below(1000) < u64::from(per_mille)
    }

    /// From 0 up to 1.
    pub(crate) fn unit(&mut self) -> f64 {
        // The 53 bits that such a number holds.
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Mostly much less than `most`, now and then about as much: as delays are.
    pub(crate) fn delay(&mut self, most: Duration) -> Duration {
        let unit = self.unit();
        most.mul_f64(unit * unit * unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_says_what_comes_and_bounds_hold() {
        let (mut one, mut same, mut other) = (Rng::new(7), Rng::new(7), Rng::new(8));
        let drawn: Vec<u64> = (0..100).map(|_| one.next()).collect();
        assert!(drawn.iter().all(|number| *number == same.next()));
        assert!(drawn.iter().any(|number| *number != other.next()));
        assert!((0..1000).all(|_| one.below(3) < 3 && one.unit() < 1.0));
        assert_eq!(one.below(0), 0);
        assert!((0..100).all(|_| !one.chance(0) && one.chance(1000)));
    }
}
