//! What the worker says of its places and environments, and the API reads: the store's copy is all
//! that validation and planning know.

use hood_core::Timestamp;
use hood_core::plan::{Capacity, EnvironmentFacts, ExecutorClass, Isolation, Layer, PlaceKind};
use hood_wire::api;
use serde::{Deserialize, Serialize};

/// Written by the worker whenever something in it changes. Its version and time are columns beside
/// it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CatalogueDocument {
    /// Kind of place: `local_root` or `local_user`.
    pub place: String,
    pub classes: Vec<String>,
    pub proven: Vec<String>,
    pub unproven: Vec<UnprovenDocument>,
    pub memory_bytes_max: u64,
    pub places: u32,
    /// What code can run in, each with the limits that the operator allows in it.
    pub environments: Vec<api::Environment>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnprovenDocument {
    pub layer: String,
    pub reason: String,
}

impl CatalogueDocument {
    pub fn new(capacity: &Capacity, environments: Vec<api::Environment>) -> Self {
        let unproven = capacity.unproven.iter().map(|(layer, reason)| UnprovenDocument {
            layer: layer.as_str().to_owned(),
            reason: reason.clone(),
        });
        Self {
            place: capacity.kind.as_str().to_owned(),
            classes: capacity.classes.iter().map(|class| class.as_str().to_owned()).collect(),
            proven: capacity.proven.iter().map(|layer| layer.as_str().to_owned()).collect(),
            unproven: unproven.collect(),
            memory_bytes_max: capacity.memory_bytes_max,
            places: capacity.places,
            environments,
        }
    }

    /// As the core plans with it. `None` for a kind of place that this binary does not know; layers
    /// and classes that it does not know prove nothing to it and are left out.
    pub fn capacity(&self, version: u64, taken_at: Timestamp) -> Option<Capacity> {
        let kinds = [PlaceKind::LocalRoot, PlaceKind::LocalUser];
        let unproven = self.unproven.iter();
        Some(Capacity {
            version,
            taken_at,
            kind: kinds.into_iter().find(|kind| kind.as_str() == self.place)?,
            classes: self.classes.iter().filter_map(|class| ExecutorClass::parse(class)).collect(),
            proven: self.proven.iter().filter_map(|layer| Layer::parse(layer)).collect(),
            unproven: unproven.filter_map(|u| Some((Layer::parse(&u.layer)?, u.reason.clone()))).collect(),
            memory_bytes_max: self.memory_bytes_max,
            places: self.places,
        })
    }

    /// The environment of that name, or the default one where none is named.
    pub fn environment(&self, name: Option<&str>) -> Option<&api::Environment> {
        self.environments.iter().find(|environment| match name {
            Some(name) => environment.name == name,
            None => environment.default,
        })
    }
}

/// What planning needs to know of an environment.
pub fn environment_facts(environment: &api::Environment) -> EnvironmentFacts {
    EnvironmentFacts {
        name: environment.name.clone(),
        allowed_classes: environment
            .allowed_classes
            .iter()
            .filter_map(|class| ExecutorClass::parse(class))
            .collect(),
        // One that is not known here is never taken for less than it is.
        isolation: Isolation::parse(&environment.isolation).unwrap_or(Isolation::Gvisor),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capacity_survives_the_store() {
        let taken_at = Timestamp::from_micros(5);
        let capacity = Capacity {
            version: 3,
            taken_at,
            kind: PlaceKind::LocalUser,
            classes: vec![ExecutorClass::Cpu],
            proven: Layer::ALL[1..].to_vec(),
            unproven: vec![(Layer::ALL[0], "no user namespaces".to_owned())],
            memory_bytes_max: 1 << 30,
            places: 2,
        };
        let text = serde_json::to_string(&CatalogueDocument::new(&capacity, Vec::new())).expect("serialises");
        let back: CatalogueDocument = serde_json::from_str(&text).expect("parses");
        assert_eq!(back.capacity(3, taken_at), Some(capacity));
    }

    #[test]
    fn what_a_newer_worker_says_proves_nothing_here() {
        let text = r#"{"place": "local_root", "classes": ["cpu", "quantum"], "proven": ["seccomp", "moat"],
            "unproven": [], "memory_bytes_max": 1, "places": 1, "environments": [], "new": true}"#;
        let document: CatalogueDocument = serde_json::from_str(text).expect("tolerant");
        let capacity = document.capacity(1, Timestamp::from_micros(0)).expect("known place");
        assert_eq!((capacity.classes, capacity.proven), (vec![ExecutorClass::Cpu], vec![Layer::Seccomp]));
        let other = CatalogueDocument { place: "cloud".to_owned(), ..document };
        assert_eq!(other.capacity(1, Timestamp::from_micros(0)), None);
    }
}
