//! When a request is sent again, and how long before.

use std::time::Duration;

/// Whatever a server asks for, it is asked again after this long at the latest.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

/// For how long a client keeps trying. Every request of this client is safe to send again:
/// submissions carry a key that makes the second one the same as the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    pub backoff_first: Duration,
    pub backoff_cap: Duration,
    /// For how long a server that cannot be reached is tried again.
    pub unreachable: Duration,
    /// For how long a server that answers 429 or 503 is asked again.
    pub busy: Duration,
}

impl Retry {
    /// For somebody who waits at a terminal.
    pub const BRIEF: Self = Self {
        backoff_first: Duration::from_millis(100),
        backoff_cap: Duration::from_secs(5),
        unreachable: Duration::from_secs(2),
        busy: Duration::from_secs(60),
    };

    /// For work that was begun and would be lost: a server may restart meanwhile, or be full for
    /// as long as it takes to work off what it has.
    pub const PATIENT: Self =
        Self { unreachable: Duration::from_secs(300), busy: Duration::from_secs(24 * 3600), ..Self::BRIEF };

    /// Each request is sent once.
    pub const NONE: Self = Self { unreachable: Duration::ZERO, busy: Duration::ZERO, ..Self::BRIEF };
}

/// A pause before a request is sent again, for whoever wants to show it.
#[derive(Clone, Debug)]
pub struct Pause {
    /// What the server or the network said.
    pub why: String,
    pub delay: Duration,
}

/// The pauses of one request, or of one stream since it last moved.
#[derive(Debug)]
pub(crate) struct Backoff {
    retry: Retry,
    failures: u32,
    waited: Duration,
}

/// Why a request did not succeed, as far as trying again is concerned.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Trouble {
    Unreachable,
    Busy { retry_after: Option<Duration> },
}

impl Backoff {
    pub(crate) const fn new(retry: Retry) -> Self {
        Self { retry, failures: 0, waited: Duration::ZERO }
    }

    /// How long to wait before the next try; `None` when the patience is over. `dice` (0 up to 1)
    /// spreads clients that failed together over the upper half of each pause.
    pub(crate) fn next(&mut self, trouble: Trouble, dice: f64) -> Option<Duration> {
        let doubled = self.retry.backoff_first.saturating_mul(1 << self.failures.min(16));
        let own = doubled.min(self.retry.backoff_cap).mul_f64(0.5 + 0.5 * dice.clamp(0.0, 1.0));
        let (patience, delay) = match trouble {
            Trouble::Unreachable => (self.retry.unreachable, own),
            Trouble::Busy { retry_after: None } => (self.retry.busy, own),
            // Never earlier than asked; the spread comes on top.
            Trouble::Busy { retry_after: Some(asked) } => {
                (self.retry.busy, asked.min(RETRY_AFTER_MAX) + own.mul_f64(0.5))
            }
        };
        if self.waited >= patience {
            return None;
        }
        self.failures += 1;
        self.waited += delay;
        Some(delay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_are_spread_and_end_with_the_patience() {
        let retry = Retry { unreachable: Duration::from_secs(1), ..Retry::BRIEF };
        let mut backoff = Backoff::new(retry);
        let delays: Vec<u128> = std::iter::from_fn(|| backoff.next(Trouble::Unreachable, 1.0))
            .map(|delay| delay.as_millis())
            .collect();
        assert_eq!(delays, [100, 200, 400, 800]);
        let low = Backoff::new(retry).next(Trouble::Unreachable, 0.0);
        assert_eq!(low, Some(Duration::from_millis(50)));
    }

    #[test]
    fn what_the_server_asks_for_is_obeyed_within_reason() {
        let ask = |seconds| {
            let trouble = Trouble::Busy { retry_after: Some(Duration::from_secs(seconds)) };
            Backoff::new(Retry::PATIENT).next(trouble, 0.0).expect("waits")
        };
        assert!(ask(7) >= Duration::from_secs(7) && ask(7) < Duration::from_secs(8));
        assert!(ask(u64::MAX) < RETRY_AFTER_MAX + Duration::from_secs(1));
    }

    #[test]
    fn no_patience_is_no_second_try() {
        let mut backoff = Backoff::new(Retry::NONE);
        assert_eq!(backoff.next(Trouble::Unreachable, 0.5), None);
        assert_eq!(backoff.next(Trouble::Busy { retry_after: None }, 0.5), None);
    }

    #[test]
    fn hours_of_failures_stay_capped() {
        let mut backoff = Backoff::new(Retry::PATIENT);
        for _ in 0..100 {
            let delay = backoff.next(Trouble::Busy { retry_after: None }, 1.0).expect("patient");
            assert!(delay <= Retry::PATIENT.backoff_cap);
        }
    }
}
