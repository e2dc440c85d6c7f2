//! The outer archive, as files that can be found by name and read at any place.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom, Write};
use std::os::unix::fs::FileExt as _;

use crate::bounds::{Bounds, within};
use crate::error::{ImageError, show};
use crate::layer::{Decoder, Packing};
use crate::tar::{Kind, Reader};
use crate::tree::components;

/// The most files in an archive: layers, and a few documents for each image and layer.
const MEMBERS_MAX: u64 = 10_000;
/// How often a link may lead to a link: `docker save` wrote links for layers that two images share.
const HOPS_MAX: usize = 8;

/// A part of the archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

#[derive(Debug)]
enum Member {
    File(Extent),
    Link(Vec<u8>),
}

#[derive(Debug)]
pub(crate) struct Archive {
    file: File,
    length: u64,
    members: BTreeMap<Vec<u8>, Member>,
}

impl Archive {
    /// Reads what there is. A pipe, or an archive that is compressed as a whole, is first written
    /// into the file that `spool` makes.
    pub(crate) fn open(
        mut input: File,
        bounds: &Bounds,
        spool: impl FnOnce() -> Result<File, ImageError>,
    ) -> Result<Self, ImageError> {
        let reading = || ImageError::io("read the archive");
        let meta = input.metadata().map_err(reading())?;
        let mut start = [0; 4];
        let seekable = meta.is_file();
        let began = read_up_to(&mut input, &mut start).map_err(reading())?;
        let packing = Packing::of(&start[..began]);
        let file = if seekable && packing == Packing::Plain {
            within("bytes in its archive", meta.len(), bounds.archive_bytes)?;
            input
        } else {
            let whole = start[..began].chain(input);
            let mut spooled = spool()?;
            let mut unpacked = Decoder::new(whole, packing)?.take(bounds.archive_bytes + 1);
            let length = copy(&mut unpacked, &mut spooled)?;
            within("bytes in its archive", length, bounds.archive_bytes)?;
            spooled
        };
        let length = file.metadata().map_err(reading())?.len();
        let mut archive = Self { file, length, members: BTreeMap::new() };
        archive.index(bounds)?;
        Ok(archive)
    }

    fn index(&mut self, bounds: &Bounds) -> Result<(), ImageError> {
        let mut file = self.file.try_clone().map_err(ImageError::io("read the archive"))?;
        file.seek(SeekFrom::Start(0)).map_err(ImageError::io("read the archive"))?;
        let mut reader = Reader::new(Skipping { file, length: self.length }, bounds);
        loop {
            let entry = match reader.next() {
                Ok(Some(entry)) => entry,
                Ok(None) => return Ok(()),
                Err(ImageError::Malformed { at, problem }) if self.members.is_empty() => {
                    return Err(ImageError::NotAnImage { found: format!("{at} {problem}") });
                }
                Err(error) => return Err(error),
            };
            let extent = Extent { offset: reader.offset(), length: entry.size };
            let member = match entry.kind {
                Kind::File => Member::File(extent),
                Kind::SymbolicLink | Kind::HardLink => Member::Link(self.resolve(&entry)?),
                Kind::Dir | Kind::Special => continue,
            };
            let name = components(&entry.path)?.join(&b'/');
            within("files in its archive", self.members.len() as u64 + 1, MEMBERS_MAX)?;
            if self.members.insert(name, member).is_some() {
                return Err(ImageError::malformed(show(&entry.path), "is twice in the archive"));
            }
        }
    }

    /// The name in the archive that a link in it leads to.
    fn resolve(&self, link: &crate::tar::Entry) -> Result<Vec<u8>, ImageError> {
        let mut path: Vec<&[u8]> = Vec::new();
        if link.kind == Kind::SymbolicLink {
            path = components(&link.path)?;
            path.pop();
        }
        for name in link.target.split(|byte| *byte == b'/') {
            match name {
                b"" | b"." => {}
                b".." => {
                    path.pop()
                        .ok_or_else(|| ImageError::malformed(show(&link.path), "leads out of the archive"))?;
                }
                name => path.push(name),
            }
        }
        Ok(path.join(&b'/'))
    }

    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    pub(crate) fn find(&self, name: &str) -> Option<Extent> {
        let mut name = name.as_bytes();
        for _ in 0..HOPS_MAX {
            match self.members.get(name)? {
                Member::File(extent) => return Some(*extent),
                Member::Link(target) => name = target,
            }
        }
        None
    }

    /// Names of some members, to say what the archive is if it is no image.
    pub(crate) fn names(&self) -> String {
        const SHOWN: usize = 3;
        let names: Vec<String> = self.members.keys().take(SHOWN).map(|name| show(name)).collect();
        match names.len() {
            0 => "an empty archive".to_owned(),
            _ => format!("an archive of {} files ({} …)", self.members.len(), names.join(", ")),
        }
    }

    /// A whole document.
    pub(crate) fn document(&self, extent: Extent, bounds: &Bounds) -> Result<Vec<u8>, ImageError> {
        within("bytes in a manifest or configuration", extent.length, bounds.document_bytes)?;
        let mut bytes = vec![0; usize::try_from(extent.length).unwrap_or_default()];
        self.file.read_exact_at(&mut bytes, extent.offset).map_err(ImageError::io("read the archive"))?;
        Ok(bytes)
    }

    /// The file itself, to read from at any place.
    #[cfg(feature = "registry")]
    pub(crate) fn handle(&self) -> Result<File, ImageError> {
        self.file.try_clone().map_err(ImageError::io("read the archive"))
    }

    pub(crate) fn reader(&self, extent: Extent) -> ExtentReader<'_> {
        ExtentReader { file: &self.file, extent }
    }
}

/// Reads a part of a file without moving anybody's position in it.
#[derive(Debug)]
pub(crate) struct ExtentReader<'a> {
    file: &'a File,
    extent: Extent,
}

impl Read for ExtentReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.extent.length).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.file.read_at(&mut buffer[..most], self.extent.offset)?;
        self.extent.offset += read as u64;
        self.extent.length -= read as u64;
        if read == 0 && most > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(read)
    }
}

/// The archive's file, in which contents are passed over and not read.
struct Skipping {
    file: File,
    length: u64,
}

impl Read for Skipping {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read(buffer)
    }
}

impl crate::tar::Skip for Skipping {
    fn skip(&mut self, length: u64) -> io::Result<u64> {
        let at = self.file.stream_position()?;
        let there = length.min(self.length.saturating_sub(at));
        self.file.seek(SeekFrom::Start(at + there))?;
        Ok(there)
    }
}

fn read_up_to(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match input.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn copy(from: &mut impl Read, to: &mut File) -> Result<u64, ImageError> {
    let mut buffer = vec![0; 128 * 1024];
    let mut copied = 0;
    loop {
        let read = match from.read(&mut buffer) {
            Ok(0) => return Ok(copied),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => {
                return Err(ImageError::malformed("the archive", format!("cannot be read: {error}")));
            }
        };
        to.write_all(&buffer[..read]).map_err(ImageError::io("write the archive to disk"))?;
        copied += read as u64;
    }
}
