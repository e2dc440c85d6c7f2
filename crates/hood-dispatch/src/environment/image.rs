//! An image as a tree of files, and the digest that names it.
//!
//! The digest is the BLAKE3 hash of the manifest: a first line `fumehood-image 1`, then a line for
//! each file, directory and link in the order of their paths' bytes, fields apart by tabs:
//!
//! ```text
//! d  PATH                         a directory, mode 0755
//! f  MODE  SIZE  BLAKE3  PATH     a file; MODE is 0644 or 0755
//! l  TARGET  PATH                 a symbolic link
//! ```
//!
//! In paths and targets a backslash, a control character and a byte that is not text stand as `\xNN`.
//! Times are the same for everything in every image and owners differ between root and others, so
//! neither is in it; both are checked.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use blake3::Hash;
use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, Timespec, Timestamps, Uid};

use super::contents::{Bounds, Contents, Node, PATH_BYTES_MAX, Source};
use super::error::EnvironmentError;
use super::progress::Meter;

/// The time of everything in an image: 2 January 1980, the first whole day that zip files can tell.
const IMAGE_TIME: u32 = 315_619_200;

const DIR_MODE: u32 = 0o755;
const FILE_MODE: u32 = 0o644;
const PROGRAM_MODE: u32 = 0o755;

/// Where a file is copied, beside the tree, to be taken apart from its other names.
const APART: &str = "apart";

/// Where the time of the source stands in bytecode.
const PYC_TIME: std::ops::Range<usize> = 8..12;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    Dir,
    File { executable: bool, size: u64, hash: Hash },
    Link(String),
}

impl Entry {
    pub(super) fn link(target: &OsStr) -> Self {
        Self::Link(escape(target))
    }
}

/// Everything that a digest vouches for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Manifest {
    entries: BTreeMap<String, Entry>,
}

/// A user and group id of this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl Manifest {
    pub(super) fn text(&self) -> String {
        let mut text = "fumehood-image 1\n".to_owned();
        for (path, entry) in &self.entries {
            // Writing to a String cannot fail.
            let _ = match entry {
                Entry::Dir => writeln!(text, "d\t{path}"),
                Entry::File { executable, size, hash } => {
                    writeln!(text, "f\t{:04o}\t{size}\t{hash}\t{path}", file_mode(*executable))
                }
                Entry::Link(target) => writeln!(text, "l\t{target}\t{path}"),
            };
        }
        text
    }

    pub(super) fn get(&self, path: &OsStr) -> Option<&Entry> {
        self.entries.get(&escape(path))
    }

    pub(super) fn insert(&mut self, path: &OsStr, entry: Entry) {
        self.entries.insert(escape(path), entry);
    }

    /// Entries of every kind.
    pub(super) fn len(&self) -> u64 {
        self.entries.len() as u64
    }

    /// Files by their paths, with their sizes; those whose names had to be escaped are left out.
    pub(super) fn files_of(&self) -> impl Iterator<Item = (&str, u64)> {
        self.entries.iter().filter_map(|(path, entry)| match entry {
            Entry::File { size, .. } if !path.contains('\\') => Some((path.as_str(), *size)),
            _ => None,
        })
    }

    pub(super) fn digest(&self) -> Hash {
        blake3::hash(self.text().as_bytes())
    }

    pub(super) fn files(&self) -> u64 {
        self.entries.values().filter(|entry| matches!(entry, Entry::File { .. })).count() as u64
    }

    pub(super) fn bytes(&self) -> u64 {
        let sizes = self.entries.values().map(|entry| match entry {
            Entry::File { size, .. } => *size,
            Entry::Dir | Entry::Link(_) => 0,
        });
        sizes.sum()
    }
}

pub(super) const fn file_mode(executable: bool) -> u32 {
    if executable { PROGRAM_MODE } else { FILE_MODE }
}

/// Writes the tree beneath `root`, which is made and must not be there.
///
/// Files are read whole and written from memory, so that the hash is of the very bytes that were
/// written and no page is shared with the host's file, not even where the file system could.
pub(super) fn write(
    root: &Path,
    contents: &Contents,
    owner: Option<Owner>,
    meter: &Meter<'_>,
) -> Result<Manifest, EnvironmentError> {
    let mut manifest = Manifest::default();
    let mut bytes = 0;
    make_dir(root)?;
    for (path, node) in &contents.nodes {
        let to = root.join(path);
        let entry = match node {
            Node::Dir => {
                make_dir(&to)?;
                Entry::Dir
            }
            Node::File { source, executable } => {
                let room = contents.bounds.bytes.saturating_sub(bytes);
                let content = read_source(source, room)?.ok_or(EnvironmentError::TooLarge {
                    what: "bytes",
                    found: contents.bounds.bytes.saturating_add(1),
                    maximum: contents.bounds.bytes,
                })?;
                write_file(&to, &content, *executable, owner).map_err(EnvironmentError::io("write", &to))?;
                let size = content.len() as u64;
                bytes += size;
                meter.file(size);
                Entry::File { executable: *executable, size, hash: blake3::hash(&content) }
            }
            Node::Link(target) => {
                std::os::unix::fs::symlink(target, &to).map_err(EnvironmentError::io("write", &to))?;
                settle(&to, owner, None).map_err(EnvironmentError::io("write", &to))?;
                Entry::link(OsStr::new(target))
            }
        };
        manifest.entries.insert(escape(OsStr::new(path)), entry);
    }
    // Directories last, and deepest first: writing into one changes its time.
    let dirs = contents.nodes.iter().rev().filter(|(_, node)| matches!(node, Node::Dir));
    for dir in dirs.map(|(path, _)| root.join(path)).chain([root.to_owned()]) {
        settle(&dir, owner, Some(DIR_MODE)).map_err(EnvironmentError::io("write", &dir))?;
    }
    Ok(manifest)
}

pub(super) fn make_dir(path: &Path) -> Result<(), EnvironmentError> {
    rustix::fs::mkdir(path, Mode::RWXU).map_err(|error| EnvironmentError::io("make", path)(error.into()))
}

/// `None` where there is more than `room`.
fn read_source(source: &Source, room: u64) -> Result<Option<Vec<u8>>, EnvironmentError> {
    let mut content = Vec::new();
    match source {
        Source::Bytes(bytes) => content.clone_from(bytes),
        Source::Copy(path) | Source::Bytecode(path) => {
            let file = File::open(path).map_err(EnvironmentError::io("read", path))?;
            let mut limited = file.take(room.saturating_add(1));
            limited.read_to_end(&mut content).map_err(EnvironmentError::io("read", path))?;
        }
    }
    if let Source::Bytecode(path) = source {
        let time =
            content.get_mut(PYC_TIME).ok_or_else(|| EnvironmentError::HostChanged { path: path.clone() })?;
        time.copy_from_slice(&IMAGE_TIME.to_le_bytes());
    }
    Ok((content.len() as u64 <= room).then_some(content))
}

fn write_file(path: &Path, content: &[u8], executable: bool, owner: Option<Owner>) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    if let Some(owner) = owner {
        rustix::fs::fchown(&file, Some(Uid::from_raw(owner.uid)), Some(Gid::from_raw(owner.gid)))?;
    }
    // After the owner, because a change of owner may clear bits.
    rustix::fs::fchmod(&file, Mode::from_raw_mode(file_mode(executable)))?;
    Ok(rustix::fs::futimens(&file, &times())?)
}

/// Owner, mode and time of a directory, or of a link, which has no mode.
pub(super) fn settle(path: &Path, owner: Option<Owner>, mode: Option<u32>) -> io::Result<()> {
    if let Some(owner) = owner {
        let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
        rustix::fs::chownat(CWD, path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    }
    if let Some(mode) = mode {
        rustix::fs::chmod(path, Mode::from_raw_mode(mode))?;
    }
    Ok(rustix::fs::utimensat(CWD, path, &times(), AtFlags::SYMLINK_NOFOLLOW)?)
}

fn times() -> Timestamps {
    let time = Timespec { tv_sec: i64::from(IMAGE_TIME), tv_nsec: 0 };
    Timestamps { last_access: time, last_modification: time }
}

/// A name as a manifest has it: one line, text, and one way to write each name.
pub(super) fn escape(name: &OsStr) -> String {
    let mut text = String::with_capacity(name.len());
    for chunk in name.as_bytes().utf8_chunks() {
        for char in chunk.valid().chars() {
            if char == '\\' || char.is_control() {
                let mut bytes = [0; 4];
                char.encode_utf8(&mut bytes).bytes().for_each(|byte| escape_byte(&mut text, byte));
            } else {
                text.push(char);
            }
        }
        chunk.invalid().iter().for_each(|byte| escape_byte(&mut text, *byte));
    }
    text
}

fn escape_byte(text: &mut String, byte: u8) {
    // Writing to a String cannot fail.
    let _ = write!(text, "\\x{byte:02x}");
}

/// Walks a tree without following links; `visit` says what is at a path, given how it is shown.
fn walk(
    root: &Path,
    mut visit: impl FnMut(&Path, &str) -> Result<Entry, String>,
) -> Result<Manifest, String> {
    let mut manifest = Manifest::default();
    let mut waiting: Vec<(PathBuf, String)> = vec![(root.to_owned(), String::new())];
    while let Some((dir, shown)) = waiting.pop() {
        let unreadable = |error: io::Error| format!("/{shown} cannot be read: {error}");
        for entry in fs::read_dir(&dir).map_err(unreadable)? {
            let name = entry.map_err(unreadable)?.file_name();
            let own = escape(&name);
            let key = if shown.is_empty() { own } else { format!("{shown}/{own}") };
            let path = dir.join(&name);
            let found = visit(&path, &key).map_err(|error| format!("/{key} {error}"))?;
            if found == Entry::Dir {
                waiting.push((path, key.clone()));
            }
            manifest.entries.insert(key, found);
        }
    }
    Ok(manifest)
}

/// Reads a whole tree again. `Err` says what in it cannot be in an image that we have written.
pub(super) fn read(root: &Path, owner: Owner, meter: &Meter<'_>) -> Result<Manifest, String> {
    let manifest = walk(root, |path, _| read_entry(path, owner, meter))?;
    let meta = fs::symlink_metadata(root).map_err(|error| format!("/ cannot be read: {error}"))?;
    check(&meta, owner, Some(DIR_MODE)).map_err(|error| format!("/ {error}"))?;
    Ok(manifest)
}

fn read_entry(path: &Path, owner: Owner, meter: &Meter<'_>) -> Result<Entry, String> {
    let unreadable = |error: io::Error| format!("cannot be read: {error}");
    let meta = fs::symlink_metadata(path).map_err(unreadable)?;
    if meta.is_dir() {
        check(&meta, owner, Some(DIR_MODE))?;
        return Ok(Entry::Dir);
    }
    if meta.is_symlink() {
        check(&meta, owner, None)?;
        return Ok(Entry::link(fs::read_link(path).map_err(unreadable)?.as_os_str()));
    }
    let executable = meta.mode() & 0o111 != 0;
    check(&meta, owner, Some(file_mode(executable)))?;
    if !meta.is_file() || meta.nlink() != 1 {
        return Err("is no file of its own".to_owned());
    }
    let (size, hash) = hash_file(path, meta.size()).map_err(unreadable)?;
    meter.file(size);
    Ok(Entry::File { executable, size, hash })
}

/// One byte more than the size that it had is read, so that growth shows.
fn hash_file(path: &Path, size: u64) -> io::Result<(u64, Hash)> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(file.take(size.saturating_add(1)))?;
    Ok((hasher.count(), hasher.finalize()))
}

/// Makes a tree that somebody else wrote into an image: everything belongs to `owner`, can be read
/// by everybody and written by nobody, and has the time of images. A file with several names becomes
/// as many files.
pub(super) fn adopt(
    root: &Path,
    owner: Option<Owner>,
    bounds: Bounds,
    meter: &Meter<'_>,
) -> Result<Manifest, String> {
    let (mut bytes, mut inodes) = (0_u64, 0_u64);
    let apart = root.with_file_name(APART);
    let manifest = walk(root, |path, shown| {
        inodes += 1;
        bound("inodes", inodes, bounds.inodes)?;
        bound("path components", shown.split('/').count() as u64, bounds.depth)?;
        let within = path.strip_prefix(root).unwrap_or(path).as_os_str().len();
        bound("bytes in a path", within as u64, PATH_BYTES_MAX as u64)?;
        if fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file() && meta.nlink() > 1) {
            let split = fs::copy(path, &apart).and_then(|_| fs::rename(&apart, path));
            split.map_err(|error| format!("cannot be copied: {error}"))?;
        }
        let entry = adopt_entry(path, owner, bounds.bytes.saturating_sub(bytes), meter)?;
        if let Entry::File { size, .. } = &entry {
            bytes += size;
        }
        Ok(entry)
    })?;
    settle_dirs(root, owner).map_err(|error| format!("its directories cannot be settled: {error}"))?;
    Ok(manifest)
}

/// Owner, mode and time of every directory, the root last: writing into one changes its time.
pub(super) fn settle_dirs(root: &Path, owner: Option<Owner>) -> io::Result<()> {
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            settle_dirs(&entry.path(), owner)?;
        }
    }
    settle(root, owner, Some(DIR_MODE))
}

fn bound(what: &str, found: u64, maximum: u64) -> Result<(), String> {
    if found > maximum { Err(format!("is too much: {found} {what}, at most {maximum}")) } else { Ok(()) }
}

fn adopt_entry(path: &Path, owner: Option<Owner>, room: u64, meter: &Meter<'_>) -> Result<Entry, String> {
    let failed = |error: io::Error| format!("cannot be taken over: {error}");
    let meta = fs::symlink_metadata(path).map_err(failed)?;
    if meta.is_dir() {
        // So that it can be read before it is settled.
        rustix::fs::chmod(path, Mode::RWXU).map_err(|error| failed(error.into()))?;
        return Ok(Entry::Dir);
    }
    if meta.is_symlink() {
        settle(path, owner, None).map_err(failed)?;
        return Ok(Entry::link(fs::read_link(path).map_err(failed)?.as_os_str()));
    }
    if !meta.is_file() {
        return Err("is neither file, directory nor link".to_owned());
    }
    bound("bytes", meta.size(), room)?;
    let executable = meta.mode() & 0o111 != 0;
    settle(path, owner, Some(file_mode(executable))).map_err(failed)?;
    let (size, hash) = hash_file(path, meta.size()).map_err(failed)?;
    meter.file(size);
    Ok(Entry::File { executable, size, hash })
}

fn check(meta: &fs::Metadata, owner: Owner, mode: Option<u32>) -> Result<(), String> {
    let found = meta.mode() & 0o7777;
    if mode.is_some_and(|mode| mode != found) {
        return Err(format!("has mode {found:04o}"));
    }
    if (meta.uid(), meta.gid()) != (owner.uid, owner.gid) {
        return Err(format!("belongs to {}:{}", meta.uid(), meta.gid()));
    }
    if meta.mtime() != i64::from(IMAGE_TIME) || meta.mtime_nsec() != 0 {
        return Err("was changed since".to_owned());
    }
    Ok(())
}

/// The first line in which a tree differs from the manifest that was written with it.
pub(super) fn difference(written: &str, found: &Manifest) -> String {
    let found = found.text();
    let path =
        |line: Option<&str>| line.and_then(|line| line.rsplit('\t').next()).unwrap_or_default().to_owned();
    let (mut written, mut found) = (written.lines(), found.lines());
    loop {
        match (written.next(), found.next()) {
            (None, None) => return "its manifest was changed".to_owned(),
            (was, is) if was == is => {}
            (was, is) if path(was) == path(is) => return format!("/{} was changed", path(was)),
            (Some(was), Some(is)) if path(Some(was)) > path(Some(is)) => {
                return format!("/{} was added", path(Some(is)));
            }
            (None, is) => return format!("/{} was added", path(is)),
            (was, _) => return format!("/{} is gone", path(was)),
        }
    }
}
