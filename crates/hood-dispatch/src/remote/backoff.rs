use std::time::Duration;

use super::World;

/// The first pause after a failure: a broken connection is most often there again at once.
const FIRST: Duration = Duration::from_millis(50);

/// The longest: what comes back is found within it, and a thousand sessions that wait for it come
/// spread over it.
const CAP: Duration = Duration::from_secs(2);

/// Pauses that double up to a cap, each shortened by chance to between half of it and all.
#[derive(Clone, Copy, Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    pub fn succeeded(&mut self) {
        self.failures = 0;
    }

    pub fn next(&mut self, unit: f64) -> Duration {
        let pause = FIRST.saturating_mul(1 << self.failures.min(16)).min(CAP);
        self.failures = self.failures.saturating_add(1);
        pause.mul_f64(0.5 + unit.clamp(0.0, 1.0) / 2.0)
    }

    pub async fn pause(&mut self, world: &dyn World) {
        let pause = self.next(world.unit());
        world.sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_cap_and_chance_only_shortens_them() {
        let mut backoff = Backoff::default();
        let longest: Vec<Duration> = (0..40).map(|_| backoff.next(1.0)).collect();
        assert_eq!(longest[..3], [FIRST, FIRST * 2, FIRST * 4]);
        assert!(longest[39] == CAP && longest.is_sorted());
        assert_eq!(Backoff::default().next(0.0), FIRST / 2);
        backoff.succeeded();
        assert_eq!(backoff.next(1.0), FIRST);
    }
}
