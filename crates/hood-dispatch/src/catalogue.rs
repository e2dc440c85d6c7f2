//! What a dispatcher offers: all that the API and the decision engine know of places.

use hood_core::Limits;
use hood_core::plan::{Capacity, EnvironmentFacts};

use crate::environment::{Base, Progress};

/// One look at everything on offer. Its version rises whenever something in it changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Catalogue {
    pub capacity: Capacity,
    pub environments: Vec<EnvironmentEntry>,
}

impl Catalogue {
    pub fn environment(&self, name: &str) -> Option<&EnvironmentEntry> {
        self.environments.iter().find(|entry| entry.facts.name == name)
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
    pub default_limits: Limits,
    pub maximum_limits: Limits,
    pub status: EnvironmentStatus,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EnvironmentStatus {
    NotBuilt,
    Building(Progress),
    Ready { digest: String, size_bytes: u64, interpreter: String },
    Failed { reason: String },
}
