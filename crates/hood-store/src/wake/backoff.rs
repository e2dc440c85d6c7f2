use std::time::Duration;

/// A server that only restarts is back after this.
const FIRST: Duration = Duration::from_millis(50);

/// A server that is away is asked no more often, and is found again this soon after it is back.
const CAP: Duration = Duration::from_secs(1);

/// Growing pauses between attempts, each shortened by chance so that many who lost the same server
/// do not come back at the same moment.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next: FIRST }
    }
}

impl Backoff {
    pub(super) fn pause(&mut self) -> Duration {
        let whole = self.next;
        self.next = (whole * 2).min(CAP);
        whole.mul_f64(rand::random_range(0.5..1.0))
    }
}
