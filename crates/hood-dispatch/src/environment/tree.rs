//! An image that is put together entry by entry from what packages hold.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::contents::Bounds;
use super::error::EnvironmentError;
use super::image::{self, Entry, Manifest, Owner};
use super::progress::Meter;

/// The longest path: more than the kernel takes in one piece could not be used.
const PATH_BYTES_MAX: usize = 4096;
const NAME_BYTES_MAX: usize = 255;

/// What is copied at a time.
const CHUNK_BYTES: usize = 256 * 1024;

/// Nothing is written beneath a link or a file: each parent is a directory that this tree has made
/// itself, in a root where nobody else writes.
pub(super) struct Tree<'a> {
    root: PathBuf,
    owner: Option<Owner>,
    bounds: Bounds,
    bytes: u64,
    manifest: Manifest,
    /// `None` once what is written is somebody else's to tell of.
    meter: Option<&'a Meter<'a>>,
}

impl<'a> Tree<'a> {
    /// `root` is made and must not be there.
    pub(super) fn new(
        root: &Path,
        owner: Option<Owner>,
        bounds: Bounds,
        meter: &'a Meter<'a>,
    ) -> Result<Self, EnvironmentError> {
        image::make_dir(root)?;
        let manifest = Manifest::default();
        Ok(Self { root: root.to_owned(), owner, bounds, bytes: 0, manifest, meter: Some(meter) })
    }

    pub(super) fn contains(&self, path: &str) -> bool {
        self.manifest.get(OsStr::new(path)).is_some()
    }

    /// Paths of files, as text; those that are not text are left out.
    pub(super) fn files(&self) -> impl Iterator<Item = (&str, u64)> {
        self.manifest.files_of()
    }

    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    pub(super) fn dir(&mut self, path: &[u8]) -> Result<(), EnvironmentError> {
        let path = self.parents(path)?;
        self.make_dir(path)
    }

    pub(super) fn link(&mut self, path: &[u8], target: &[u8]) -> Result<(), EnvironmentError> {
        let path = self.parents(path)?;
        let entry = Entry::link(OsStr::from_bytes(target));
        if self.is_there(path, &entry)? {
            return Ok(());
        }
        let to = self.root.join(path);
        std::os::unix::fs::symlink(OsStr::from_bytes(target), &to)
            .and_then(|()| image::settle(&to, self.owner, None))
            .map_err(EnvironmentError::io("write", &to))?;
        self.insert(path, entry)
    }

    /// Another name of a file becomes a file of its own.
    pub(super) fn same_file(&mut self, path: &[u8], earlier: &[u8]) -> Result<(), EnvironmentError> {
        let from = checked(earlier)?;
        let Some(Entry::File { executable, size, .. }) = self.manifest.get(from) else {
            return Err(wrong(earlier, "is named as a file that came before, and is none"));
        };
        let (executable, size) = (*executable, *size);
        let from = self.root.join(from);
        let mut file = File::open(&from).map_err(EnvironmentError::io("read", &from))?;
        self.file(path, executable, size, &mut file)
    }

    /// `content` is read up to `size`. Where the same file is there already, it stays.
    pub(super) fn file(
        &mut self,
        path: &[u8],
        executable: bool,
        size: u64,
        content: &mut dyn Read,
    ) -> Result<(), EnvironmentError> {
        let path = self.parents(path)?;
        self.bytes = self.bytes.saturating_add(size);
        bound("bytes", self.bytes, self.bounds.bytes)?;
        let to = self.root.join(path);
        let known = self.manifest.get(path).is_some();
        let entry = if known {
            let hash = copy(content, &mut io::sink(), size).map_err(EnvironmentError::io("read", &to))?;
            Entry::File { executable, size, hash }
        } else {
            let written = self.write(&to, executable, size, content);
            written.map_err(EnvironmentError::io("write", &to))?
        };
        if known && self.is_there(path, &entry)? {
            return Ok(());
        }
        self.insert(path, entry)
    }

    fn write(&self, to: &Path, executable: bool, size: u64, content: &mut dyn Read) -> io::Result<Entry> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
        let hash = copy(content, &mut file, size)?;
        drop(file);
        image::settle(to, self.owner, Some(image::file_mode(executable)))?;
        if let Some(meter) = self.meter {
            meter.file(size);
        }
        Ok(Entry::File { executable, size, hash })
    }

    /// Tells of no more files.
    pub(super) fn hush(&mut self) {
        self.meter = None;
    }

    /// Gives every directory its owner, mode and time, until something is written into it again.
    pub(super) fn settle(&self) -> Result<(), EnvironmentError> {
        image::settle_dirs(&self.root, self.owner).map_err(EnvironmentError::io("settle", &self.root))
    }

    /// Nothing more is written.
    pub(super) fn finish(self) -> Result<Manifest, EnvironmentError> {
        self.settle()?;
        Ok(self.manifest)
    }

    /// Makes what directories a path lies in.
    fn parents<'p>(&mut self, path: &'p [u8]) -> Result<&'p OsStr, EnvironmentError> {
        let checked = checked(path)?;
        let depth = path.split(|byte| *byte == b'/').count() as u64;
        bound("path components", depth, self.bounds.depth)?;
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(end, _)| end);
        for end in ends.collect::<Vec<_>>() {
            self.make_dir(OsStr::from_bytes(&path[..end]))?;
        }
        Ok(checked)
    }

    fn make_dir(&mut self, path: &OsStr) -> Result<(), EnvironmentError> {
        match self.manifest.get(path) {
            Some(Entry::Dir) => Ok(()),
            Some(_) => Err(wrong(path.as_bytes(), "is a directory in one package and none in another")),
            None => {
                image::make_dir(&self.root.join(path))?;
                self.insert(path, Entry::Dir)
            }
        }
    }

    fn is_there(&self, path: &OsStr, entry: &Entry) -> Result<bool, EnvironmentError> {
        match self.manifest.get(path) {
            None => Ok(false),
            Some(found) if found == entry => Ok(true),
            Some(_) => Err(wrong(path.as_bytes(), "is in two packages, each time another")),
        }
    }

    fn insert(&mut self, path: &OsStr, entry: Entry) -> Result<(), EnvironmentError> {
        self.manifest.insert(path, entry);
        bound("inodes", self.manifest.len(), self.bounds.inodes)
    }
}

fn copy(from: &mut dyn Read, to: &mut dyn io::Write, size: u64) -> io::Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut left = size;
    while left > 0 {
        let most = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let read = from.read(&mut buffer[..most])?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        hasher.update(&buffer[..read]);
        to.write_all(&buffer[..read])?;
        left -= read as u64;
    }
    Ok(hasher.finalize())
}

fn bound(what: &'static str, found: u64, maximum: u64) -> Result<(), EnvironmentError> {
    if found > maximum { Err(EnvironmentError::TooLarge { what, found, maximum }) } else { Ok(()) }
}

/// A path beneath the root that means itself.
fn checked(path: &[u8]) -> Result<&OsStr, EnvironmentError> {
    if path.is_empty() || path.len() > PATH_BYTES_MAX || path.contains(&0) {
        return Err(wrong(path, "is no path"));
    }
    let odd = |name: &[u8]| matches!(name, b"" | b"." | b"..") || name.len() > NAME_BYTES_MAX;
    if path.split(|byte| *byte == b'/').any(odd) {
        return Err(wrong(path, "has a component that is empty, `.`, `..` or too long"));
    }
    Ok(OsStr::from_bytes(path))
}

fn wrong(path: &[u8], what: &str) -> EnvironmentError {
    let shown = image::escape(OsStr::from_bytes(&path[..path.len().min(PATH_BYTES_MAX)]));
    EnvironmentError::Tree { what: format!("/{shown} {what}") }
}

impl std::fmt::Debug for Tree<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tree").field("root", &self.root).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::super::progress::{Progress, Stage};
    use super::*;

    fn try_all(act: impl FnOnce(&mut Tree<'_>) -> Result<(), EnvironmentError>) -> Result<Manifest, String> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let meter = Meter::start(Progress::at(Stage::Copying, 0, 0), &|_| ());
        let bounds = Bounds { bytes: 100, inodes: 12, depth: 4 };
        let mut tree = Tree::new(&dir.path().join("root"), None, bounds, &meter).expect("made");
        act(&mut tree).map_err(|error| error.to_string())?;
        assert!(!dir.path().join("escaped").exists());
        tree.finish().map_err(|error| error.to_string())
    }

    fn put(tree: &mut Tree<'_>, path: &str, text: &str) -> Result<(), EnvironmentError> {
        tree.file(path.as_bytes(), false, text.len() as u64, &mut text.as_bytes())
    }

    #[test]
    fn nothing_is_written_outside_or_beneath_a_link() {
        for path in ["../escaped", "/escaped", "a/../../escaped", "a//b", "", "a/.", "."] {
            let error = try_all(|tree| put(tree, path, "x")).expect_err("refused");
            assert!(error.contains("no image can be made"), "{path}: {error}");
        }
        let through = try_all(|tree| {
            tree.link(b"out", b"..")?;
            put(tree, "out/escaped", "x")
        });
        assert!(through.expect_err("refused").contains("is a directory in one package and none in another"));
    }

    #[test]
    fn the_same_twice_is_once_and_another_is_refused() {
        let twice = try_all(|tree| {
            put(tree, "a/f", "x")?;
            put(tree, "a/f", "x")?;
            tree.dir(b"a")?;
            tree.same_file(b"a/g", b"a/f")?;
            tree.link(b"a/l", b"f")?;
            tree.link(b"a/l", b"f")
        });
        assert_eq!(twice.expect("sound").files(), 2);
        let other = try_all(|tree| {
            put(tree, "f", "x")?;
            put(tree, "f", "y")
        });
        assert!(other.expect_err("refused").contains("in two packages"));
        let dangling = try_all(|tree| tree.same_file(b"g", b"f"));
        assert!(dangling.expect_err("refused").contains("came before"));
    }

    #[test]
    fn bounds_hold() {
        let large = try_all(|tree| {
            put(tree, "a", &"x".repeat(60))?;
            put(tree, "b", &"x".repeat(60))
        });
        assert!(large.expect_err("refused").contains("120 bytes"));
        assert!(try_all(|tree| put(tree, "a/b/c/d/e", "")).expect_err("refused").contains("path components"));
        let many = try_all(|tree| (0..13).try_for_each(|n| put(tree, &n.to_string(), "")));
        assert!(many.expect_err("refused").contains("13 inodes"));
        let short = try_all(|tree| tree.file(b"a", false, 5, &mut "abc".as_bytes()));
        assert!(short.is_err());
    }
}
