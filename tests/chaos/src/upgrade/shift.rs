//! Which release's worker and dispatcher saw an evaluation to its end.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use crate::history::{LeaseTaken, Micros, Sighting, What};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Release {
    Previous,
    This,
}

impl Release {
    /// Of each role there are two members in a row, the previous release's first.
    pub(super) const fn of_member(index: usize) -> Self {
        if index.is_multiple_of(2) { Self::Previous } else { Self::This }
    }

    /// Members are called after their role, and numbered.
    pub(super) const fn number(self) -> u32 {
        match self {
            Self::Previous => 1,
            Self::This => 2,
        }
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Previous => "the previous release",
            Self::This => "this release",
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Pair {
    pub(super) worker: Release,
    pub(super) dispatcher: Release,
}

impl Pair {
    pub(super) const ALL: [Self; 4] = [
        Self { worker: Release::Previous, dispatcher: Release::Previous },
        Self { worker: Release::Previous, dispatcher: Release::This },
        Self { worker: Release::This, dispatcher: Release::Previous },
        Self { worker: Release::This, dispatcher: Release::This },
    ];
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short = |release| match release {
            Release::Previous => "previous",
            Release::This => "this",
        };
        write!(f, "{} worker, {} dispatcher", short(self.worker), short(self.dispatcher))
    }
}

/// How many ended since then, by who had them. Leases name their workers, and sightings are of members.
pub(super) fn ended_by(
    sightings: &[Sighting],
    leases: &[LeaseTaken],
    since: Micros,
) -> BTreeMap<Pair, usize> {
    let worker: HashMap<&str, &str> =
        leases.iter().map(|lease| (lease.evaluation.as_str(), lease.worker.as_str())).collect();
    let mut ended = BTreeMap::new();
    let fresh = |seen: &&Sighting| seen.what == What::Ended && seen.at >= since;
    for seen in sightings.iter().filter(fresh) {
        let Some(worker) = worker.get(seen.evaluation.as_str()).and_then(|holder| release_of(holder)) else {
            continue;
        };
        let pair = Pair { worker, dispatcher: Release::of_member(seen.member) };
        *ended.entry(pair).or_default() += 1;
    }
    ended
}

/// A worker signs leases with its name and its process.
fn release_of(holder: &str) -> Option<Release> {
    let releases = [Release::Previous, Release::This];
    releases.into_iter().find(|release| holder.starts_with(&format!("worker-worker{}-", release.number())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(evaluation: &str, worker: &str) -> LeaseTaken {
        let (evaluation, worker) = (evaluation.to_owned(), worker.to_owned());
        LeaseTaken { evaluation, at: 1, worker, token: 1, earlier: None }
    }

    #[test]
    fn an_end_counts_for_its_last_holder_and_its_place() {
        let seen = |at, member, what, evaluation: &str| Sighting {
            at,
            member,
            what,
            evaluation: evaluation.to_owned(),
            attempt: 1,
        };
        let sightings = [
            seen(5, 0, What::Ended, "ev_1"),
            seen(5, 1, What::Ended, "ev_2"),
            seen(4, 1, What::Ended, "ev_3"),
            seen(5, 1, What::Released, "ev_3"),
        ];
        let leases = [
            lease("ev_1", "worker-worker1-77"),
            lease("ev_1", "worker-worker2-78"),
            lease("ev_2", "worker-worker1-77"),
            lease("ev_3", "worker-worker1-77"),
        ];
        let ended = ended_by(&sightings, &leases, 5);
        let wanted = BTreeMap::from([(Pair::ALL[2], 1), (Pair::ALL[1], 1)]);
        assert_eq!(ended, wanted);
    }
}
