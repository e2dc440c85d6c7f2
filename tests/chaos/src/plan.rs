//! The plan of a run: which blow falls on whom, and when. The same seed gives the same plan.

use std::fmt;
use std::time::Duration;

use crate::dice::Dice;
use crate::fleet::LEASE;
use crate::history::{How, Victim};

/// The pause before a blow: from "the last one is hardly over" to "all is calm again".
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(3));
/// How long the dead stay dead.
const DEATHS: (Duration, Duration) = (Duration::from_millis(0), Duration::from_millis(2500));
/// How long the frozen stay frozen: well past their leases.
const FREEZES: (Duration, Duration) = (LEASE.saturating_mul(2), LEASE.saturating_mul(3));

/// What is waited for before a blow falls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Aim {
    /// Nothing.
    Blind,
    /// A place is being made.
    Provisioning,
    /// A program runs.
    Running,
    /// A program has ended, and that is not written yet.
    Ending,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Blow {
    pub(crate) pause: Duration,
    pub(crate) victim: Victim,
    pub(crate) how: How,
    pub(crate) aim: Aim,
    pub(crate) hold: Duration,
}

impl fmt::Display for Blow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pause, victim, how, aim, hold } = self;
        let (pause, hold) = (pause.as_millis(), hold.as_millis());
        write!(f, "after {pause:>4} ms: {how:?} {victim:?} for {hold} ms, aimed at {aim:?}")
    }
}

/// How much a plan holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measure {
    pub(crate) kills: usize,
    pub(crate) freezes: usize,
    pub(crate) partings: usize,
}

/// Every victim is killed and frozen equally often, as nearly as the numbers allow, and every pair
/// parted; the aims go round too. Order and times are left to chance.
pub(crate) fn make(seed: u64, victims: &[Victim], measure: Measure) -> Vec<Blow> {
    const AIMS: [Aim; 4] = [Aim::Provisioning, Aim::Running, Aim::Ending, Aim::Blind];
    let mut dice = Dice::of(seed, 0);
    let mut blows = Vec::new();
    let is_pair = |victim: &&Victim| matches!(victim, Victim::Pair(_));
    let (pairs, alive): (Vec<&Victim>, Vec<&Victim>) = victims.iter().partition(is_pair);
    for (how, among, count, lasts) in [
        (How::Kill, &alive, measure.kills, DEATHS),
        (How::Freeze, &alive, measure.freezes, FREEZES),
        (How::Part, &pairs, measure.partings, FREEZES),
    ] {
        for round in 0..count {
            let Some(victim) = among.get(round % among.len().max(1)) else { break };
            // Each victim meets each aim in turn.
            let aim = AIMS[(round / among.len() + round % among.len()) % AIMS.len()];
            let (pause, hold) = (dice.between(PAUSES.0, PAUSES.1), dice.between(lasts.0, lasts.1));
            blows.push(Blow { pause, victim: **victim, how, aim, hold });
        }
    }
    dice.shuffle(&mut blows);
    blows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_strikes_everybody_in_every_phase_and_can_be_had_again() {
        let living = [Victim::Member(0), Victim::Member(1), Victim::Database, Victim::Bus];
        let victims = [&living[..], &[Victim::Pair(0)]].concat();
        let measure = Measure { kills: 32, freezes: 8, partings: 2 };
        let plan = make(11, &victims, measure);
        let again: Vec<String> = make(11, &victims, measure).iter().map(Blow::to_string).collect();
        assert_eq!(plan.iter().map(Blow::to_string).collect::<Vec<_>>(), again);
        assert_eq!(plan.len(), 42);
        for victim in living {
            for aim in [Aim::Blind, Aim::Provisioning, Aim::Running, Aim::Ending] {
                let met = |blow: &&Blow| (blow.victim, blow.aim, blow.how) == (victim, aim, How::Kill);
                assert!(plan.iter().any(|blow| met(&blow)), "{victim:?} {aim:?}");
            }
        }
    }
}
