//! Grey box: hosts without a Python, with the wrong one, and with one that changes.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hood_dispatch::environment::{Bounds, EnvironmentError, Options, Progress, Stage, Status};

use super::support::{Host, ensure, has_python, library_of, open, open_with, python, shared, temp, tree};

fn script(dir: &Path, text: &str) -> PathBuf {
    let path = dir.join("python3");
    // Written elsewhere first: a file that a forked child holds open for writing cannot be executed.
    fs::write(dir.join("fresh"), format!("#!/bin/sh\n{text}\n")).expect("writes");
    fs::set_permissions(dir.join("fresh"), fs::Permissions::from_mode(0o755)).expect("sets");
    assert!(
        std::process::Command::new("cp")
            .arg(dir.join("fresh"))
            .arg(&path)
            .status()
            .expect("starts")
            .success()
    );
    path
}

fn refused(interpreter: &Path) -> (EnvironmentError, String) {
    let dir = temp();
    let library = open(dir.path(), Some(interpreter));
    let error = library.ensure("minimal", &|_| ()).expect_err("refused");
    let reason = error.reason();
    let lasting = error.lasts();
    assert_eq!(library.status("minimal"), Status::Failed { reason: reason.clone(), lasting });
    assert_eq!(fs::read_dir(dir.path().join("images")).expect("reads").count(), 0);
    (error, reason)
}

#[test]
fn a_missing_python_is_named_with_where_it_was_looked_for_and_how_to_get_it() {
    let (error, reason) = refused(Path::new("python3-that-nobody-has"));
    assert!(matches!(error, EnvironmentError::NoPython { looked_in, .. } if !looked_in.is_empty()));
    for word in ["`python3-that-nobody-has`", "/usr/bin", "3.8", "apt install python3"] {
        assert!(reason.contains(word), "{reason}");
    }
    let (error, _) = refused(Path::new("/nowhere/python3"));
    assert!(matches!(error, EnvironmentError::NoPython { .. }));
    // A directory, and a file that cannot be executed, are no programs.
    let dir = temp();
    fs::write(dir.path().join("plain"), "").expect("writes");
    for path in [dir.path().to_owned(), dir.path().join("plain")] {
        assert!(matches!(refused(&path).0, EnvironmentError::NoPython { .. }));
    }
}

#[test]
fn what_does_not_answer_as_python_is_not_taken_for_it() {
    let dir = temp();
    let cases = [
        ("echo hello", "no `implementation`"),
        ("echo 'pyenv: version 3.99 is not installed' >&2; exit 127", "pyenv: version 3.99 is not installed"),
        ("exec /nowhere/python3", "exit status"),
    ];
    for (text, words) in cases {
        let (error, reason) = refused(&script(dir.path(), text));
        assert!(matches!(error, EnvironmentError::NotPython { .. }) && error.lasts(), "{reason}");
        assert!(reason.contains(words), "{reason}");
    }
}

#[test]
fn what_was_ended_before_it_answered_may_answer_another_time() {
    let dir = temp();
    let (error, reason) = refused(&script(dir.path(), "kill -9 $$"));
    assert!(matches!(error, EnvironmentError::Silent { .. }) && !error.lasts(), "{reason}");
    assert!(reason.contains("signal: 9"), "{reason}");
}

#[test]
fn a_failure_is_told_for_a_while_and_then_somebody_may_try_again() {
    let (dir, options) = (temp(), Options { failure_told: Duration::ZERO, ..Options::default() });
    let library = open_with(dir.path(), Some(Path::new("/nowhere/python3")), options);
    library.ensure("minimal", &|_| ()).expect_err("refused");
    assert_eq!(library.status("minimal"), Status::NotBuilt);
}

#[test]
fn a_python_that_will_not_do_is_refused_with_what_it_is() {
    let dir = temp();
    let answer = |implementation: &str, version: &str| {
        let text =
            format!("printf 'implementation={implementation}\\nversion={version}\\nstdlib=/nowhere\\n'");
        refused(&script(dir.path(), &text))
    };
    for (implementation, version, words) in [
        ("cpython", "3.7.16", "the oldest that will do is 3.8"),
        ("cpython", "2.7.18", "the oldest that will do is 3.8"),
        ("pypy", "3.10.1", "only CPython"),
        ("cpython", "3.8.0", "not complete"),
    ] {
        let (error, reason) = answer(implementation, version);
        assert!(matches!(error, EnvironmentError::Unsuitable { .. }), "{reason}");
        assert!(reason.contains(words) && reason.contains(version), "{reason}");
    }
}

#[test]
fn an_incomplete_library_is_refused_with_what_is_missing() {
    if !has_python() {
        return;
    }
    let host = Host::copy();
    fs::remove_dir_all(host.library("json")).expect("removes");
    let (_, reason) = refused(&host.python());
    assert!(reason.contains("json/__init__.py") && reason.contains("python3-minimal"), "{reason}");
}

#[test]
fn a_shim_leads_to_the_python_behind_it() {
    if !has_python() {
        return;
    }
    let (host, dir, shims) = (Host::copy(), temp(), temp());
    let shim = script(shims.path(), &format!("exec {} \"$@\"", host.python().display()));
    let (direct, _) = ensure(&open(dir.path(), Some(&host.python())));
    let other = temp();
    let (through, _) = ensure(&open(other.path(), Some(&shim)));
    assert_eq!(direct.digest, through.digest);
}

#[test]
fn an_image_stays_what_it_is_when_the_host_changes_and_the_next_use_builds_another() {
    if !has_python() {
        return;
    }
    let (host, dir) = (Host::copy(), temp());
    let library = open(dir.path(), Some(&host.python()));
    let (before, _) = ensure(&library);
    host.upgrade("json/tool.py", "upgraded = True\n");
    assert_eq!(library.verify("minimal").expect("untouched"), before);
    assert!(!library.is_ready("minimal"), "it is not what a build would give now");
    let (after, stages) = ensure(&library);
    assert_eq!(stages, [Stage::Looking, Stage::Copying]);
    assert_ne!(after.digest, before.digest);
    let content = fs::read_to_string(library_of(&after).join("json/tool.py")).expect("reads");
    assert_eq!(content, "upgraded = True\n");
    // Somebody may still run from the old one, until nobody has the library open.
    assert!(library_of(&before).join("json/tool.py").exists());
    let beside = open(dir.path(), Some(&host.python()));
    assert!(before.root.exists());
    drop((library, beside));
    let library = open(dir.path(), Some(&host.python()));
    assert!(!before.root.exists() && after.root.exists());
    assert_eq!(ensure(&library).1, [Stage::Checking]);
    let Some(output) = python(&after, "import json.tool; print(json.tool.upgraded)") else { return };
    assert_eq!(output.stdout, b"True\n");
}

#[test]
fn files_that_were_touched_and_not_changed_give_the_image_that_is_there() {
    if !has_python() {
        return;
    }
    let (host, dir) = (Host::copy(), temp());
    let library = open(dir.path(), Some(&host.python()));
    let (before, _) = ensure(&library);
    let inode = fs::metadata(&before.root).expect("is there").ino();
    host.upgrade("json/tool.py", &fs::read_to_string(host.library("json/tool.py")).expect("reads"));
    // Its bytecode is older than it now and stays behind, so it is touched once more.
    let (without, _) = ensure(&library);
    host.upgrade("json/tool.py", &fs::read_to_string(host.library("json/tool.py")).expect("reads"));
    let (touched, stages) = ensure(&library);
    assert_eq!(stages, [Stage::Looking, Stage::Copying]);
    assert_eq!(touched, without);
    assert_eq!(fs::metadata(&before.root).expect("is there").ino(), inode);
    assert_eq!(fs::read_dir(dir.path().join("retired")).expect("reads").count(), 0);
}

#[test]
fn a_host_that_changes_while_it_is_copied_gives_no_image() {
    if !has_python() {
        return;
    }
    let (host, dir) = (Host::copy(), temp());
    let library = open(dir.path(), Some(&host.python()));
    let upgrade = |progress: Progress| {
        if progress.stage == Stage::Copying && progress.files_done == 1 {
            host.upgrade("json/tool.py", "upgraded = True\n");
        }
    };
    let error = library.ensure("minimal", &upgrade).expect_err("half of each");
    assert!(matches!(&error, EnvironmentError::HostChanged { path } if path.ends_with("json")), "{error}");
    assert_eq!(fs::read_dir(dir.path().join("images")).expect("reads").count(), 0);
    ensure(&library);
    assert_eq!(fs::read_dir(dir.path().join("building")).expect("reads").count(), 0);
}

#[test]
fn another_declaration_builds_another_image_unless_only_its_limits_differ() {
    if !has_python() {
        return;
    }
    let (host, dir) = (Host::copy(), temp());
    ensure(&open(dir.path(), None));
    assert_eq!(open(dir.path(), Some(&host.python())).status("minimal"), Status::NotBuilt);
    let mut declarations = super::support::minimal(None);
    declarations[0].default_limits.wall_ms = 77;
    let library = hood_dispatch::environment::Library::open(dir.path(), declarations).expect("opens");
    assert!(matches!(library.status("minimal"), Status::Ready(_)));
}

#[test]
fn an_image_of_just_the_allowed_size_is_built_and_one_past_it_refused() {
    if !has_python() {
        return;
    }
    let image = shared();
    let tree = tree(&image.root);
    let depth = tree.iter().map(|(path, _)| path.components().count()).max().expect("some");
    let exact = Bounds { bytes: image.size_bytes, inodes: tree.len() as u64, depth: depth as u64 };
    let build = |bounds: Bounds| {
        let (dir, options) = (temp(), Options { bounds, ..Options::default() });
        let outcome = open_with(dir.path(), None, options).ensure("minimal", &|_| ());
        assert!(outcome.is_ok() || fs::read_dir(dir.path().join("images")).expect("reads").count() == 0);
        outcome
    };
    assert_eq!(build(exact).expect("fits").digest, image.digest);
    for (bounds, word) in [
        (Bounds { bytes: exact.bytes - 1, ..exact }, "bytes"),
        (Bounds { inodes: exact.inodes - 1, ..exact }, "inodes"),
        (Bounds { depth: exact.depth - 1, ..exact }, "path components"),
    ] {
        let error = build(bounds).expect_err("too large");
        assert!(matches!(error, EnvironmentError::TooLarge { what, .. } if what == word), "{error}");
    }
}
