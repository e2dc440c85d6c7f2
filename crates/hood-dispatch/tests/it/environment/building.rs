//! Grey box: builds that meet, that are killed, and images that are no longer what they were.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hood_dispatch::environment::{EnvironmentError, Image, Progress, Stage, Status};

use super::support::{ensure, entries, has_python, is_root, library_of, open, run, skip, temp};

const CHILD_DIR: &str = "HOOD_TEST_ENVIRONMENT_DIR";
const CHILD_STOPS: &str = "HOOD_TEST_ENVIRONMENT_STOPS";

/// Not a test of its own: the other process of those below.
#[test]
#[ignore = "started by other tests"]
fn child_that_builds() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else { return };
    let stops = std::env::var_os(CHILD_STOPS).is_some();
    let library = open(dir.as_ref(), None);
    let step = |progress: Progress| {
        if stops && progress.files_done == 100 {
            let _ = writeln!(std::io::stderr(), "half way");
            // Until the parent kills or lets go.
            let _ = std::io::stdin().read(&mut [0]);
        }
        if progress.files_done == 1 {
            let _ = writeln!(std::io::stderr(), "{}", progress.stage.as_str());
        }
    };
    let image = library.ensure("minimal", &step).expect("an image");
    let _ = writeln!(std::io::stderr(), "{}", image.digest);
}

fn child_command(program: &Path, dir: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .args(["--exact", "environment::building::child_that_builds", "--ignored", "--nocapture"])
        .env(CHILD_DIR, dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

fn child(dir: &Path, stops: bool) -> Child {
    let mut command = child_command(&std::env::current_exe().expect("known"), dir);
    if stops {
        command.env(CHILD_STOPS, "1");
    }
    command.spawn().expect("starts")
}

/// Waits for the child's line.
fn until(child: &mut Child, line: &str) {
    let stderr = child.stderr.take().expect("piped");
    let mut lines = BufReader::new(stderr).lines();
    assert!(lines.any(|found| found.expect("text") == line), "the child never said `{line}`");
}

fn said(child: Child) -> Vec<String> {
    let output = child.wait_with_output().expect("ends");
    assert!(output.status.success());
    String::from_utf8_lossy(&output.stderr).lines().map(str::to_owned).collect()
}

#[test]
fn it_is_built_once_and_then_at_hand() {
    if !has_python() {
        return;
    }
    let dir = temp();
    let library = open(dir.path(), None);
    assert_eq!(library.status("minimal"), Status::NotBuilt);
    assert!(!library.is_ready("minimal"));
    let (image, stages) = ensure(&library);
    assert_eq!(stages, [Stage::Looking, Stage::Copying]);
    assert_eq!(library.status("minimal"), Status::Ready(image.clone()));
    assert!(library.is_ready("minimal"));
    assert_eq!(image.digest.strip_prefix("blake3:").map(str::len), Some(64));
    assert_eq!(ensure(&library), (image.clone(), vec![]));
    drop(library);
    let library = open(dir.path(), None);
    assert_eq!(library.status("minimal"), Status::Ready(image.clone()));
    assert!(!library.is_ready("minimal"), "it has not been checked by this process");
    assert_eq!(ensure(&library), (image, vec![Stage::Checking]));
}

#[test]
fn nothing_changed_is_found_out_within_five_milliseconds() {
    if !has_python() {
        return;
    }
    let dir = temp();
    let library = open(dir.path(), None);
    ensure(&library);
    let mut times: Vec<Duration> = (0..51)
        .map(|_| {
            let start = Instant::now();
            ensure(&library);
            start.elapsed()
        })
        .collect();
    times.sort();
    assert!(times[25] < Duration::from_millis(5), "{:?}", times[25]);
}

#[test]
fn progress_counts_up_to_its_totals() {
    if !has_python() {
        return;
    }
    let dir = temp();
    let library = open(dir.path(), None);
    let seen = std::cell::RefCell::new(Vec::new());
    let building = |progress: Progress| {
        assert_eq!(library.status("minimal"), Status::Building(progress));
        seen.borrow_mut().push(progress);
    };
    let image = library.ensure("minimal", &building).expect("an image");
    let last = *seen.borrow().last().expect("some");
    assert_eq!((last.files_done, last.bytes_done), (image.files, image.size_bytes));
    assert_eq!((last.files_total, last.bytes_total), (image.files, image.size_bytes));
    let copying = seen.borrow().iter().filter(|progress| progress.stage == Stage::Copying).count() as u64;
    assert_eq!(copying, image.files + 1);
}

#[test]
fn the_same_host_gives_the_same_digest() {
    if !has_python() {
        return;
    }
    let (one, other) = (temp(), temp());
    let (first, _) = ensure(&open(one.path(), None));
    let (second, _) = ensure(&open(other.path(), None));
    assert_eq!(first.digest, second.digest);
}

#[test]
fn of_several_threads_one_builds() {
    if !has_python() {
        return;
    }
    let dir = temp();
    let (library, start, builds) = (open(dir.path(), None), Barrier::new(4), AtomicUsize::new(0));
    let images: Vec<Image> = std::thread::scope(|scope| {
        let one = || {
            start.wait();
            let note = |progress: Progress| {
                // Who waited finds it at hand and need not even check it.
                assert_ne!(progress.stage, Stage::Checking);
                if progress.stage == Stage::Looking {
                    builds.fetch_add(1, Ordering::Relaxed);
                }
            };
            library.ensure("minimal", &note).expect("an image")
        };
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(one)).collect();
        threads.into_iter().map(|thread| thread.join().expect("ends")).collect()
    });
    assert!(images.iter().all(|image| *image == images[0]));
    assert_eq!(builds.into_inner(), 1);
    assert_eq!(entries(&dir.path().join("images")), 1);
}

#[test]
fn of_several_processes_one_builds_and_the_others_check() {
    if !has_python() {
        return;
    }
    let dir = temp();
    let children: Vec<Child> = (0..3).map(|_| child(dir.path(), false)).collect();
    let lines: Vec<String> = children.into_iter().flat_map(said).collect();
    let count = |line: &str| lines.iter().filter(|found| *found == line).count();
    assert_eq!((count("copying"), count("checking")), (1, 2), "{lines:?}");
    let digests: Vec<&String> = lines.iter().filter(|line| line.starts_with("blake3:")).collect();
    assert!(digests.len() == 3 && digests.iter().all(|digest| *digest == digests[0]));
    assert_eq!((entries(&dir.path().join("building")), entries(&dir.path().join("images"))), (0, 1));
}

#[test]
fn an_ordinary_user_builds_the_same_image_and_owns_it() {
    const USER: u32 = 65534;
    let python = Path::new("/usr/bin/python3");
    if !is_root() || !python.exists() {
        // Without root, every other test is this one.
        if is_root() {
            skip("no /usr/bin/python3, which an ordinary user could run (apt install python3)");
        }
        return;
    }
    let dir = temp();
    std::os::unix::fs::chown(dir.path(), Some(USER), Some(USER)).expect("gives");
    // Where the test's own program lies, an ordinary user may not look.
    let program = dir.path().join("test");
    fs::copy(std::env::current_exe().expect("known"), &program).expect("copies");
    let library = dir.path().join("library");
    let mut command = child_command(&program, &library);
    let child = command.env("PATH", "/usr/bin:/bin").uid(USER).gid(USER).current_dir("/").spawn();
    let lines = said(child.expect("starts"));
    let other = temp();
    let (image, _) = ensure(&open(other.path(), Some(python)));
    assert!(lines.contains(&image.digest), "{lines:?}");
    let digest = image.digest.strip_prefix("blake3:").expect("has it");
    let theirs = fs::metadata(library.join("images").join(digest).join("root/usr/bin/sh")).expect("is there");
    assert_eq!((theirs.uid(), theirs.gid()), (USER, USER));
}

#[test]
fn a_build_killed_half_way_leaves_nothing_that_the_next_would_trip_over() {
    if !has_python() {
        return;
    }
    let dir = temp();
    let building = dir.path().join("building");
    // Once with the library open elsewhere, where the next build clears up, once without, where
    // opening does.
    for open_meanwhile in [true, false] {
        let library = open_meanwhile.then(|| open(dir.path(), None));
        let mut child = child(dir.path(), true);
        until(&mut child, "half way");
        assert!(building.join("minimal/root/usr").is_dir());
        assert_eq!(entries(&dir.path().join("images")), 0);
        child.kill().expect("kills");
        child.wait().expect("ends");
        assert_eq!(entries(&building), 1, "it was killed in the middle");
        let library = library.unwrap_or_else(|| {
            let library = open(dir.path(), None);
            assert_eq!(entries(&building), 0);
            library
        });
        let (image, stages) = ensure(&library);
        assert_eq!(stages, [Stage::Looking, Stage::Copying]);
        assert_eq!(entries(&building), 0);
        library.verify("minimal").expect("it is whole");
        fs::remove_dir_all(image.root.parent().expect("has one")).expect("removes");
        fs::remove_file(dir.path().join("names/minimal.json")).expect("removes");
    }
}

#[test]
fn a_library_that_opens_beside_a_build_leaves_it_alone() {
    if !has_python() {
        return;
    }
    let dir = temp();
    let mut child = child(dir.path(), true);
    until(&mut child, "half way");
    let library = open(dir.path(), None);
    assert_eq!(library.status("minimal"), Status::NotBuilt);
    assert!(dir.path().join("building/minimal/root/usr").is_dir());
    child.stdin.take().expect("piped").write_all(b"\n").expect("lets go");
    assert!(child.wait().expect("ends").success());
    assert_eq!(ensure(&library).1, [Stage::Checking]);
}

/// Changes something and sets the time of a file or directory back, as if the change had not gone
/// through the file system.
fn hidden(path: &Path, change: impl Fn()) {
    let time = fs::metadata(path).expect("is there").modified().expect("known");
    change();
    File::open(path).expect("opens").set_modified(time).expect("sets");
}

fn corrupt(path: &Path) {
    hidden(path, || {
        let mut content = fs::read(path).expect("reads");
        let middle = content.len() / 2;
        content[middle] ^= 1;
        fs::write(path, content).expect("writes");
    });
}

fn complaint(error: &EnvironmentError) -> &str {
    match error {
        EnvironmentError::Corrupt { what, .. } => what,
        other => panic!("{other}"),
    }
}

#[test]
fn whatever_is_changed_in_an_image_is_found() {
    if !has_python() {
        return;
    }
    let (dir, aside) = (temp(), temp());
    let library = open(dir.path(), None);
    let (image, _) = ensure(&library);
    let (root, os) = (&image.root, library_of(&image).join("os.py"));
    let (usr, lib) = (root.join("usr"), library_of(&image));
    let evil = usr.join("evil");
    let program = fs::canonicalize(usr.join("bin/python3")).expect("is there");
    let mode = |mode| fs::set_permissions(&program, fs::Permissions::from_mode(mode)).expect("sets");
    let away = aside.path().join("away");
    let moved = |from: &Path, to: &Path| run(Command::new("mv").arg(from).arg(to));
    // What is complained of, what is done to the image, and what undoes it.
    type Change<'a> = (&'a str, &'a dyn Fn(), &'a dyn Fn());
    let changes: [Change<'_>; 8] = [
        ("os.py was changed", &|| corrupt(&os), &|| corrupt(&os)),
        ("os.py is gone", &|| hidden(&lib, || moved(&os, &away)), &|| hidden(&lib, || moved(&away, &os))),
        (
            "usr/evil was added",
            &|| {
                hidden(&usr, || std::os::unix::fs::symlink("bin", &evil).expect("links"));
                disguise(&evil, &usr);
            },
            &|| hidden(&usr, || fs::remove_file(&evil).expect("removes")),
        ),
        ("usr was changed since", &|| fs::create_dir(&evil).expect("makes"), &|| {
            fs::remove_dir(&evil).expect("removes");
            disguise(&usr, root);
        }),
        ("has mode 4755", &|| mode(0o4755), &|| mode(0o755)),
        (
            "os.py is no file of its own",
            &|| fs::hard_link(&os, dir.path().join("link")).expect("links"),
            &|| fs::remove_file(dir.path().join("link")).expect("removes"),
        ),
        ("/ belongs to", &|| give(root, 1), &|| give(root, fs::metadata(&os).expect("is there").uid())),
        ("/ cannot be read", &|| moved(root, &away), &|| moved(&away, root)),
    ];
    for (words, change, undo) in changes {
        if words.contains("belongs") && !is_root() {
            continue;
        }
        change();
        let error = library.verify("minimal").expect_err(words);
        assert!(complaint(&error).contains(words), "{words}: {error}");
        assert!(!library.is_ready("minimal"));
        undo();
        assert_eq!(ensure(&library), (image.clone(), vec![Stage::Checking]), "{words}");
    }
}

fn give(path: &Path, owner: u32) {
    std::os::unix::fs::chown(path, Some(owner), None).expect("gives");
}

#[test]
fn a_corrupt_image_is_built_anew_and_kept_aside_for_who_runs_from_it() {
    if !has_python() {
        return;
    }
    let dir = temp();
    let library = open(dir.path(), None);
    let (image, _) = ensure(&library);
    corrupt(&library_of(&image).join("os.py"));
    library.verify("minimal").expect_err("corrupt");
    assert_eq!(ensure(&library), (image, vec![Stage::Checking, Stage::Looking, Stage::Copying]));
    library.verify("minimal").expect("it is whole again");
    let retired = dir.path().join("retired");
    assert_eq!(entries(&retired), 1);
    drop(open(dir.path(), None));
    assert_eq!(entries(&retired), 1, "another library was open");
    drop(library);
    open(dir.path(), None);
    assert_eq!(entries(&retired), 0);
}

/// Gives a link the time and owner of another file, as everything in an image has the same.
fn disguise(link: &Path, like: &Path) {
    let meta = fs::metadata(like).expect("is there");
    let status = Command::new("touch")
        .args(["--no-dereference", "--date"])
        .arg(format!("@{}", meta.mtime()))
        .arg(link)
        .status();
    assert!(status.expect("starts").success());
    if is_root() {
        std::os::unix::fs::lchown(link, Some(meta.uid()), Some(meta.gid())).expect("gives");
    }
}

#[test]
fn an_image_that_was_changed_while_nobody_looked_is_built_anew_at_its_first_use() {
    if !has_python() {
        return;
    }
    let dir = temp();
    let (image, _) = ensure(&open(dir.path(), None));
    corrupt(&library_of(&image).join("os.py"));
    let library = open(dir.path(), None);
    let (again, stages) = ensure(&library);
    assert_eq!(stages, [Stage::Checking, Stage::Looking, Stage::Copying]);
    assert_eq!(again, image);
    library.verify("minimal").expect("it is whole again");
}

#[test]
fn a_record_that_makes_no_sense_means_that_it_is_not_built() {
    if !has_python() {
        return;
    }
    let dir = temp();
    let (image, _) = ensure(&open(dir.path(), None));
    let record = dir.path().join("names/minimal.json");
    let text = fs::read_to_string(&record).expect("reads");
    let hex = image.digest.strip_prefix("blake3:").expect("has it");
    for bad in [String::new(), text[..text.len() / 2].to_owned(), text.replace(hex, "../../../../etc")] {
        fs::write(&record, bad).expect("writes");
        let library = open(dir.path(), None);
        assert_eq!(library.status("minimal"), Status::NotBuilt);
        assert_eq!(ensure(&library).0, image);
    }
}

#[test]
fn an_environment_that_nobody_declared_is_named_with_those_that_are() {
    let dir = temp();
    let library = open(dir.path(), None);
    let error = library.ensure("maximal", &|_| ()).expect_err("unknown");
    assert_eq!(error.to_string(), "no environment is called `maximal`; there are: minimal");
    assert_eq!(library.status("maximal"), Status::NotBuilt);
}
