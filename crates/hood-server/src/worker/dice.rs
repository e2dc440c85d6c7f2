//! Randomness as a capability.

use std::fmt;

pub trait Dice: Send + Sync + fmt::Debug {
    /// From 0 up to 1.
    fn unit(&self) -> f64;
}

/// The thread's generator.
#[derive(Clone, Copy, Debug, Default)]
pub struct ThreadDice;

impl Dice for ThreadDice {
    fn unit(&self) -> f64 {
        rand::random()
    }
}
