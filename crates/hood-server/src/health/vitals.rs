//! Figures that the worker of this process keeps up to date for `/health/detailed` and `/metrics`.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use hood_core::Timestamp;

/// Figures alone: nothing is decided by them, so no order between them is kept.
#[derive(Debug)]
pub struct Vitals {
    leases_held: AtomicU64,
    last_finished_us: AtomicI64,
}

/// Stands for "never".
const NEVER: i64 = i64::MIN;

impl Default for Vitals {
    fn default() -> Self {
        Self { leases_held: AtomicU64::new(0), last_finished_us: AtomicI64::new(NEVER) }
    }
}

impl Vitals {
    pub fn set_leases_held(&self, leases: u64) {
        self.leases_held.store(leases, Ordering::Relaxed);
    }

    pub fn leases_held(&self) -> u64 {
        self.leases_held.load(Ordering::Relaxed)
    }

    /// An evaluation ended with a verdict that is the program's.
    pub fn set_last_finished(&self, at: Timestamp) {
        self.last_finished_us.store(at.as_micros(), Ordering::Relaxed);
    }

    pub fn last_finished(&self) -> Option<Timestamp> {
        let micros = self.last_finished_us.load(Ordering::Relaxed);
        (micros != NEVER).then(|| Timestamp::from_micros(micros))
    }
}
