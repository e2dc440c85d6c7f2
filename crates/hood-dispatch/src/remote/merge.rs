//! What dispatchers offer: one's catalogue on the wire, and several made into one.

use std::collections::{BTreeMap, BTreeSet};

use hood_core::Timestamp;
use hood_core::plan::{Capacity, EnvironmentFacts, ExecutorClass, Isolation, Layer, Offer, SystemCalls};
use hood_core::program::Code;
use hood_wire::dispatch as wire;

use super::convert::{kind, limits_from_wire, limits_to_wire};
use crate::catalogue::{Catalogue, EnvironmentEntry, EnvironmentStatus};
use crate::environment::{Base, Imported, Progress, Stage};

/// `live` is how many places are taken.
pub(super) fn to_wire(catalogue: &Catalogue, (executor, life): (&str, &str), live: u32) -> wire::Catalogue {
    wire::Catalogue {
        version: wire::VERSION,
        executor: executor.to_owned(),
        life: life.to_owned(),
        revision: catalogue.version,
        capacities: catalogue.offers.iter().map(|offer| capacity_to_wire(&offer.capacity, live)).collect(),
        environments: catalogue.environments.iter().map(environment_to_wire).collect(),
    }
}

fn capacity_to_wire(capacity: &Capacity, live: u32) -> wire::Capacity {
    let unproven = capacity.unproven.iter();
    wire::Capacity {
        version: capacity.version,
        taken_at_us: capacity.taken_at.as_micros(),
        place: capacity.kind.as_str().to_owned(),
        classes: capacity.classes.iter().map(|class| class.as_str().to_owned()).collect(),
        proven: capacity.proven.iter().map(|layer| layer.as_str().to_owned()).collect(),
        unproven: unproven
            .map(|(layer, reason)| wire::Unproven {
                layer: layer.as_str().to_owned(),
                reason: reason.clone(),
            })
            .collect(),
        memory_bytes_max: capacity.memory_bytes_max,
        places: capacity.places,
        free: capacity.places.saturating_sub(live),
    }
}

fn environment_to_wire(entry: &EnvironmentEntry) -> wire::Environment {
    let (state, digest, size_bytes, interpreter, error) = match &entry.status {
        EnvironmentStatus::NotBuilt => (wire::EnvironmentState::NotBuilt, None, None, None, None),
        EnvironmentStatus::Building(_) => (wire::EnvironmentState::Building, None, None, None, None),
        EnvironmentStatus::Ready { digest, size_bytes, interpreter } => (
            wire::EnvironmentState::Ready,
            Some(digest.clone()),
            Some(*size_bytes),
            Some(interpreter.clone()),
            None,
        ),
        EnvironmentStatus::Failed { reason, .. } => {
            (wire::EnvironmentState::Failed, None, None, None, Some(reason.clone()))
        }
    };
    let packages = entry.packages.iter();
    wire::Environment {
        name: entry.facts.name.clone(),
        description: entry.description.clone(),
        security: entry.security.clone(),
        base: entry.base.as_str().to_owned(),
        isolation: entry.facts.isolation.as_str().to_owned(),
        system_calls: entry.facts.system_calls.as_str().to_owned(),
        progress: match &entry.status {
            EnvironmentStatus::Building(progress) => Some(progress_to_wire(progress)),
            _ => None,
        },
        allowed_classes: entry.facts.allowed_classes.iter().map(|class| class.as_str().to_owned()).collect(),
        packages: packages
            .map(|(name, version)| wire::Package { name: name.clone(), version: version.clone() })
            .collect(),
        code: entry.code.as_ref().map(|code| wire::Code {
            file: code.file.clone(),
            build: code.build.clone(),
            run: code.run.clone(),
        }),
        image: entry.imported.as_ref().map(imported_to_wire),
        default_limits: limits_to_wire(&entry.default_limits),
        maximum_limits: limits_to_wire(&entry.maximum_limits),
        state,
        digest,
        size_bytes,
        interpreter,
        error,
        error_lasts: matches!(entry.status, EnvironmentStatus::Failed { lasting: true, .. }),
    }
}

/// What one dispatcher said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) executor: String,
    pub(super) life: String,
    pub(super) offers: Vec<Offer>,
    environments: Vec<EnvironmentEntry>,
}

impl Word {
    /// Kinds of place, classes and layers that are not known here prove nothing and are left out.
    pub(super) fn from_wire(catalogue: &wire::Catalogue) -> Self {
        let offers = catalogue.capacities.iter().filter_map(|said| {
            let (executor, capacity) = (catalogue.executor.clone(), capacity_from_wire(said)?);
            Some(Offer { executor, free: said.free, open: true, environments: None, capacity })
        });
        Self {
            executor: catalogue.executor.clone(),
            life: catalogue.life.clone(),
            offers: offers.collect(),
            environments: catalogue.environments.iter().filter_map(environment_from_wire).collect(),
        }
    }
}

fn capacity_from_wire(said: &wire::Capacity) -> Option<Capacity> {
    let unproven = said.unproven.iter();
    Some(Capacity {
        version: said.version,
        taken_at: Timestamp::from_micros(said.taken_at_us),
        kind: kind(&said.place).ok()?,
        classes: said.classes.iter().filter_map(|class| ExecutorClass::parse(class)).collect(),
        proven: said.proven.iter().filter_map(|layer| Layer::parse(layer)).collect(),
        unproven: unproven.filter_map(|u| Some((Layer::parse(&u.layer)?, u.reason.clone()))).collect(),
        memory_bytes_max: said.memory_bytes_max,
        places: said.places,
    })
}

fn progress_to_wire(progress: &Progress) -> wire::Progress {
    wire::Progress {
        stage: progress.stage.as_str().to_owned(),
        files_done: progress.files_done,
        files_total: progress.files_total,
        bytes_done: progress.bytes_done,
        bytes_total: progress.bytes_total,
    }
}

/// A stage that is not known here is one in which nobody can say how much there is to do.
fn progress_from_wire(said: Option<&wire::Progress>) -> Progress {
    let stage = said.and_then(|said| Stage::ALL.into_iter().find(|stage| stage.as_str() == said.stage));
    let nothing =
        Progress { stage: Stage::Looking, files_done: 0, files_total: 0, bytes_done: 0, bytes_total: 0 };
    let Some((said, stage)) = said.zip(stage) else { return nothing };
    Progress {
        stage,
        files_done: said.files_done,
        files_total: said.files_total,
        bytes_done: said.bytes_done,
        bytes_total: said.bytes_total,
    }
}

/// `None` for one whose base, isolation or system calls are not known here: it could be taken for less than it is.
fn environment_from_wire(said: &wire::Environment) -> Option<EnvironmentEntry> {
    let classes = said.allowed_classes.iter().filter_map(|class| ExecutorClass::parse(class));
    let status = match said.state {
        wire::EnvironmentState::NotBuilt => EnvironmentStatus::NotBuilt,
        wire::EnvironmentState::Building => {
            EnvironmentStatus::Building(progress_from_wire(said.progress.as_ref()))
        }
        wire::EnvironmentState::Ready => EnvironmentStatus::Ready {
            digest: said.digest.clone().unwrap_or_default(),
            size_bytes: said.size_bytes.unwrap_or_default(),
            interpreter: said.interpreter.clone().unwrap_or_default(),
        },
        wire::EnvironmentState::Failed => {
            let reason = said.error.clone().unwrap_or_default();
            EnvironmentStatus::Failed { reason, lasting: said.error_lasts }
        }
    };
    Some(EnvironmentEntry {
        facts: EnvironmentFacts {
            name: said.name.clone(),
            allowed_classes: classes.collect(),
            isolation: Isolation::parse(&said.isolation)?,
            system_calls: SystemCalls::parse(&said.system_calls)?,
        },
        description: said.description.clone(),
        security: said.security.clone(),
        base: Base::parse(&said.base)?,
        packages: said.packages.iter().map(|p| (p.name.clone(), p.version.clone())).collect(),
        code: code_from_wire(said),
        imported: said.image.as_ref().map(imported_from_wire),
        default_limits: limits_from_wire(&said.default_limits),
        maximum_limits: limits_from_wire(&said.maximum_limits),
        status,
    })
}

/// A dispatcher that says nothing of it is an older one, to which `code` is Python.
fn code_from_wire(said: &wire::Environment) -> Option<Code> {
    match (&said.code, &said.image) {
        (Some(code), _) => {
            let (file, build, run) = (code.file.clone(), code.build.clone(), code.run.clone());
            Some(Code { file, build, run })
        }
        (None, Some(image)) => image.has_python.then(Code::python),
        (None, None) => Some(Code::python()),
    }
}

fn imported_from_wire(said: &wire::ImportedImage) -> Imported {
    Imported {
        reference: said.reference.clone(),
        source_digest: said.source_digest.clone(),
        entrypoint: said.entrypoint.clone(),
        command: said.command.clone(),
        env: said.env.clone(),
        workdir: said.workdir.clone(),
        user: said.user.clone(),
        has_python: said.has_python,
    }
}

fn imported_to_wire(imported: &Imported) -> wire::ImportedImage {
    wire::ImportedImage {
        reference: imported.reference.clone(),
        source_digest: imported.source_digest.clone(),
        entrypoint: imported.entrypoint.clone(),
        command: imported.command.clone(),
        env: imported.env.clone(),
        workdir: imported.workdir.clone(),
        user: imported.user.clone(),
        has_python: imported.has_python,
    }
}

/// Several words as one catalogue, of the version given. Of two images that were imported under one name
/// the first counts, and who has the other does not have that environment.
pub(super) fn merge(version: u64, words: Vec<Word>) -> Catalogue {
    let mut environments: BTreeMap<String, EnvironmentEntry> = BTreeMap::new();
    for entry in words.iter().flat_map(|word| &word.environments) {
        match environments.get_mut(&entry.facts.name) {
            // Built anywhere is built: the executor that is chosen builds it where it is not.
            Some(known) if rank(&entry.status) > rank(&known.status) => *known = entry.clone(),
            Some(_) => {}
            None => {
                environments.insert(entry.facts.name.clone(), entry.clone());
            }
        }
    }
    let mut offers = Vec::with_capacity(words.len());
    for word in words {
        let held = word
            .environments
            .iter()
            .filter(|entry| environments.get(&entry.facts.name).is_some_and(|known| is_had(entry, known)));
        let held: BTreeSet<_> = held.map(|entry| entry.facts.name.clone()).collect();
        let told = |offer| Offer { environments: Some(held.clone()), ..offer };
        offers.extend(word.offers.into_iter().map(told));
    }
    Catalogue { version, offers, environments: environments.into_values().collect(), silent: Vec::new() }
}

/// Whether one executor's entry is the environment that all know under this name, and not one that only it
/// could not build.
fn is_had(entry: &EnvironmentEntry, known: &EnvironmentEntry) -> bool {
    let failed = |entry: &EnvironmentEntry| matches!(entry.status, EnvironmentStatus::Failed { .. });
    entry.imported == known.imported && (!failed(entry) || failed(known))
}

const fn rank(status: &EnvironmentStatus) -> u8 {
    match status {
        EnvironmentStatus::Failed { lasting: true, .. } => 0,
        EnvironmentStatus::Failed { lasting: false, .. } => 1,
        EnvironmentStatus::NotBuilt => 2,
        EnvironmentStatus::Building(_) => 3,
        EnvironmentStatus::Ready { .. } => 4,
    }
}

#[cfg(test)]
mod tests;
