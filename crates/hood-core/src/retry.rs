//! When a lost attempt is tried again, and when it is not.

use std::time::Duration;

/// Why an attempt ended without the program's own end being known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// A place could not be made, or died before the program was released.
    Infrastructure,
    /// Our own process died before the program was released.
    OwnDeath,
    /// Place, agent or server died after the program's first instruction: the program may be why.
    Suspect,
}

impl Loss {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Infrastructure => "infrastructure",
            Self::OwnDeath => "own_death",
            Self::Suspect => "suspect",
        }
    }
}

/// Attempts lost so far, each kind against a bound of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    pub infrastructure: u32,
    pub own_death: u32,
    pub suspect: u32,
}

impl Losses {
    #[must_use]
    pub const fn and(mut self, loss: Loss) -> Self {
        match loss {
            Loss::Infrastructure => self.infrastructure += 1,
            Loss::OwnDeath => self.own_death += 1,
            Loss::Suspect => self.suspect += 1,
        }
        self
    }

    pub const fn total(self) -> u32 {
        self.infrastructure + self.own_death + self.suspect
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts that infrastructure may lose before the evaluation ends as an infrastructure error.
    pub infrastructure_attempts: u32,
    /// Attempts that deaths of our own process may lose.
    pub own_death_attempts: u32,
    /// Retries after a suspect loss.
    pub suspect_retries: u32,
    pub backoff_first: Duration,
    pub backoff_cap: Duration,
}

impl RetryPolicy {
    pub const DEFAULT: Self = Self {
        infrastructure_attempts: 5,
        own_death_attempts: 20,
        suspect_retries: 1,
        backoff_first: Duration::from_millis(100),
        backoff_cap: Duration::from_secs(30),
    };

    /// Whether another attempt is allowed after `losses`, the last of them included.
    pub const fn allows(&self, losses: Losses) -> bool {
        losses.infrastructure < self.infrastructure_attempts
            && losses.own_death < self.own_death_attempts
            && losses.suspect <= self.suspect_retries
    }

    /// The wait before the next attempt: doubled for each loss up to the cap, then spread over its
    /// upper half by `dice` (0 up to 1), so that what was lost together does not come back together.
    pub fn backoff(&self, losses: Losses, dice: f64) -> Duration {
        spread(self.doubled(losses.total()).min(self.backoff_cap), dice)
    }

    /// The wait before one is looked at again that no place could take, for the `times`-th time: doubled
    /// each time, and never more than a small part of what it has `waited` already. So it is taken soon
    /// after a place is there, and looked at seldom where none comes for a day.
    pub fn put_off(&self, times: u32, waited: Duration, dice: f64) -> Duration {
        let part = (waited / PUT_OFF_PART).max(self.backoff_first);
        spread(self.doubled(times).min(part), dice)
    }

    fn doubled(&self, times: u32) -> Duration {
        self.backoff_first.saturating_mul(1 << times.saturating_sub(1).min(31))
    }
}

/// Which part of the time that it has waited one is put off for.
const PUT_OFF_PART: u32 = 8;

#[expect(clippy::manual_clamp, reason = "`clamp` keeps a NaN, and a NaN is no duration")]
fn spread(full: Duration, dice: f64) -> Duration {
    full.mul_f64(0.5 + 0.5 * dice.max(0.0).min(1.0))
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self::DEFAULT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: RetryPolicy = RetryPolicy::DEFAULT;

    #[test]
    fn each_kind_has_its_own_bound() {
        let lost = |loss, times| (0..times).fold(Losses::default(), |losses, _| losses.and(loss));
        assert!(
            POLICY.allows(lost(Loss::Infrastructure, 4)) && !POLICY.allows(lost(Loss::Infrastructure, 5))
        );
        assert!(POLICY.allows(lost(Loss::OwnDeath, 19)) && !POLICY.allows(lost(Loss::OwnDeath, 20)));
        assert!(POLICY.allows(lost(Loss::Suspect, 1)) && !POLICY.allows(lost(Loss::Suspect, 2)));
    }

    #[test]
    fn backoff_doubles_is_capped_and_jittered() {
        let after = |n, dice| POLICY.backoff(Losses { own_death: n, ..Losses::default() }, dice);
        assert_eq!(after(1, 1.0), Duration::from_millis(100));
        assert_eq!(after(3, 1.0), Duration::from_millis(400));
        assert_eq!(after(3, 0.0), Duration::from_millis(200));
        assert_eq!(after(19, 1.0), POLICY.backoff_cap);
        assert!(after(u32::MAX, f64::NAN) <= POLICY.backoff_cap);
    }

    #[test]
    fn what_no_place_can_take_is_looked_at_soon_and_then_seldom() {
        let seconds = Duration::from_secs;
        assert_eq!(POLICY.put_off(1, seconds(36_000), 1.0), POLICY.backoff_first, "it may pass at once");
        assert_eq!(POLICY.put_off(40, seconds(80), 1.0), seconds(10));
        assert_eq!(POLICY.put_off(40, Duration::ZERO, 1.0), POLICY.backoff_first);
        let (mut waited, mut times) = (Duration::ZERO, 0);
        while waited < seconds(86_400) {
            times += 1;
            waited += POLICY.put_off(times, waited, 0.5);
        }
        assert!(times < 200, "{times} looks in a day");
    }
}
