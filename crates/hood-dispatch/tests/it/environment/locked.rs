//! Grey box: images from packages that the tests made themselves and laid where downloads are kept, so
//! that no network is needed; and what becomes of packages that are not what they should be.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use hood_dispatch::environment::{
    Deb, Declaration, EnvironmentError, Image, Library, Lock, Options, Progress, Sources, Stage, Status,
};

use super::support::{entries, run, temp, tree};

const DECLARATION: &str = r#"name = "mine"
description = "Of packages made here"
base = "locked"
interpreter = "tool"
allowed_classes = ["cpu"]
[packages]
debian_release = "bookworm"
debian = ["tool"]
[links]
"usr/bin/alias" = "tool"
"#;

/// A Debian package, its files given by what makes them in a directory.
fn deb(fill: impl FnOnce(&Path)) -> Vec<u8> {
    let dir = temp();
    let root = dir.path().join("root");
    fs::create_dir(&root).expect("makes");
    fill(&root);
    let data = dir.path().join("data.tar.gz");
    run(Command::new("tar").arg("-C").arg(&root).arg("-czf").arg(&data).arg("."));
    let mut package = b"!<arch>\n".to_vec();
    for (name, content) in [
        ("debian-binary", b"2.0\n".to_vec()),
        ("control.tar.gz", b"odd".to_vec()),
        ("data.tar.gz", fs::read(data).expect("reads")),
    ] {
        let size = content.len();
        writeln!(package, "{name:<16}{:<12}{:<6}{:<6}{:<8}{size:<10}`", 0, 0, 0, "100644").expect("grows");
        package.extend(content);
        if size % 2 == 1 {
            package.push(b'\n');
        }
    }
    package
}

fn tool(root: &Path) {
    fs::create_dir_all(root.join("bin")).expect("makes");
    fs::create_dir_all(root.join("usr/share/doc/tool")).expect("makes");
    fs::write(root.join("bin/tool"), "#!/bin/sh\n").expect("writes");
    fs::set_permissions(root.join("bin/tool"), fs::Permissions::from_mode(0o4755)).expect("sets");
    fs::hard_link(root.join("bin/tool"), root.join("bin/same")).expect("links");
    fs::write(root.join("usr/share/doc/tool/copyright"), "ours").expect("writes");
    fs::write(root.join("usr/share/doc/tool/changelog"), "long").expect("writes");
}

fn sha256(content: &[u8]) -> String {
    use sha2::Digest as _;
    sha2::Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn declared(packages: &[Vec<u8>]) -> Declaration {
    let declaration = Declaration::parse(DECLARATION, "mine.toml").expect("right");
    let arch = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
    let debs = packages.iter().enumerate().map(|(n, package)| Deb {
        name: if n == 0 { "tool".to_owned() } else { format!("tool{n}") },
        version: "1:2.5-1".to_owned(),
        size: package.len() as u64,
        sha256: sha256(package),
        path: "pool/tool.deb".to_owned(),
    });
    let lock = Lock {
        request: declaration.request(),
        release: "bookworm".to_owned(),
        arch: arch.to_owned(),
        debs: debs.collect(),
        wheels: Vec::new(),
    };
    declaration.with_lock(&lock.text(), "mine.lock").expect("right")
}

/// A library that has these packages already, and nowhere to get others from.
fn library(dir: &Path, packages: &[Vec<u8>]) -> Library {
    let downloads = dir.join("downloads");
    fs::create_dir_all(&downloads).expect("makes");
    for package in packages {
        fs::write(downloads.join(sha256(package)), package).expect("writes");
    }
    open(dir, declared(packages))
}

fn open(dir: &Path, declaration: Declaration) -> Library {
    let nowhere = Sources {
        debian: vec!["http://127.0.0.1:1/debian".to_owned()],
        apt_helper: PathBuf::from("/nonexistent/apt-helper"),
        ..Sources::default()
    };
    let options = Options { sources: nowhere, ..Options::default() };
    Library::open_with(dir, vec![declaration], options).expect("opens")
}

fn build(packages: &[Vec<u8>]) -> Result<(Image, tempfile::TempDir), EnvironmentError> {
    let dir = temp();
    let image = library(dir.path(), packages).ensure("mine", &|_| ())?;
    Ok((image, dir))
}

#[test]
fn packages_become_an_image_that_nobody_can_write() {
    let dir = temp();
    let stages = std::cell::RefCell::new(Vec::new());
    let note = |progress: Progress| {
        if stages.borrow().last() != Some(&progress.stage) {
            stages.borrow_mut().push(progress.stage);
        }
    };
    let library = library(dir.path(), &[deb(tool)]);
    let image = library.ensure("mine", &note).expect("builds");
    assert_eq!(stages.into_inner(), [Stage::Downloading, Stage::Unpacking]);
    assert_eq!(image.interpreter, "2.5");
    assert_eq!(library.status("mine"), Status::Ready(image.clone()));
    for (path, meta) in tree(&image.root) {
        assert!(meta.is_symlink() || meta.mode() & 0o7022 == 0, "{path:?}: {:o}", meta.mode());
        assert!(!meta.is_file() || meta.nlink() == 1, "{path:?}");
    }
    let at = |path: &str| image.root.join(path);
    assert_eq!(fs::read(at("usr/bin/same")).expect("reads"), b"#!/bin/sh\n");
    assert_eq!(fs::read_link(at("bin")).expect("a link"), Path::new("usr/bin"));
    assert_eq!(fs::read_link(at("usr/bin/alias")).expect("a link"), Path::new("tool"));
    assert!(at("usr/share/doc/tool/copyright").exists() && !at("usr/share/doc/tool/changelog").exists());
    assert!(fs::read_to_string(at("etc/passwd")).expect("text").contains("eval:x:1000"));
}

#[test]
fn a_later_process_finds_it_and_another_lock_makes_another() {
    let (dir, packages) = (temp(), [deb(tool)]);
    let image = library(dir.path(), &packages).ensure("mine", &|_| ()).expect("builds");
    let again = open(dir.path(), declared(&packages));
    assert_eq!(again.status("mine"), Status::Ready(image.clone()));
    assert_eq!(again.ensure("mine", &|_| ()).expect("is whole"), image);
    drop(again);
    let more = [packages[0].clone(), deb(|root| fs::write(root.join("more"), "").expect("writes"))];
    assert_eq!(open(dir.path(), declared(&more)).status("mine"), Status::NotBuilt);
}

#[test]
fn the_digest_is_of_what_is_in_the_packages_and_of_nothing_else() {
    let package = deb(tool);
    let (one, _one) = build(std::slice::from_ref(&package)).expect("builds");
    // Packed anew: other times in the archive, other bytes of the package, the same files.
    let again = deb(|root| {
        tool(root);
        run(Command::new("touch").args(["-d", "2001-01-01"]).arg(root.join("bin/tool")));
    });
    assert_ne!(package, again);
    let (other, _other) = build(&[again]).expect("builds");
    assert_eq!(one.digest, other.digest);
    let changed = deb(|root| {
        tool(root);
        fs::write(root.join("bin/tool2"), "").expect("writes");
    });
    assert_ne!(build(&[changed]).expect("builds").0.digest, one.digest);
}

#[test]
fn what_is_not_what_was_locked_is_thrown_away_and_nothing_is_left() {
    let (dir, packages) = (temp(), [deb(tool)]);
    let library = library(dir.path(), &packages);
    let kept = dir.path().join("downloads").join(sha256(&packages[0]));
    let mut content = fs::read(&kept).expect("reads");
    content[100] ^= 1;
    fs::write(&kept, content).expect("writes");
    let error = library.ensure("mine", &|_| ()).expect_err("it is another");
    assert!(matches!(&error, EnvironmentError::Fetch { what, .. } if what == "tool 1:2.5-1"), "{error}");
    assert!(!kept.exists(), "and was not kept");
    assert!(
        matches!(library.status("mine"), Status::Failed { reason, lasting: false } if reason.contains("tool 1:2.5-1"))
    );
    for part in ["downloads", "building", "images", "names"] {
        assert_eq!(entries(&dir.path().join(part)), 0, "{part}");
    }
}

#[test]
fn a_client_that_brings_something_else_is_found_out() {
    let (dir, packages) = (temp(), [deb(tool)]);
    let helper = dir.path().join("helper");
    fs::write(&helper, "#!/bin/sh\necho something else > \"$3\"\n").expect("writes");
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).expect("sets");
    let sources =
        Sources { debian: vec!["http://127.0.0.1:1".to_owned()], apt_helper: helper, ..Sources::default() };
    let options = Options { sources, ..Options::default() };
    let images = dir.path().join("images");
    let library = Library::open_with(&images, vec![declared(&packages)], options).expect("opens");
    let error = library.ensure("mine", &|_| ()).expect_err("it is another");
    assert!(matches!(error, EnvironmentError::WrongHash { .. }), "{error}");
    assert_eq!(entries(&images.join("downloads")), 0);
}

/// A library whose client does what a script says.
fn fetching(dir: &Path, packages: &[Vec<u8>], script: &str) -> Library {
    let helper = dir.join("helper");
    fs::write(&helper, format!("#!/bin/sh\n{script}")).expect("writes");
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).expect("sets");
    let sources =
        Sources { debian: vec!["http://127.0.0.1:1".to_owned()], apt_helper: helper, ..Sources::default() };
    let options = Options { sources, ..Options::default() };
    Library::open_with(&dir.join("images"), vec![declared(packages)], options).expect("opens")
}

#[test]
fn a_download_that_was_cut_short_is_gone_on_with() {
    let (dir, packages) = (temp(), [deb(tool)]);
    let whole = dir.path().join("whole");
    fs::write(&whole, &packages[0]).expect("writes");
    let short = format!("head -c 100 {} > \"$3\"; exit 100", whole.display());
    fetching(dir.path(), &packages, &short).ensure("mine", &|_| ()).expect_err("it is cut short");
    // A client that only ever adds to what lies there.
    let rest = format!("tail -c +101 {} >> \"$3\"", whole.display());
    fetching(dir.path(), &packages, &rest).ensure("mine", &|_| ()).expect("goes on");
    assert_eq!(entries(&dir.path().join("images/downloads")), 1);
    // What is no beginning of it is found out, and it is begun anew.
    let dir = temp();
    let anew = format!("if [ -e \"$3\" ]; then exit 0; fi; cp {} \"$3\"", whole.display());
    let library = fetching(dir.path(), &packages, &anew);
    let name = format!("images/downloads/partial-{}", sha256(&packages[0]));
    fs::write(dir.path().join(name), "something else").expect("writes");
    library.ensure("mine", &|_| ()).expect("is begun anew");
}

#[test]
fn a_client_can_write_no_more_than_the_package_has() {
    let (dir, packages) = (temp(), [deb(tool)]);
    let library = fetching(dir.path(), &packages, "exec cat /dev/zero > \"$3\"");
    let error = library.ensure("mine", &|_| ()).expect_err("it never ends");
    assert!(matches!(&error, EnvironmentError::Fetch { .. }), "{error}");
    let partial = dir.path().join(format!("images/downloads/partial-{}", sha256(&packages[0])));
    let came = fs::metadata(partial).expect("what came").len();
    assert!(came <= (packages[0].len() as u64).next_multiple_of(512), "{came}");
}

#[test]
fn clearing_up_keeps_the_downloads_that_a_lock_names() {
    let (dir, packages) = (temp(), [deb(tool)]);
    let library = library(dir.path(), &packages);
    let downloads = dir.path().join("downloads");
    fs::write(downloads.join("0".repeat(64)), "of no lock").expect("writes");
    fs::write(downloads.join(format!("partial-{}", "1".repeat(64))), "half").expect("writes");
    library.ensure("mine", &|_| ()).expect("builds");
    let swept = library.collect().expect("clears").expect("is alone");
    assert_eq!((swept.downloads, swept.bytes, swept.images), (2, 14, 0));
    assert_eq!(entries(&downloads), 1);
    assert!(downloads.join(sha256(&packages[0])).exists());
}

#[test]
fn hostile_packages_are_refused_and_leave_nothing() {
    type Fill = fn(&Path);
    let fifo: Fill = |root| run(Command::new("mkfifo").arg(root.join("pipe")));
    let device: Fill = |root| run(Command::new("mknod").arg(root.join("null")).args(["c", "1", "3"]));
    let through: Fill = |root| {
        std::os::unix::fs::symlink("/", root.join("usr")).expect("links");
    };
    let mut cases = vec![
        (vec![deb(fifo)], "neither file, directory nor link"),
        (vec![deb(through)], "in two packages"),
        (vec![deb(tool), deb(|root| fs::write(root.join("eval"), "x").expect("writes"))], "in two packages"),
        (vec![b"!<arch>\n".to_vec()], "no member data.tar"),
        (vec![b"PK\x03\x04".to_vec()], "cannot be unpacked"),
        (vec![deb(tool)[..400].to_vec()], "cannot be unpacked"),
    ];
    if super::support::is_root() {
        cases.push((vec![deb(device)], "neither file, directory nor link"));
    }
    for (packages, word) in cases {
        let dir = temp();
        let error = library(dir.path(), &packages).ensure("mine", &|_| ()).expect_err(word);
        assert!(error.reason().contains(word), "{word}: {}", error.reason());
        assert_eq!(entries(&dir.path().join("images")), 0, "{word}");
    }
}

#[test]
fn without_a_lock_or_with_anothers_nothing_is_built() {
    let dir = temp();
    let unlocked = Declaration::parse(DECLARATION, "mine.toml").expect("right");
    let error = open(dir.path(), unlocked).ensure("mine", &|_| ()).expect_err("not locked");
    assert!(error.to_string().contains("fumehood env lock mine"), "{error}");
    let mut other = declared(&[deb(tool)]);
    other.packages.debian.push("more".to_owned());
    let error = open(dir.path(), other).ensure("mine", &|_| ()).expect_err("another lock");
    assert!(matches!(error, EnvironmentError::OtherLock { .. }), "{error}");
}

#[test]
fn an_image_of_what_was_asked_for_before_is_nobodys() {
    let (dir, packages) = (temp(), [deb(tool)]);
    library(dir.path(), &packages).ensure("mine", &|_| ()).expect("builds");
    let mut changed = declared(&packages);
    changed.packages.debian.push("more".to_owned());
    let library = open(dir.path(), changed);
    let said = "its declaration was changed after it was locked: `fumehood env lock mine`";
    assert!(
        matches!(library.status("mine"), Status::Failed { reason, lasting: true } if reason.starts_with(said)),
        "{:?}",
        library.status("mine")
    );
    for refused in [library.ensure("mine", &|_| ()), library.verify("mine")] {
        assert!(matches!(refused, Err(EnvironmentError::OtherLock { .. })), "{refused:?}");
    }
    // And it is there again once the declaration is what it was.
    assert!(matches!(open(dir.path(), declared(&packages)).status("mine"), Status::Ready(_)));
}
