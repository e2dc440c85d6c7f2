//! Grey box: trees from elsewhere that become images.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use hood_dispatch::environment::{
    Bounds, EnvironmentError, Image, Imported, Library, Options, PATH_BYTES_MAX, Removed, Status,
};

use super::support::{entries, is_root, minimal, open, temp, tree};

fn imported() -> Imported {
    Imported {
        reference: "registry.example/team/app:1".to_owned(),
        source_digest: "sha256:00".to_owned(),
        entrypoint: vec!["/app".to_owned()],
        env: vec![("A".to_owned(), "b".to_owned())],
        workdir: Some("/srv".to_owned()),
        ..Imported::default()
    }
}

/// A tree with what images from elsewhere hold: several names of a file, odd names, odd modes.
fn fill(root: &Path) {
    fs::create_dir_all(root.join("usr/bin")).expect("makes");
    fs::write(root.join("usr/bin/tool"), "tool").expect("writes");
    fs::set_permissions(root.join("usr/bin/tool"), fs::Permissions::from_mode(0o4711)).expect("sets");
    fs::hard_link(root.join("usr/bin/tool"), root.join("usr/bin/other name\\")).expect("links");
    fs::write(root.join(OsStr::from_bytes(b"not text \xff\n")), "odd").expect("writes");
    fs::create_dir(root.join("private")).expect("makes");
    fs::write(root.join("private/key"), "k").expect("writes");
    fs::set_permissions(root.join("private/key"), fs::Permissions::from_mode(0o000)).expect("sets");
    fs::set_permissions(root.join("private"), fs::Permissions::from_mode(0o000)).expect("sets");
    symlink("/usr/bin/tool", root.join("link")).expect("links");
    symlink("../../../../etc/passwd", root.join("outside")).expect("links");
}

fn import(library: &Library, name: &str) -> Result<Image, EnvironmentError> {
    let staging = library.staging()?;
    fill(&staging.root());
    library.add_imported(staging, name, &imported(), &|_| ())
}

#[test]
fn a_tree_becomes_an_image_that_everybody_reads_and_nobody_writes() {
    let dir = temp();
    let library = open(dir.path(), None);
    let image = import(&library, "app").expect("imports");
    for (path, meta) in tree(&image.root) {
        assert_eq!(meta.mode() & 0o7000, 0, "{path:?}");
        if meta.is_symlink() {
            continue;
        }
        assert!(meta.mode() & 0o444 == 0o444 && meta.mode() & 0o022 == 0, "{path:?}: {:o}", meta.mode());
        assert!(meta.is_dir() || meta.nlink() == 1, "{path:?} has other names");
        if is_root() {
            assert_eq!(meta.uid(), hood_dispatch::environment::IMAGE_OWNER, "{path:?}");
        }
    }
    let read = |name: &[u8]| fs::read(image.root.join(OsStr::from_bytes(name))).expect("reads");
    assert_eq!(read(b"usr/bin/other name\\"), b"tool");
    assert_eq!(read(b"not text \xff\n"), b"odd");
    assert_eq!(
        fs::read_link(image.root.join("outside")).expect("a link"),
        Path::new("../../../../etc/passwd")
    );
    assert_eq!(entries(&dir.path().join("staging")), 0);
    let declaration = library.declarations().into_iter().find(|one| one.name == "app").expect("declared");
    assert!(
        declaration.description.contains("registry.example/team/app:1") && declaration.base.is_portable()
    );
    assert_eq!(library.imported("app"), Some(imported()));
    assert_eq!(library.imported("minimal"), None);
}

#[test]
fn the_same_tree_has_the_same_digest_and_another_process_finds_it() {
    let (one, other) = (temp(), temp());
    let library = open(one.path(), None);
    let image = import(&library, "app").expect("imports");
    let elsewhere = open(other.path(), None);
    assert_eq!(import(&elsewhere, "renamed").expect("imports").digest, image.digest);
    let second = open(one.path(), None);
    assert_eq!(second.status("app"), Status::Ready(image.clone()));
    assert_eq!(second.ensure("app", &|_| ()).expect("is whole"), image);
}

#[test]
fn a_change_in_it_is_found_and_says_to_import_again() {
    let dir = temp();
    let image = import(&open(dir.path(), None), "app").expect("imports");
    fs::set_permissions(image.root.join("usr/bin/tool"), fs::Permissions::from_mode(0o775)).expect("sets");
    let error = open(dir.path(), None).ensure("app", &|_| ()).expect_err("it was changed");
    assert!(matches!(error, EnvironmentError::ImportAgain { .. }), "{error}");
}

#[test]
fn what_cannot_be_an_image_is_refused_and_leaves_nothing() {
    let dir = temp();
    let bounds = Bounds { bytes: 64, inodes: 20, depth: 4 };
    let options = Options { imported: bounds, ..Options::default() };
    let library = Library::open_with(dir.path(), minimal(None), options).expect("opens");
    type Fill = fn(&Path);
    let cases: [(&str, Fill); 4] = [
        ("neither file", |root| {
            let mode = rustix::fs::Mode::RUSR;
            rustix::fs::mknodat(rustix::fs::CWD, root.join("fifo"), rustix::fs::FileType::Fifo, mode, 0)
                .expect("makes");
        }),
        ("bytes", |root| fs::write(root.join("large"), [0; 65]).expect("writes")),
        ("inodes", |root| (0..21).for_each(|n| fs::write(root.join(n.to_string()), "").expect("writes"))),
        ("path components", |root| fs::create_dir_all(root.join("a/b/c/d/e")).expect("makes")),
    ];
    for (word, fill) in cases {
        let staging = library.staging().expect("a directory");
        fill(&staging.root());
        let error = library.add_imported(staging, "app", &imported(), &|_| ()).expect_err("refused");
        assert!(error.to_string().contains(word), "{word}: {error}");
        assert!(library.imported("app").is_none() && entries(&dir.path().join("images")) == 0);
        assert_eq!(entries(&dir.path().join("staging")), 0);
    }
    for (name, word) in [("Up", "a-z"), ("minimal", "declared already"), ("../x", "a-z")] {
        let staging = library.staging().expect("a directory");
        let error = library.add_imported(staging, name, &imported(), &|_| ()).expect_err("refused");
        assert!(error.to_string().contains(word), "{name}: {error}");
    }
}

/// Bytes of a path within an image, and one more: as files that lie that deep.
#[test]
fn a_path_that_is_as_long_as_may_be_is_found_again_wherever_the_image_lies() {
    let dir = temp();
    let library = open(dir.path(), None);
    let deep = |root: &Path, bytes: usize| {
        let mut at = root.to_owned();
        let mut left = bytes;
        while left > 256 {
            at.push("c".repeat(200));
            left -= 201;
        }
        fs::create_dir_all(&at).expect("makes");
        fs::write(at.join("f".repeat(left)), "deep").expect("writes");
    };
    let staging = library.staging().expect("a directory");
    deep(&staging.root(), PATH_BYTES_MAX);
    let image = library.add_imported(staging, "app", &imported(), &|_| ()).expect("imports");
    assert_eq!(open(dir.path(), None).ensure("app", &|_| ()).expect("is whole"), image);

    let staging = library.staging().expect("a directory");
    deep(&staging.root(), PATH_BYTES_MAX + 1);
    let error =
        library.add_imported(staging, "other", &imported(), &|_| ()).expect_err("refused").to_string();
    assert!(error.contains("3073 bytes in a path, at most 3072"), "{error}");
}

#[test]
fn an_import_that_was_killed_is_swept_by_the_next_and_a_live_one_is_not() {
    let dir = temp();
    let library = open(dir.path(), None);
    let staging = dir.path().join("staging");
    // As a killed process leaves it: files, and a lock that nobody holds.
    fs::create_dir_all(staging.join("dead/root/x")).expect("makes");
    fs::write(staging.join("dead.lock"), "").expect("writes");
    let live = library.staging().expect("a directory");
    let another = library.staging().expect("a directory");
    assert!(!staging.join("dead").exists() && live.root().exists() && another.root().exists());
    assert_eq!(entries(&staging), 4);
    drop((live, another));
    assert_eq!(entries(&staging), 0);
}

#[test]
fn removed_means_gone_at_once_or_when_nobody_has_the_library_open() {
    let dir = temp();
    let library = open(dir.path(), None);
    let image = import(&library, "app").expect("imports");
    let twin = import(&library, "twin").expect("imports");
    assert_eq!(twin.root, image.root);
    assert_eq!(library.remove("twin").expect("removes"), Removed::NameOnly);
    assert!(image.root.exists() && library.imported("twin").is_none());
    let other = open(dir.path(), None);
    other.ensure("app", &|_| ()).expect("is whole");
    assert_eq!(library.remove("app").expect("removes"), Removed::NameOnly);
    assert!(image.root.exists(), "somebody may run from it");
    assert!(!other.is_ready("app"), "another process notices");
    assert!(matches!(library.remove("app"), Err(EnvironmentError::Unknown { .. })));
    assert_eq!(library.collect().expect("looks"), None);
    drop(other);
    let swept = open(dir.path(), None).collect().expect("clears").expect("alone");
    assert_eq!((swept.images, swept.bytes), (1, image.size_bytes));
    assert!(!image.root.exists());
    let library = open(dir.path(), None);
    let image = import(&library, "app").expect("imports");
    assert_eq!(library.remove("app").expect("removes"), Removed::Image { bytes: image.size_bytes });
    assert!(!image.root.exists());
}
