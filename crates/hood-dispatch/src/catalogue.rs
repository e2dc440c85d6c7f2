//! What a dispatcher offers: all that the API and the decision engine know of places.

use hood_core::Limits;
use hood_core::plan::{Capacity, EnvironmentFacts, Offer};
use hood_core::program::Code;

use crate::environment::{Base, Imported, Progress};

/// One look at everything on offer. Its version rises whenever something in it changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Catalogue {
    pub version: u64,
    /// What each executor offers; never empty in what a dispatcher says of itself.
    pub offers: Vec<Offer>,
    pub environments: Vec<EnvironmentEntry>,
    /// Where dispatchers are of which nothing has been heard yet: what they have is not in here.
    pub silent: Vec<String>,
}

impl Catalogue {
    /// Places of all executors together.
    pub fn places(&self) -> u32 {
        self.offers.iter().fold(0, |sum, offer| sum.saturating_add(offer.capacity.places))
    }

    /// Places of the executors that answer.
    pub fn open_places(&self) -> u32 {
        let open = self.offers.iter().filter(|offer| offer.open);
        open.fold(0, |sum, offer| sum.saturating_add(offer.capacity.places))
    }

    /// All offers told as one: what the best of them has proven, and the places of all.
    pub fn summary(&self) -> Option<Capacity> {
        let best = self.offers.iter().max_by_key(|offer| {
            let capacity = &offer.capacity;
            (capacity.places > 0, capacity.proven.len(), capacity.memory_bytes_max)
        })?;
        let largest = self.offers.iter().map(|offer| offer.capacity.memory_bytes_max).max();
        Some(Capacity {
            version: self.version,
            places: self.places(),
            memory_bytes_max: largest.unwrap_or_default(),
            ..best.capacity.clone()
        })
    }

    pub fn environment(&self, name: &str) -> Option<&EnvironmentEntry> {
        self.environments.iter().find(|entry| entry.facts.name == name)
    }

    /// Whether an executor besides that one has the environment: what this one cannot build may be for want
    /// of something that another host has.
    pub fn others_may_have(&self, environment: &str, executor: &str) -> bool {
        let hopeless = |status: &_| matches!(status, EnvironmentStatus::Failed { lasting: true, .. });
        let all_failed = self.environment(environment).is_some_and(|entry| hopeless(&entry.status));
        let mut others = self.offers.iter().filter(|offer| offer.executor != executor);
        !all_failed && others.any(|offer| offer.has(environment))
    }
}

/// One environment that can be named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvironmentEntry {
    pub facts: EnvironmentFacts,
    pub description: String,
    /// What holds its programs, in a line.
    pub security: Option<String>,
    /// Where its image comes from.
    pub base: Base,
    /// Name and version of each package.
    pub packages: Vec<(String, String)>,
    /// How `code` is run; `None` where it cannot be, without a command.
    pub code: Option<Code>,
    /// Of an imported image: what its maker says of it.
    pub imported: Option<Imported>,
    pub default_limits: Limits,
    pub maximum_limits: Limits,
    pub status: EnvironmentStatus,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EnvironmentStatus {
    NotBuilt,
    Building(Progress),
    Ready {
        digest: String,
        size_bytes: u64,
        interpreter: String,
    },
    /// `lasting` where trying again gives the same: somebody must mend the declaration first.
    Failed {
        reason: String,
        lasting: bool,
    },
}
