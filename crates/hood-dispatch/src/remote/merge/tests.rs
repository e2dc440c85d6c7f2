use hood_core::Limits;

use super::*;
use crate::environment;

fn entry(declaration: &environment::Declaration, status: EnvironmentStatus) -> EnvironmentEntry {
    EnvironmentEntry {
        facts: EnvironmentFacts {
            name: declaration.name.clone(),
            allowed_classes: declaration.allowed_classes.clone(),
            isolation: declaration.isolation,
            system_calls: declaration.system_calls,
        },
        description: declaration.description.clone(),
        security: declaration.security.clone(),
        base: declaration.base,
        packages: declaration.lock.as_ref().map(|lock| lock.packages()).unwrap_or_default(),
        code: declaration.code.clone(),
        imported: None,
        default_limits: Limits::DEFAULT,
        maximum_limits: Limits::MAXIMUM,
        status,
    }
}

/// A worker offers what its dispatchers have: an environment that is lost on the way is one that
/// nobody can name.
#[test]
fn every_environment_of_ours_is_the_same_at_the_other_end() {
    let declarations = environment::builtin().expect("sound");
    let entries: Vec<_> = declarations.iter().map(|one| entry(one, EnvironmentStatus::NotBuilt)).collect();
    assert!(entries.iter().any(|entry| entry.facts.system_calls == SystemCalls::Least));
    let ours = Catalogue { version: 1, offers: Vec::new(), environments: entries };
    let word = Word::from_wire(&to_wire(&ours, ("one", "life"), 0));
    assert_eq!(word.environments, ours.environments);
}

#[test]
fn every_stage_of_a_build_is_known_at_the_other_end() {
    for stage in Stage::ALL {
        let progress = Progress { stage, files_done: 1, files_total: 2, bytes_done: 3, bytes_total: 4 };
        assert_eq!(progress_from_wire(Some(&progress_to_wire(&progress))), progress);
    }
}
