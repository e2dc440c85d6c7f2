//! White box: a tree written as an image and read again.

use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use hood_image::{Exported, ImageConfig, Recipe, Source, export};

use crate::make::Bench;

fn tree(root: &Path) {
    for dir in ["bin", "dev", "eval", "proc", "tmp", "empty"] {
        fs::create_dir(root.join(dir)).expect("made");
        fs::set_permissions(root.join(dir), fs::Permissions::from_mode(0o755)).expect("set");
    }
    let odd = std::ffi::OsStr::from_bytes(b"odd\n\xff");
    let long = format!("{}/{}", "d".repeat(120), "f".repeat(200));
    fs::create_dir(root.join("d".repeat(120))).expect("made");
    for (path, mode) in [(Path::new("bin/app"), 0o755), (Path::new(odd), 0o644), (Path::new(&long), 0o644)] {
        fs::write(root.join(path), path.as_os_str().as_bytes()).expect("written");
        fs::set_permissions(root.join(path), fs::Permissions::from_mode(mode)).expect("set");
    }
    symlink("bin/app", root.join("link")).expect("linked");
    symlink("n".repeat(300), root.join("far")).expect("linked");
}

fn written(root: &Path, to: &Path) -> Exported {
    let config = ImageConfig {
        entrypoint: vec!["/bin/app".into()],
        env: vec![("A".into(), "b=c".into())],
        user: "1000:1000".into(),
        workdir: "/srv".into(),
        labels: vec![("l".into(), "v".into())],
        ..ImageConfig::default()
    };
    let agent = (".fumehood/hood-agent".to_owned(), b"agent".to_vec());
    let layers = vec![Source::Tree(root.to_owned()), Source::Programs(vec![agent])];
    let recipe = Recipe { layers, config, reference: "app:1".into() };
    export(&recipe, File::create(to).expect("made"), tempfile::tempfile().expect("made")).expect("written")
}

#[test]
fn the_same_tree_gives_the_same_bytes_wherever_and_whenever() {
    let dir = tempfile::tempdir().expect("a directory");
    let (first, second) = (dir.path().join("one"), dir.path().join("other/deeper"));
    fs::create_dir_all(&first).expect("made");
    fs::create_dir_all(&second).expect("made");
    // In another order, and at another time, which file systems keep.
    symlink("bin/app", second.join("link")).expect("linked");
    fs::remove_file(second.join("link")).expect("removed");
    tree(&first);
    tree(&second);
    let old = fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH);
    File::open(second.join("bin/app")).expect("there").set_times(old).expect("set");
    let (a, b) = (dir.path().join("a.tar"), dir.path().join("b.tar"));
    let (one, other) = (written(&first, &a), written(&second, &b));
    assert_eq!(one, other);
    let bytes = fs::read(&a).expect("there");
    assert_eq!(bytes.len() as u64, one.bytes);
    assert!(bytes == fs::read(&b).expect("there"));
    fs::write(second.join("bin/app"), "changed").expect("written");
    assert_ne!(written(&second, &b).digest, one.digest);
}

#[test]
fn what_was_written_is_read_as_it_was() {
    let dir = tempfile::tempdir().expect("a directory");
    let root = dir.path().join("tree");
    fs::create_dir(&root).expect("made");
    tree(&root);
    let to = dir.path().join("a.tar");
    let exported = written(&root, &to);
    let bench = Bench::new();
    let unpacked = bench.unpack(&fs::read(&to).expect("there")).expect("sound");
    assert_eq!(unpacked.digest, exported.digest.to_string());
    assert_eq!(unpacked.config.entrypoint, ["/bin/app"]);
    assert_eq!(unpacked.config.env, [("A".to_owned(), "b=c".to_owned())]);
    assert_eq!(unpacked.config.labels, [("l".to_owned(), "v".to_owned())]);
    assert_eq!((unpacked.config.user.as_str(), unpacked.config.workdir.as_str()), ("1000:1000", "/srv"));
    let found: Vec<String> = bench.tree().into_iter().map(|(name, what)| format!("{name} {what}")).collect();
    let (d, f, n) = ("d".repeat(120), "f".repeat(200), "n".repeat(300));
    let expected = [
        "bin dir".to_owned(),
        "bin/app 755 bin/app".to_owned(),
        format!("{d} dir"),
        format!("{d}/{f} 644 {d}/{f}"),
        "empty dir".to_owned(),
        format!("far -> {n}"),
        "link -> bin/app".to_owned(),
        r"odd\n\xff 644 odd\n\xff".to_owned(),
    ];
    assert_eq!(found, expected, "and not the agent");
}
