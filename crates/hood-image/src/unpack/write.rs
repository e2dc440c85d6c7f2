//! The second reading: what is left of the layers, written. Directories first, then files, links
//! last, so that while files are written there is no link that could be followed; and each is opened
//! from the root's descriptor in a way that would follow none.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Seek as _, SeekFrom};
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::layer_name;
use crate::archive::Archive;
use crate::error::{ImageError, show};
use crate::layer::{Budget, LayerReader, LayerRef};
use crate::tar::Reader;
use crate::tree::{Content, Item};

const DIR_MODE: u32 = 0o755;
const FILE_MODE: u32 = 0o644;
const PROGRAM_MODE: u32 = 0o755;

pub(super) struct Writer<'r> {
    root: BorrowedFd<'r>,
    dirs: Vec<Vec<u8>>,
    links: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where each content goes: to several files where there were hard links.
    files: HashMap<(u32, u32), Wanted>,
    written: u64,
}

struct Wanted {
    content: Content,
    paths: Vec<(Vec<u8>, bool)>,
}

impl<'r> Writer<'r> {
    /// Makes every directory.
    pub(super) fn begin(root: BorrowedFd<'r>, items: Vec<(Vec<u8>, Item)>) -> Result<Self, ImageError> {
        let mut writer =
            Self { root, dirs: Vec::new(), links: Vec::new(), files: HashMap::new(), written: 0 };
        for (path, item) in items {
            match item {
                Item::Dir => {
                    let (parent, name) = writer.parent(&path)?;
                    rustix::fs::mkdirat(&parent, name, Mode::RWXU).map_err(|error| at(&path, error))?;
                    writer.dirs.push(path);
                }
                Item::Link(target) => writer.links.push((path, target)),
                Item::File { content, executable } => {
                    let wanted = writer.files.entry((content.layer, content.entry));
                    let wanted = wanted.or_insert_with(|| Wanted { content, paths: Vec::new() });
                    wanted.paths.push((path, executable));
                }
            }
        }
        Ok(writer)
    }

    /// Writes the files of one layer.
    pub(super) fn layer(
        &mut self,
        archive: &Archive,
        layer: LayerRef,
        budget: &mut Budget<'_>,
        number: usize,
    ) -> Result<(), ImageError> {
        let bounds = budget.bounds();
        let mut reader = Reader::new(LayerReader::open(archive, layer, budget)?, bounds);
        let layer_number = u32::try_from(number).unwrap_or(u32::MAX);
        let mut entry_number = 0;
        while let Some(entry) = reader.next()? {
            if let Some(wanted) = self.files.remove(&(layer_number, entry_number)) {
                if wanted.content.size != entry.size {
                    return Err(changed());
                }
                self.files(&wanted, |file| reader.copy_to(file))?;
            }
            entry_number += 1;
        }
        // It was this before; whoever changes the archive meanwhile gains nothing.
        reader.into_inner().finish(&layer_name(number))
    }

    fn files(
        &mut self,
        wanted: &Wanted,
        fill: impl FnOnce(&mut File) -> Result<(), ImageError>,
    ) -> Result<(), ImageError> {
        let Some(((path, executable), others)) = wanted.paths.split_first() else { return Ok(()) };
        let mut first = self.create(path)?;
        fill(&mut first)?;
        for (other, executable) in others {
            let mut copy = self.create(other)?;
            first.seek(SeekFrom::Start(0)).map_err(ImageError::io("read a file of the image again"))?;
            std::io::copy(&mut first, &mut copy).map_err(ImageError::io("copy a file of the image"))?;
            Self::settle_file(&copy, *executable, other)?;
        }
        Self::settle_file(&first, *executable, path)
    }

    fn create(&mut self, path: &[u8]) -> Result<File, ImageError> {
        let (parent, name) = self.parent(path)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&parent, name, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|error| at(path, error))?;
        self.written += 1;
        Ok(file.into())
    }

    fn settle_file(file: &File, executable: bool, path: &[u8]) -> Result<(), ImageError> {
        let mode = if executable { PROGRAM_MODE } else { FILE_MODE };
        rustix::fs::fchmod(file, Mode::from_raw_mode(mode)).map_err(|error| at(path, error))
    }

    /// Links, and then the modes of directories, which until now are ours alone.
    pub(super) fn finish(self) -> Result<u64, ImageError> {
        if !self.files.is_empty() {
            return Err(changed());
        }
        for (path, target) in &self.links {
            let (parent, name) = self.parent(path)?;
            rustix::fs::symlinkat(target.as_slice(), &parent, name).map_err(|error| at(path, error))?;
        }
        for path in self.dirs.iter().rev().map(Vec::as_slice).chain([&b""[..]]) {
            let dir = self.open_dir(path)?;
            rustix::fs::fchmod(&dir, Mode::from_raw_mode(DIR_MODE)).map_err(|error| at(path, error))?;
        }
        Ok(self.written)
    }

    /// The directory that holds a path, and its name there.
    fn parent<'p>(&self, path: &'p [u8]) -> Result<(OwnedFd, &'p [u8]), ImageError> {
        let split = path.iter().rposition(|byte| *byte == b'/');
        let (dir, name) = split.map_or((&b""[..], path), |at| (&path[..at], &path[at + 1..]));
        Ok((self.open_dir(dir)?, name))
    }

    fn open_dir(&self, path: &[u8]) -> Result<OwnedFd, ImageError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let path = if path.is_empty() { &b"."[..] } else { path };
        rustix::fs::openat2(self.root, path, flags, Mode::empty(), resolve).map_err(|error| at(path, error))
    }
}

fn at(path: &[u8], error: rustix::io::Errno) -> ImageError {
    let source = std::io::Error::from(error);
    let source = std::io::Error::new(source.kind(), format!("{}: {source}", show(path)));
    ImageError::Io { step: "write the image", source }
}

fn changed() -> ImageError {
    ImageError::malformed("the archive", "changed while it was read; try again")
}
