//! What the outside watches with its own clock and the kernel's counters: the same limits again,
//! whatever the agent says. Synchronous: told the time and a sample, it says what to do.

use std::time::{Duration, Instant};

use hood_core::Limits;
use hood_core::outcome::KillCause;
use hood_sandbox::Sample;

/// The outside kills this long after the agent should have.
const AGENT_SLACK: Duration = Duration::from_secs(1);

/// How long exec may take once the program was released.
const START_PATIENCE: Duration = Duration::from_secs(10);

/// Between two looks at the CPU time: often where little is left, seldom where much is.
const LOOK_SHORTEST: Duration = Duration::from_millis(10);
const LOOK_LONGEST: Duration = Duration::from_millis(500);

/// What the supervisor wants done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    Wait,
    /// Tell the agent to kill the program.
    OrderKill,
    /// Kill the program's group from outside; the agent stays to report.
    KillProgram,
    /// The agent does not answer either: kill the place.
    KillPlace,
}

#[derive(Debug)]
pub(super) struct Supervisor {
    limits: Limits,
    grace: Duration,
    cpus: u32,
    released: Option<Instant>,
    started: Option<Instant>,
    /// The first cause for which this side began to end the program.
    cause: Option<KillCause>,
    /// When the outside kills.
    kill_at: Option<Instant>,
    killed_at: Option<Instant>,
    next_look: Option<Instant>,
}

impl Supervisor {
    pub(super) fn new(limits: Limits, grace: Duration) -> Self {
        let cpus =
            std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX));
        Self {
            limits,
            grace,
            cpus,
            released: None,
            started: None,
            cause: None,
            kill_at: None,
            killed_at: None,
            next_look: None,
        }
    }

    pub(super) fn released(&mut self, now: Instant) {
        self.released = Some(now);
        self.kill_at = Some(now + START_PATIENCE);
        // What its starter still does before exec is in the program's group and counts as its own.
        self.next_look = Some(self.first_look(now));
    }

    pub(super) fn started(&mut self, now: Instant) {
        self.started = Some(now);
        let wall = now + Duration::from_millis(self.limits.wall_ms) + self.grace + AGENT_SLACK;
        // A cancel that came before the start keeps its earlier deadline.
        self.kill_at =
            Some(if self.cause.is_some() { self.kill_at.map_or(wall, |at| at.min(wall)) } else { wall });
        self.next_look = Some(self.first_look(now));
    }

    fn first_look(&self, now: Instant) -> Instant {
        now + (self.cpu_left(0) / self.cpus).clamp(LOOK_SHORTEST, LOOK_LONGEST)
    }

    /// A cancel was ordered; a shorter grace than the one running replaces it.
    pub(super) fn cancelled(&mut self, now: Instant, grace: Duration) {
        self.cause.get_or_insert(KillCause::Cancel);
        let at = now + grace + AGENT_SLACK;
        self.kill_at = Some(self.kill_at.map_or(at, |before| before.min(at)));
    }

    pub(super) const fn cause(&self) -> Option<KillCause> {
        self.cause
    }

    pub(super) const fn has_killed(&self) -> bool {
        self.killed_at.is_some()
    }

    pub(super) fn running_for(&self, now: Instant) -> Option<Duration> {
        self.started.map(|started| now.saturating_duration_since(started))
    }

    /// Since before the program's first instruction, and its starter's last ones.
    pub(super) fn released_for(&self, now: Instant) -> Option<Duration> {
        self.released.map(|released| now.saturating_duration_since(released))
    }

    pub(super) const fn was_released(&self) -> bool {
        self.released.is_some()
    }

    /// When to ask again.
    pub(super) fn next(&self) -> Option<Instant> {
        let kill = match self.killed_at {
            Some(at) => Some(at + AGENT_SLACK),
            None => self.kill_at,
        };
        [kill, self.next_look].into_iter().flatten().min()
    }

    /// `silent`: the agent's side was read to its end, so that its silence means something.
    pub(super) fn look(&mut self, now: Instant, sample: impl FnOnce() -> Sample, silent: bool) -> Act {
        if let Some(at) = self.killed_at {
            if now >= at + AGENT_SLACK {
                self.killed_at = Some(now);
                return if silent { Act::KillPlace } else { Act::Wait };
            }
        } else if self.kill_at.is_some_and(|at| now >= at) {
            self.cause.get_or_insert(KillCause::WallTime);
            self.killed_at = Some(now);
            self.next_look = None;
            return if self.started.is_some() { Act::KillProgram } else { Act::KillPlace };
        }
        if self.next_look.is_none_or(|at| now < at) {
            return Act::Wait;
        }
        let sample = sample();
        let Some(used_us) = sample.user_us.zip(sample.system_us).map(|(user, system)| user + system) else {
            self.next_look = None;
            return Act::Wait;
        };
        let left = self.cpu_left(used_us);
        if left.is_zero() {
            self.cause.get_or_insert(KillCause::CpuTime);
            self.next_look = None;
            let at = now + AGENT_SLACK;
            self.kill_at = Some(self.kill_at.map_or(at, |before| before.min(at)));
            return Act::OrderKill;
        }
        self.next_look = Some(now + (left / self.cpus).clamp(LOOK_SHORTEST, LOOK_LONGEST));
        Act::Wait
    }

    fn cpu_left(&self, used_us: u64) -> Duration {
        Duration::from_millis(self.limits.cpu_ms).saturating_sub(Duration::from_micros(used_us))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn supervisor() -> (Supervisor, Instant) {
        let limits = Limits { wall_ms: 1000, cpu_ms: 1000, ..Limits::DEFAULT };
        let now = Instant::now();
        let mut supervisor = Supervisor::new(limits, Duration::from_secs(2));
        supervisor.released(now);
        supervisor.started(now);
        (supervisor, now)
    }

    fn used(ms: u64) -> Sample {
        Sample { user_us: Some(ms * 1000), system_us: Some(0), ..Sample::default() }
    }

    #[test]
    fn the_outside_kills_one_second_after_the_agent_should_have() {
        let (mut supervisor, now) = supervisor();
        let deadline = now + Duration::from_secs(1 + 2 + 1);
        assert_eq!(supervisor.look(deadline - Duration::from_millis(1), || used(0), true), Act::Wait);
        assert_eq!(supervisor.look(deadline, || used(0), true), Act::KillProgram);
        assert_eq!(supervisor.cause(), Some(KillCause::WallTime));
        assert_eq!(
            supervisor.look(deadline + AGENT_SLACK, || used(0), false),
            Act::Wait,
            "its words wait unread"
        );
        assert_eq!(supervisor.look(deadline + 2 * AGENT_SLACK, || used(0), true), Act::KillPlace);
    }

    #[test]
    fn cpu_time_is_held_by_the_kernels_count() {
        let (mut supervisor, now) = supervisor();
        let look = now + LOOK_LONGEST;
        assert_eq!(supervisor.look(look, || used(999), true), Act::Wait);
        assert_eq!(supervisor.look(look + LOOK_LONGEST, || used(1000), true), Act::OrderKill);
        assert_eq!(supervisor.cause(), Some(KillCause::CpuTime));
        let later = look + LOOK_LONGEST + AGENT_SLACK;
        assert_eq!(supervisor.look(later, || used(1000), true), Act::KillProgram, "the agent did not");
    }

    #[test]
    fn the_first_cause_stands_and_a_shorter_grace_replaces_a_longer_one() {
        let (mut supervisor, now) = supervisor();
        supervisor.cancelled(now, Duration::from_secs(60));
        supervisor.cancelled(now, Duration::ZERO);
        assert_eq!(supervisor.look(now + AGENT_SLACK, || used(5000), true), Act::KillProgram);
        assert_eq!(supervisor.cause(), Some(KillCause::Cancel));
    }

    #[test]
    fn cpu_time_is_held_before_the_start_too() {
        let now = Instant::now();
        let limits = Limits { cpu_ms: 1000, ..Limits::DEFAULT };
        let mut supervisor = Supervisor::new(limits, Duration::ZERO);
        supervisor.released(now);
        let look = supervisor.next().unwrap();
        assert!(look <= now + LOOK_LONGEST);
        assert_eq!(supervisor.look(look, || used(1000), true), Act::OrderKill);
        assert_eq!(supervisor.cause(), Some(KillCause::CpuTime));
        assert_eq!(
            supervisor.look(look + AGENT_SLACK, || used(1000), true),
            Act::KillPlace,
            "the agent did not"
        );
    }

    #[test]
    fn one_that_never_starts_is_ended_too() {
        let now = Instant::now();
        let mut supervisor = Supervisor::new(Limits::DEFAULT, Duration::ZERO);
        supervisor.released(now);
        assert_eq!(supervisor.look(now + START_PATIENCE, || used(0), true), Act::KillPlace);
    }
}
