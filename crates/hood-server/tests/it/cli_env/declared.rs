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

/// Nothing but a build compiles Python, and each command that builds must have a place for that.
#[test]
fn an_environment_with_python_is_exported_before_anybody_built_it() {
    let shell = Shell::new();
    let minimal = json(&shell, &["env", "build", "minimal", "-o", "json"]);
    let digest = minimal[0]["digest"].as_str().and_then(|digest| digest.strip_prefix("blake3:"));
    let root = shell.path("images/images").join(digest.expect("a digest")).join("root");
    let version = minimal[0]["interpreter"].as_str().and_then(|version| version.rsplit_once('.'));
    let version = version.expect("a version").0;
    // What a Python needs to start, and none of it compiled.
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
    let declaration = format!("{TOOL}python_version = \"{version}\"\n");
    declare(&shell, &declaration, &deb(packed.path()));

    let to = shell.path("mine.tar");
    let to = to.to_str().expect("text");
    let (status, said, progress) = run(&shell, &["env", "export", "mine", "--oci", to]);
    assert_eq!(status, 0, "{said}{progress}");
    assert!(progress.contains("mine: compiling"), "{progress}");
    assert!(shell.path("mine.tar").is_file(), "{said}");
    assert!(!shell.path("data/sandbox-build").read_dir().expect("reads").any(|_| true), "the place is gone");
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
