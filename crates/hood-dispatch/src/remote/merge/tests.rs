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
    let ours = Catalogue { version: 1, offers: Vec::new(), environments: entries, silent: Vec::new() };
    let word = Word::from_wire(&to_wire(&ours, ("one", "life"), 0));
    assert_eq!(word.environments, ours.environments);
}

#[test]
fn what_must_be_mended_first_is_so_at_the_other_end() {
    let declaration = environment::builtin().expect("sound").remove(0);
    for lasting in [true, false] {
        let status = EnvironmentStatus::Failed { reason: "changed".to_owned(), lasting };
        let sent = entry(&declaration, status);
        assert_eq!(environment_from_wire(&environment_to_wire(&sent)), Some(sent));
    }
}

#[test]
fn every_stage_of_a_build_is_known_at_the_other_end() {
    for stage in Stage::ALL {
        let progress = Progress { stage, files_done: 1, files_total: 2, bytes_done: 3, bytes_total: 4 };
        assert_eq!(progress_from_wire(Some(&progress_to_wire(&progress))), progress);
    }
}

fn word(executor: &str, environments: Vec<EnvironmentEntry>) -> Word {
    let capacity = Capacity {
        version: 1,
        taken_at: Timestamp::from_micros(0),
        kind: hood_core::plan::PlaceKind::LocalRoot,
        classes: vec![ExecutorClass::Cpu],
        proven: Vec::new(),
        unproven: Vec::new(),
        memory_bytes_max: 1,
        places: 1,
    };
    let offer = Offer { executor: executor.to_owned(), free: 1, open: true, environments: None, capacity };
    Word { executor: executor.to_owned(), life: String::new(), offers: vec![offer], environments }
}

fn ready() -> EnvironmentStatus {
    EnvironmentStatus::Ready { digest: "blake3:1".to_owned(), size_bytes: 1, interpreter: String::new() }
}

fn imported(name: &str, source_digest: &str) -> EnvironmentEntry {
    let declaration = environment::builtin().expect("sound").remove(0);
    let mut entry = entry(&declaration, ready());
    entry.facts.name = name.to_owned();
    entry.imported = Some(Imported {
        reference: "tools.tar".to_owned(),
        source_digest: source_digest.to_owned(),
        entrypoint: Vec::new(),
        command: Vec::new(),
        env: Vec::new(),
        workdir: None,
        user: None,
        has_python: false,
    });
    entry
}

/// What each executor of the merged catalogue has, in order.
fn held(words: Vec<Word>) -> Vec<Vec<String>> {
    let offers = merge(1, words).offers.into_iter();
    offers.map(|offer| offer.environments.into_iter().flatten().collect()).collect()
}

#[test]
fn an_image_is_where_it_was_imported_and_of_two_under_one_name_the_first_counts() {
    let one = word("one", vec![imported("tools", "sha256:1"), imported("only", "sha256:3")]);
    let other = word("other", vec![imported("tools", "sha256:2")]);
    let same = word("same", vec![imported("tools", "sha256:1")]);
    assert_eq!(held(vec![one, other, same]), [vec!["only", "tools"], vec![], vec!["tools"]]);
}

#[test]
fn what_is_built_where_it_is_needed_is_everywhere_but_where_its_build_failed() {
    let declaration = environment::builtin().expect("sound").remove(0);
    let of = |status| vec![entry(&declaration, status)];
    let failed = || EnvironmentStatus::Failed { reason: "no room".to_owned(), lasting: false };
    let name = declaration.name.as_str();
    let words =
        vec![word("a", of(ready())), word("b", of(EnvironmentStatus::NotBuilt)), word("c", of(failed()))];
    assert_eq!(held(words), [vec![name], vec![name], vec![]]);
    assert_eq!(held(vec![word("c", of(failed()))]), [vec![name]], "its reason is told");
}
