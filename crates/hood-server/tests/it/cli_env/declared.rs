//! Black box: environments that somebody declares, of packages that lie where downloads are kept.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use hood_dispatch::environment::{Deb, Declaration, Lock};
use sha2::Digest as _;

use super::{json, run};
use crate::support::shell::Shell;

const TOOL: &str = r#"name = "mine"
description = "Of a package made here"
base = "locked"
interpreter = "tool"
allowed_classes = ["cpu"]
[packages]
debian_release = "bookworm"
debian = ["tool"]
"#;

/// A Debian package of what lies in a directory.
fn deb(root: &Path) -> Vec<u8> {
    let data = tempfile::NamedTempFile::new().expect("a file");
    let packed = Command::new("tar").arg("-C").arg(root).arg("-cf").arg(data.path()).arg(".").status();
    assert!(packed.expect("tar starts").success());
    let data = fs::read(data.path()).expect("reads");
    let mut package = b"!<arch>\n".to_vec();
    for (name, content) in [("debian-binary", b"2.0\n".as_slice()), ("data.tar", &data)] {
        let size = content.len();
        assert_eq!(size % 2, 0, "or it would need padding");
        writeln!(package, "{name:<16}{:<12}{:<6}{:<6}{:<8}{size:<10}`", 0, 0, 0, "100644").expect("grows");
        package.extend(content);
    }
    package
}

/// Declares `mine`, its lock of this one package.
fn declare(shell: &Shell, declaration: &str, package: &[u8]) {
    let sha256: String = sha2::Sha256::digest(package).iter().map(|byte| format!("{byte:02x}")).collect();
    let (downloads, dir) = (shell.path("images/downloads"), shell.path("data/environments"));
    for dir in [&downloads, &dir] {
        fs::create_dir_all(dir).expect("makes");
    }
    fs::write(downloads.join(&sha256), package).expect("writes");
    let arch = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
    let lock = Lock {
        request: Declaration::parse(declaration, "mine.toml").expect("right").request(),
        release: "bookworm".to_owned(),
        arch: arch.to_owned(),
        debs: vec![Deb {
            name: "tool".to_owned(),
            version: "1.0-1".to_owned(),
            size: package.len() as u64,
            sha256,
            path: "pool/tool.deb".to_owned(),
        }],
        wheels: Vec::new(),
    };
    fs::write(dir.join("mine.toml"), declaration).expect("writes");
    fs::write(dir.join("mine.lock"), lock.text()).expect("writes");
}

/// A package of one script.
fn tool() -> Vec<u8> {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("tool");
    fs::write(&path, "#!/bin/sh\n").expect("writes");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("sets");
    deb(dir.path())
}

/// Declares `mine` as a Python that nobody has compiled, of what this host's needs to start.
fn declare_python(shell: &Shell) {
    let minimal = json(shell, &["env", "build", "minimal", "-o", "json"]);
    let digest = minimal[0]["digest"].as_str().and_then(|digest| digest.strip_prefix("blake3:"));
    let root = shell.path("images/images").join(digest.expect("a digest")).join("root");
    let version = minimal[0]["interpreter"].as_str().and_then(|version| version.rsplit_once('.'));
    let version = version.expect("a version").0;
    let packed = tempfile::tempdir().expect("a directory");
    let copied = Command::new("cp").arg("-a").args([root.join("usr")]).arg(packed.path()).status();
    assert!(copied.expect("cp starts").success());
    let library = packed.path().join(format!("usr/lib/python{version}"));
    for entry in fs::read_dir(&library).expect("reads") {
        let path = entry.expect("reads").path();
        let kept = ["collections", "encodings", "importlib"].iter().any(|name| path.ends_with(name));
        if path.is_dir() && !kept {
            fs::remove_dir_all(path).expect("was there");
        }
    }
    let removed = Command::new("find").arg(&library).args(["-name", "*.pyc", "-delete"]).status();
    assert!(removed.expect("find starts").success());
    let declaration = format!("{TOOL}python_version = \"{version}\"\n");
    declare(shell, &declaration, &deb(packed.path()));
}

fn no_place_is_left(shell: &Shell) {
    let places = shell.path("data/sandbox-build");
    assert!(!places.read_dir().expect("reads").any(|_| true), "the place is gone");
}

/// Nothing but a build compiles Python, and each command that builds must have a place for that.
#[test]
fn an_environment_with_python_is_exported_before_anybody_built_it() {
    let shell = Shell::new();
    declare_python(&shell);
    let to = shell.path("mine.tar");
    let to = to.to_str().expect("text");
    let (status, said, progress) = run(&shell, &["env", "export", "mine", "--oci", to]);
    assert_eq!(status, 0, "{said}{progress}");
    assert!(progress.contains("mine: compiling"), "{progress}");
    assert!(shell.path("mine.tar").is_file(), "{said}");
    no_place_is_left(&shell);
}

/// Before its check nothing tells that it is damaged, so the place cannot be made beforehand.
#[test]
fn a_damaged_image_with_python_is_built_anew_by_whatever_command_finds_it() {
    let shell = Shell::new();
    declare_python(&shell);
    let built = json(&shell, &["env", "build", "mine", "-o", "json"]);
    let digest = built[0]["digest"].as_str().expect("a digest");
    let root = shell.path("images/images").join(digest.strip_prefix("blake3:").expect("has it")).join("root");
    let to = shell.path("mine.tar");
    let to = to.to_str().expect("text");
    type Damage = fn(&Path);
    let damages: [(&[&str], Damage); 2] = [
        (&["env", "build", "mine"], |root| fs::remove_dir_all(root.join("etc")).expect("was there")),
        (&["env", "export", "mine", "--oci", to], |root| {
            fs::write(root.join("etc/passwd"), "root").expect("writes");
        }),
    ];
    for (arguments, damage) in damages {
        damage(&root);
        let (status, said, progress) = run(&shell, arguments);
        assert_eq!(status, 0, "{arguments:?}: {said}{progress}");
        assert!(progress.contains("mine: compiling"), "{progress}");
        no_place_is_left(&shell);
        let whole = json(&shell, &["env", "build", "mine", "-o", "json"]);
        assert_eq!((&whole[0]["built"], &whole[0]["digest"]), (&false.into(), &digest.into()));
    }
}

#[test]
fn a_declaration_that_was_changed_after_it_was_locked_is_refused_until_it_is_locked_again() {
    let shell = Shell::new();
    declare(&shell, TOOL, &tool());
    json(&shell, &["env", "build", "mine", "-o", "json"]);
    let file = shell.path("data/environments/mine.toml");
    fs::write(&file, TOOL.replace(r#"["tool"]"#, r#"["tool", "more"]"#)).expect("writes");
    let why = "its declaration was changed after it was locked: `fumehood env lock mine`";
    let seen = json(&shell, &["env", "inspect", "mine", "-o", "json"]);
    assert_eq!(seen["state"], "failed");
    assert!(seen["error"].as_str().is_some_and(|error| error.starts_with(why)), "{seen}");
    shell.file("code.sh", "true");
    for (arguments, expected) in [
        (&["env", "build", "mine"][..], 125),
        (&["env", "export", "mine", "--oci", "mine.tar"], 125),
        (&["run", "--env", "mine", "code.sh"], 126),
    ] {
        let (status, _, said) = run(&shell, arguments);
        assert!(status == expected && said.contains(why), "{arguments:?}: {status}: {said}");
    }
    fs::write(&file, TOOL).expect("writes");
    assert_eq!(json(&shell, &["env", "inspect", "mine", "-o", "json"])["state"], "ready");
}

#[test]
fn a_file_that_stops_every_command_is_named_with_what_to_do_about_it() {
    let shell = Shell::new();
    let dir = shell.path("data/environments");
    fs::create_dir_all(&dir).expect("makes");
    let odd = dir.join("odd.toml");
    fs::write(&odd, "name = 7\n").expect("writes");
    let next = format!("next: mend {} or move it away", odd.display());
    for arguments in [&["env", "list"][..], &["env", "gc"], &["list"], &["run", "--env", "minimal", "x.py"]] {
        shell.file("x.py", "");
        let (status, _, said) = run(&shell, arguments);
        assert!(status == 125 && said.contains(&next), "{arguments:?}: {status}: {said}");
        assert!(said.contains("odd.toml:1: name: must be a string, and is an integer"), "{said}");
    }
    let serve = shell.command(&["serve", "--listen", "127.0.0.1:0"]).output().expect("it runs");
    let said = String::from_utf8_lossy(&serve.stderr).into_owned();
    assert!(said.contains(&next), "{said}");

    // Whoever looks for what is wrong finds all of it.
    fs::write(dir.join("data.toml"), TOOL.replace("mine", "data")).expect("writes");
    let (status, found, _) = run(&shell, &["config", "check"]);
    let named = ["odd.toml:1: name: ", "data.toml: environment `data` is declared already"];
    assert!(status == 1 && named.iter().all(|name| found.contains(name)), "{status}: {found}");
    let (status, found, _) = run(&shell, &["doctor", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&found).expect("one JSON document");
    let checks = report["checks"].as_array().expect("a list");
    let check = checks.iter().find(|check| check["name"] == "declarations").expect("is looked at");
    assert_eq!((status, &check["status"]), (1, &"lacking".into()), "{check}");
    let detail = check["detail"].as_str().expect("text");
    assert!(named.iter().all(|name| detail.contains(name)), "{detail}");

    for name in ["odd.toml", "data.toml"] {
        fs::remove_file(dir.join(name)).expect("was there");
    }
    let (status, found, said) = run(&shell, &["config", "check"]);
    assert_eq!(status, 0, "{found}{said}");
}

#[test]
fn a_lock_that_is_damaged_is_made_anew_by_the_command_that_its_error_names() {
    let shell = Shell::new();
    declare(&shell, TOOL, &tool());
    fs::write(shell.path("data/environments/mine.lock"), "nothing of the kind\n").expect("writes");
    let (status, _, said) = run(&shell, &["env", "list"]);
    assert!(status == 125 && said.contains("next: `fumehood env lock mine`"), "{status}: {said}");
    // Its package is nobody's, so that it comes no further than to ask for it.
    for damage in [Some("nothing of the kind\n"), None] {
        let lock = shell.path("data/environments/mine.lock");
        match damage {
            Some(text) => fs::write(lock, text).expect("writes"),
            None => fs::remove_file(lock).expect("was there"),
        }
        let (_, _, said) = run(&shell, &["env", "lock", "mine"]);
        assert!(said.contains("cannot lock `mine`") && said.contains("the Debian packages"), "{said}");
    }
}

const NO_PYTHON: &str = r#"name = "mine"
description = "Of a program that is no Python"
base = "host-python"
interpreter = "/bin/true"
allowed_classes = ["cpu"]
"#;

/// Five attempts, as what infrastructure loses has, would say the same five times.
#[test]
fn a_build_that_can_never_succeed_is_tried_once_and_the_evaluation_ends_with_the_reason() {
    let shell = Shell::new();
    fs::create_dir_all(shell.path("data/environments")).expect("makes");
    fs::write(shell.path("data/environments/mine.toml"), NO_PYTHON).expect("writes");
    shell.file("code.py", "print(1)");
    let (status, _, said) = run(&shell, &["run", "--env", "mine", "code.py"]);
    assert_eq!(status, 126, "{said}");
    for part in ["/bin/true does not answer as a Python interpreter", "declaration", "environment_failed"] {
        assert!(said.contains(part), "no {part:?} in {said}");
    }
    let all = json(&shell, &["list", "-o", "json"]);
    let ended = &all["items"][0];
    assert_eq!((&ended["attempts"], &ended["verdict"]), (&1.into(), &"infrastructure_error".into()), "{all}");
}
