//! What the worker says of its places and environments, and the API reads: the store's copy is all
//! that validation and planning know.

use std::collections::BTreeSet;

use hood_core::Timestamp;
use hood_core::plan::{
    Capacity, EnvironmentFacts, ExecutorClass, Isolation, Layer, Offer, PlaceKind, SystemCalls,
};
use hood_wire::api;
use serde::{Deserialize, Serialize};

/// Written by the worker whenever something in it changes. Its version and time are columns beside
/// it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CatalogueDocument {
    /// Each executor's places. Missing from what releases before there were several wrote.
    #[serde(default)]
    pub executors: Vec<ExecutorDocument>,
    /// What code can run in, each with the limits that the operator allows in it.
    pub environments: Vec<api::Environment>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecutorDocument {
    pub name: String,
    /// Kind of place: `local_root` or `local_user`.
    pub place: String,
    pub classes: Vec<String>,
    pub proven: Vec<String>,
    pub unproven: Vec<UnprovenDocument>,
    pub memory_bytes_max: u64,
    pub places: u32,
    /// What code can run in there, by name. Left out where that is everything, and by releases that did
    /// not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environments: Option<BTreeSet<String>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnprovenDocument {
    pub layer: String,
    pub reason: String,
}

impl CatalogueDocument {
    pub fn new(offers: &[Offer], environments: Vec<api::Environment>) -> Self {
        Self { executors: offers.iter().map(executor).collect(), environments }
    }

    /// As the core plans with it. Kinds of place, layers and classes that this binary does not know
    /// prove nothing to it and are left out. An executor that does not answer just now is one to wait
    /// for, so all of them count as open.
    pub fn offers(&self, version: u64, taken_at: Timestamp) -> Vec<Offer> {
        self.executors.iter().filter_map(|executor| executor.offer(version, taken_at)).collect()
    }

    /// The environment of that name, or the default one where none is named.
    pub fn environment(&self, name: Option<&str>) -> Option<&api::Environment> {
        self.environments.iter().find(|environment| match name {
            Some(name) => environment.name == name,
            None => environment.default,
        })
    }
}

fn executor(offer: &Offer) -> ExecutorDocument {
    let capacity = &offer.capacity;
    let unproven = capacity
        .unproven
        .iter()
        .map(|(layer, reason)| UnprovenDocument { layer: layer.as_str().to_owned(), reason: reason.clone() });
    ExecutorDocument {
        name: offer.executor.clone(),
        place: capacity.kind.as_str().to_owned(),
        classes: capacity.classes.iter().map(|class| class.as_str().to_owned()).collect(),
        proven: capacity.proven.iter().map(|layer| layer.as_str().to_owned()).collect(),
        unproven: unproven.collect(),
        memory_bytes_max: capacity.memory_bytes_max,
        places: capacity.places,
        environments: offer.environments.clone(),
    }
}

impl ExecutorDocument {
    fn offer(&self, version: u64, taken_at: Timestamp) -> Option<Offer> {
        let kinds = [PlaceKind::LocalRoot, PlaceKind::LocalUser];
        let unproven = self.unproven.iter();
        let capacity = Capacity {
            version,
            taken_at,
            kind: kinds.into_iter().find(|kind| kind.as_str() == self.place)?,
            classes: self.classes.iter().filter_map(|class| ExecutorClass::parse(class)).collect(),
            proven: self.proven.iter().filter_map(|layer| Layer::parse(layer)).collect(),
            unproven: unproven.filter_map(|u| Some((Layer::parse(&u.layer)?, u.reason.clone()))).collect(),
            memory_bytes_max: self.memory_bytes_max,
            places: self.places,
        };
        let environments = self.environments.clone();
        Some(Offer { executor: self.name.clone(), free: self.places, open: true, environments, capacity })
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
        system_calls: SystemCalls::parse(&environment.system_calls).unwrap_or(SystemCalls::Least),
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
        let of = |executor: &str, environments| Offer {
            executor: executor.to_owned(),
            free: 2,
            open: true,
            environments,
            capacity: capacity.clone(),
        };
        let offers = [of("one", None), of("two", Some(["data".to_owned()].into()))];
        let text = serde_json::to_string(&CatalogueDocument::new(&offers, Vec::new())).expect("serialises");
        let back: CatalogueDocument = serde_json::from_str(&text).expect("parses");
        assert_eq!(back.offers(3, taken_at), offers);
    }

    #[test]
    fn what_a_newer_worker_says_proves_nothing_here() {
        let executor = r#"{"name": "one", "place": "local_root", "classes": ["cpu", "quantum"],
            "proven": ["seccomp", "moat"], "unproven": [], "memory_bytes_max": 1, "places": 1, "new": true}"#;
        let other = executor.replace("local_root", "cloud");
        let text = format!(r#"{{"executors": [{executor}, {other}], "environments": [], "new": true}}"#);
        let document: CatalogueDocument = serde_json::from_str(&text).expect("tolerant");
        let offers = document.offers(1, Timestamp::from_micros(0));
        let [Offer { capacity, .. }] = offers.as_slice() else { panic!("{offers:?}") };
        assert_eq!(capacity.classes, [ExecutorClass::Cpu]);
        assert_eq!(capacity.proven, [Layer::Seccomp]);
    }
}
