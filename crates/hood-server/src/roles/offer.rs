//! What the places offer, as the document that the API validates with: the dispatcher's catalogue
//! within the operator's bounds.

use hood_core::Limits;
use hood_core::limits::Limit;
use hood_dispatch::Catalogue;
use hood_dispatch::catalogue::{EnvironmentEntry, EnvironmentStatus};
use hood_dispatch::environment::{Imported, Progress};
use hood_wire::api;

use crate::config::Config;
use crate::document::{CatalogueDocument, limits_to_wire};

pub(super) fn document(catalogue: &Catalogue, config: &Config) -> CatalogueDocument {
    let environments = catalogue.environments.iter().map(|entry| environment(entry, config)).collect();
    CatalogueDocument::new(&catalogue.offers, environments)
}

pub(crate) fn environment(entry: &EnvironmentEntry, config: &Config) -> api::Environment {
    let (state, digest, size_bytes, interpreter, error) = match &entry.status {
        EnvironmentStatus::NotBuilt => (api::EnvironmentState::NotBuilt, None, None, None, None),
        EnvironmentStatus::Building(_) => (api::EnvironmentState::Building, None, None, None, None),
        EnvironmentStatus::Ready { digest, size_bytes, interpreter } => (
            api::EnvironmentState::Ready,
            Some(digest.clone()),
            Some(*size_bytes),
            Some(interpreter.clone()),
            None,
        ),
        EnvironmentStatus::Failed { reason, .. } => {
            (api::EnvironmentState::Failed, None, None, None, Some(reason.clone()))
        }
    };
    let maximum = lower(&entry.maximum_limits, &config.limits.maximum);
    api::Environment {
        name: entry.facts.name.clone(),
        description: entry.description.clone(),
        security: entry.security.clone(),
        state,
        progress: match &entry.status {
            EnvironmentStatus::Building(progress) => Some(build_progress(progress)),
            _ => None,
        },
        digest,
        size_bytes,
        base: entry.base.as_str().to_owned(),
        isolation: entry.facts.isolation.as_str().to_owned(),
        system_calls: entry.facts.system_calls.as_str().to_owned(),
        portable: entry.base.is_portable(),
        interpreter: interpreter.filter(|_| entry.imported.is_none()),
        packages: entry
            .packages
            .iter()
            .map(|(name, version)| api::Package { name: name.clone(), version: version.clone() })
            .collect(),
        code: entry.code.as_ref().map(|code| api::CodeStart {
            file: code.file.clone(),
            build: code.build.clone(),
            run: code.run.clone(),
        }),
        image: entry.imported.as_ref().map(foreign_image),
        default_limits: limits_to_wire(&lower(&entry.default_limits, &maximum), &[]),
        maximum_limits: limits_to_wire(&maximum, &[]),
        allowed_classes: entry.facts.allowed_classes.iter().map(|class| class.as_str().to_owned()).collect(),
        default: entry.facts.name == config.environments.default,
        error,
        error_lasts: matches!(entry.status, EnvironmentStatus::Failed { lasting: true, .. }),
    }
}

fn foreign_image(imported: &Imported) -> api::ForeignImage {
    let variable =
        |(name, value): &(String, String)| api::Variable { name: name.clone(), value: value.clone() };
    api::ForeignImage {
        reference: imported.reference.clone(),
        source_digest: imported.source_digest.clone(),
        entrypoint: imported.entrypoint.clone(),
        command: imported.command.clone(),
        env: imported.env.iter().map(variable).collect(),
        workdir: imported.workdir.clone(),
        user: imported.user.clone(),
        has_python: imported.has_python,
    }
}

fn build_progress(progress: &Progress) -> api::BuildProgress {
    api::BuildProgress {
        stage: progress.stage.as_str().to_owned(),
        percent: progress.percent(),
        files_done: progress.files_done,
        files_total: progress.files_total,
        bytes_done: progress.bytes_done,
        bytes_total: progress.bytes_total,
    }
}

/// The lower of both, limit by limit.
fn lower(a: &Limits, b: &Limits) -> Limits {
    let mut limits = *a;
    for limit in Limit::ALL {
        limits.set(limit, a.get(limit).min(b.get(limit)));
    }
    limits
}
