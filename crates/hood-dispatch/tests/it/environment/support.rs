//! Grey box: libraries in directories of their own, and a Python of this host that tests may change.

use std::cell::RefCell;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use hood_dispatch::environment::{Declaration, Image, Library, Options, Progress, Stage, builtin};
use tempfile::TempDir;

/// Whether this host has the Python that images are made from; says so where not.
pub(super) fn has_python() -> bool {
    let there = Command::new("python3").arg("-V").output().is_ok_and(|output| output.status.success());
    if !there {
        skip("no python3 on PATH (apt install python3)");
    }
    there
}

pub(super) fn skip(reason: &str) {
    let _ = writeln!(std::io::stderr(), "\nSKIPPED: environment: {reason}");
}

pub(super) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// `minimal`, made from another interpreter where one is named.
pub(super) fn minimal(interpreter: Option<&Path>) -> Vec<Declaration> {
    let mut declarations = builtin().expect("ours are right");
    declarations.truncate(1);
    if let Some(path) = interpreter {
        declarations[0].interpreter = path.to_str().expect("text").to_owned();
    }
    declarations
}

pub(super) fn open(dir: &Path, interpreter: Option<&Path>) -> Library {
    Library::open(dir, minimal(interpreter)).expect("opens")
}

pub(super) fn open_with(dir: &Path, interpreter: Option<&Path>, options: Options) -> Library {
    Library::open_with(dir, minimal(interpreter), options).expect("opens")
}

/// The image, and the stages that it took, each once.
pub(super) fn ensure(library: &Library) -> (Image, Vec<Stage>) {
    let stages = RefCell::new(Vec::new());
    // A process that another test forks holds our locks until it executes: a wait that means nothing.
    let note = |progress: Progress| {
        let waits = progress.stage == Stage::Waiting;
        if !waits && stages.borrow().last() != Some(&progress.stage) {
            stages.borrow_mut().push(progress.stage);
        }
    };
    let image = library.ensure("minimal", &note).expect("an image");
    (image, stages.into_inner())
}

/// The image of this host's own Python, kept between runs: for tests that change nothing in it.
pub(super) fn shared() -> Image {
    ensure(&open(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("environments"), None)).0
}

/// In memory where that can hold programs: on disks, file systems are slow to make many files just
/// after as many were removed, which is all that these tests do.
pub(super) fn temp() -> TempDir {
    const ROOM_BYTES: u64 = 2 << 30;
    let shm = rustix::fs::statvfs("/dev/shm").ok().filter(|fs| {
        let runs = !fs.f_flag.contains(rustix::fs::StatVfsMountFlags::NOEXEC);
        runs && fs.f_bavail * fs.f_frsize > ROOM_BYTES
    });
    let dir = if shm.is_some() { tempfile::tempdir_in("/dev/shm") } else { tempfile::tempdir() };
    dir.expect("a temporary directory")
}

/// A copy of this host's Python that a test may change: `bin/python3` and its library.
pub(super) struct Host {
    dir: TempDir,
    version: String,
}

impl Host {
    pub(super) fn copy() -> Self {
        let (image, dir) = (shared(), temp());
        let version: Vec<&str> = image.interpreter.split('.').take(2).collect();
        let host = Self { version: version.join("."), dir };
        let usr = image.root.join("usr");
        fs::create_dir(host.dir.path().join("bin")).expect("makes");
        let programs = [usr.join("bin/python3"), usr.join(format!("bin/python{}", host.version))];
        run(Command::new("cp").arg("-a").args(programs).arg(host.dir.path().join("bin")));
        for lib in ["lib", "lib64"] {
            let from = usr.join(lib).join(format!("python{}", host.version));
            if from.is_dir() {
                fs::create_dir(host.dir.path().join(lib)).expect("makes");
                run(Command::new("cp").arg("-a").arg(from).arg(host.dir.path().join(lib)));
            }
        }
        host
    }

    pub(super) fn python(&self) -> PathBuf {
        self.dir.path().join("bin/python3")
    }

    /// A path in the standard library.
    pub(super) fn library(&self, path: &str) -> PathBuf {
        let name = format!("python{}", self.version);
        let dirs = ["lib", "lib64"].map(|lib| self.dir.path().join(lib).join(&name));
        dirs.into_iter().find(|dir| dir.join("os.py").exists()).expect("a library").join(path)
    }

    /// As a package manager writes: beside, then over.
    pub(super) fn upgrade(&self, path: &str, content: &str) {
        let (to, fresh) = (self.library(path), self.library(&format!("{path}.new")));
        fs::write(&fresh, content).expect("writes");
        fs::rename(fresh, to).expect("renames");
    }
}

/// The standard library of an image.
pub(super) fn library_of(image: &Image) -> PathBuf {
    let version: Vec<&str> = image.interpreter.split('.').take(2).collect();
    let dirs = ["lib", "lib64"]
        .map(|lib| image.root.join("usr").join(lib).join(format!("python{}", version.join("."))));
    dirs.into_iter().find(|dir| dir.join("os.py").exists()).expect("a library")
}

/// Runs a Python program with the image as its root; `None` where this host lets nobody do that.
pub(super) fn python(image: &Image, program: &str) -> Option<Output> {
    let mut command = if is_root() {
        let mut chroot = Command::new("chroot");
        chroot.arg("--userspec=1000:1000");
        chroot
    } else {
        let mut unshare = Command::new("unshare");
        unshare.args(["--user", "--map-root-user", "chroot"]);
        let possible = Command::new("unshare").args(["--user", "--map-root-user", "true"]).status();
        if !possible.is_ok_and(|status| status.success()) {
            skip("neither root nor unprivileged user namespaces");
            return None;
        }
        unshare
    };
    command
        .arg(&image.root)
        .args(["python3", "-c", program])
        .env_clear()
        .envs(hood_core::program::BASE_ENV)
        // Where a caller's PATH finds chroot matters to the host alone.
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    Some(command.output().expect("starts"))
}

/// Everything in a directory, by its path beneath it.
pub(super) fn tree(root: &Path) -> Vec<(PathBuf, fs::Metadata)> {
    let mut found = Vec::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(dir) = waiting.pop() {
        for entry in fs::read_dir(dir).expect("reads") {
            let path = entry.expect("reads").path();
            let meta = fs::symlink_metadata(&path).expect("is there");
            if meta.is_dir() {
                waiting.push(path.clone());
            }
            found.push((path.strip_prefix(root).expect("beneath").to_owned(), meta));
        }
    }
    found
}

pub(super) fn entries(dir: &Path) -> usize {
    fs::read_dir(dir).expect("reads").count()
}

pub(super) fn run(command: &mut Command) {
    let output = command.output().expect("starts");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
