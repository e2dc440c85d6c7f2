//! A stream of tar entries. The fields of a header are read by the `tar` crate; the loop is our own,
//! because every length in it must be bounded before memory is taken, and because extended headers
//! hold any byte, newlines too.

mod pax;
mod sparse;

use std::io::{self, Read, Write};

use ::tar::{EntryType, Header};

use crate::bounds::{Bounds, within};
use crate::error::{ImageError, show, unwrap_io};
use pax::Extended;
use sparse::Map;

const BLOCK: usize = 512;
const COPY_BYTES: usize = 64 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Dir,
    SymbolicLink,
    HardLink,
    /// A device, FIFO or socket: never taken.
    Special,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) kind: Kind,
    /// As it is written: absolute, with dots, anything but NUL.
    pub(crate) path: Vec<u8>,
    pub(crate) target: Vec<u8>,
    pub(crate) mode: u32,
    /// Of the file that it becomes: holes count.
    pub(crate) size: u64,
    pub(crate) has_attributes: bool,
}

/// A stream of which parts can be passed over.
pub(crate) trait Skip: Read + Sized {
    /// Answers fewer than `length` where the stream ends before.
    fn skip(&mut self, length: u64) -> io::Result<u64> {
        io::copy(&mut self.by_ref().take(length), &mut io::sink())
    }
}

pub(crate) struct Reader<'b, R> {
    inner: R,
    bounds: &'b Bounds,
    /// Of the current entry's stored data, still in the stream.
    left: u64,
    padding: u64,
    /// Where the current entry's stored data belongs.
    map: Option<Map>,
    /// Bytes of the stream so far.
    offset: u64,
    buffer: Vec<u8>,
}

impl<'b, R: Skip> Reader<'b, R> {
    pub(crate) fn new(inner: R, bounds: &'b Bounds) -> Self {
        Self { inner, bounds, left: 0, padding: 0, map: None, offset: 0, buffer: vec![0; COPY_BYTES] }
    }

    pub(crate) fn into_inner(self) -> R {
        self.inner
    }

    /// Where in the stream the current entry's data begins, if nothing of it was read.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// The next entry, what was not read of the one before skipped. `None` at the archive's end.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>, ImageError> {
        self.skip()?;
        let mut extended = Extended::default();
        loop {
            let Some(header) = self.header()? else { return Ok(None) };
            let size = number(header.entry_size(), &header)?;
            match header.entry_type() {
                EntryType::XHeader => {
                    let text = self.special(size, self.bounds.header_bytes)?;
                    extended.read(&text).map_err(|problem| malformed(&header, &problem))?;
                }
                // Comments, in practice. Go's reader, which wrote most layers, applies none either.
                EntryType::XGlobalHeader => {
                    self.special(size, self.bounds.header_bytes)?;
                }
                EntryType::GNULongName => {
                    let name = self.special(size, self.bounds.path_bytes + 1)?;
                    extended.path = Some(until_nul(name));
                }
                EntryType::GNULongLink => {
                    let name = self.special(size, self.bounds.path_bytes + 1)?;
                    extended.target = Some(until_nul(name));
                }
                _ => return self.entry(&header, extended, size).map(Some),
            }
        }
    }

    fn header(&mut self) -> Result<Option<Header>, ImageError> {
        let mut block = [0; BLOCK];
        if !self.read_block(&mut block)? {
            return Ok(None);
        }
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let header = Header::from_byte_slice(&block).clone();
        let stored = number(header.cksum().map(u64::from), &header)?;
        let counted: u64 = block
            .iter()
            .enumerate()
            .map(|(at, byte)| u64::from(if (148..156).contains(&at) { b' ' } else { *byte }))
            .sum();
        if stored != counted && !cfg!(fuzzing) {
            return Err(ImageError::malformed("tar", format!("byte {} is no header", self.offset)));
        }
        Ok(Some(header))
    }

    fn entry(&mut self, header: &Header, extended: Extended, stored_size: u64) -> Result<Entry, ImageError> {
        let path = extended.path.clone().unwrap_or_else(|| header.path_bytes().into_owned());
        let named = |problem: &str| ImageError::malformed(show(&path), problem);
        let mut kind = match header.entry_type() {
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => Kind::File,
            EntryType::Directory => Kind::Dir,
            EntryType::Symlink => Kind::SymbolicLink,
            EntryType::Link => Kind::HardLink,
            EntryType::Char | EntryType::Block | EntryType::Fifo => Kind::Special,
            other => {
                return Err(named(&format!(
                    "has the type {:?}, which no layer has",
                    char::from(other.as_byte())
                )));
            }
        };
        // Before there was a type for directories.
        if kind == Kind::File && path.ends_with(b"/") {
            kind = Kind::Dir;
        }
        let stored = match kind {
            Kind::File => extended.size.unwrap_or(stored_size),
            // Whatever a header says of them, they have no data.
            _ => 0,
        };
        self.left = stored;
        self.padding = padding(stored)?;
        self.map = match kind {
            Kind::File => self.map(header, &extended, stored).map_err(|error| at_path(&path, error))?,
            _ => None,
        };
        let target = match kind {
            Kind::SymbolicLink | Kind::HardLink => extended
                .target
                .clone()
                .or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned))
                .unwrap_or_default(),
            _ => Vec::new(),
        };
        if path.contains(&0) || target.contains(&0) {
            return Err(named("holds a NUL byte"));
        }
        within("bytes in a path", path.len() as u64, self.bounds.path_bytes)?;
        within("bytes in a link's target", target.len() as u64, self.bounds.path_bytes)?;
        let size = self.map.as_ref().map_or(stored, Map::size);
        let mode = number(header.mode().map(u64::from), header)?;
        Ok(Entry {
            kind,
            path: extended.sparse_name().map_or(path, <[u8]>::to_vec),
            target,
            mode: u32::try_from(mode).unwrap_or_default(),
            size,
            has_attributes: extended.has_attributes,
        })
    }

    fn map(&mut self, header: &Header, extended: &Extended, stored: u64) -> Result<Option<Map>, ImageError> {
        if header.entry_type() == EntryType::GNUSparse {
            return self.old_map(header, stored).map(Some);
        }
        let Some(sparse) = &extended.sparse else { return Ok(None) };
        let map = match sparse.version {
            (0, 1) => Map::from_pax(&sparse.numbers, sparse.size, stored),
            (1, 0) => return self.leading_map(sparse.size).map(Some),
            _ => Err("has a sparse map of an unknown kind".to_owned()),
        };
        map.map(Some).map_err(|problem| ImageError::malformed("tar", problem))
    }

    /// The map of GNU tar's own format: four pieces in the header, the others in blocks after it.
    fn old_map(&mut self, header: &Header, stored: u64) -> Result<Map, ImageError> {
        let gnu = header.as_gnu().ok_or_else(|| malformed(header, "is sparse and not GNU's"))?;
        let size = number(gnu.real_size(), header)?;
        let mut pieces = Vec::new();
        sparse::take_pieces(&gnu.sparse, &mut pieces).map_err(|problem| malformed(header, &problem))?;
        let mut more = gnu.is_extended();
        while more {
            let mut block = ::tar::GnuExtSparseHeader::new();
            if !self.read_block(block.as_mut_bytes())? {
                return Err(cut_short());
            }
            sparse::take_pieces(&block.sparse, &mut pieces).map_err(|problem| malformed(header, &problem))?;
            more = block.is_extended();
        }
        Map::new(pieces, size, stored).map_err(|problem| malformed(header, &problem))
    }

    /// The map of format 1.0, which leads the data: decimal numbers, a line each, padded to a block.
    fn leading_map(&mut self, size: u64) -> Result<Map, ImageError> {
        let wrong = |problem: String| ImageError::malformed("tar", problem);
        let mut text = sparse::Lines::default();
        while !text.complete().map_err(wrong)? {
            let mut block = [0; BLOCK];
            if self.left < BLOCK as u64 {
                return Err(ImageError::malformed("tar", "has a sparse map that is cut short"));
            }
            self.fill(&mut block)?;
            self.left -= BLOCK as u64;
            text.push(&block);
        }
        Map::from_pax(text.numbers(), size, self.left).map_err(wrong)
    }

    /// Data of an entry that only describes the next.
    fn special(&mut self, size: u64, maximum: u64) -> Result<Vec<u8>, ImageError> {
        within("bytes in the header of an entry", size, maximum)?;
        let mut data = vec![0; usize::try_from(size).unwrap_or_default()];
        self.fill(&mut data)?;
        self.discard(padding(size)?)?;
        Ok(data)
    }

    /// The rest of the current entry: what `next` does by itself.
    fn skip(&mut self) -> Result<(), ImageError> {
        let rest = self.left.checked_add(self.padding).ok_or_else(cut_short)?;
        self.left = 0;
        self.padding = 0;
        self.map = None;
        self.discard(rest)
    }

    /// Writes the current entry's file, holes as holes.
    pub(crate) fn copy_to(&mut self, file: &mut std::fs::File) -> Result<(), ImageError> {
        use std::io::{Seek as _, SeekFrom};
        let writing = || ImageError::io("write a file of the image");
        let Some(map) = self.map.take() else { return self.copy_piece(self.left, file) };
        for (offset, length) in map.pieces() {
            file.seek(SeekFrom::Start(offset)).map_err(writing())?;
            self.copy_piece(length, file)?;
        }
        file.set_len(map.size()).map_err(writing())
    }

    fn copy_piece(&mut self, length: u64, file: &mut std::fs::File) -> Result<(), ImageError> {
        let mut rest = length;
        while rest > 0 {
            let want = usize::try_from(rest).unwrap_or(COPY_BYTES).min(COPY_BYTES);
            let read = self.inner.read(&mut self.buffer[..want]).map_err(unwrap_io("read the image"))?;
            if read == 0 {
                return Err(cut_short());
            }
            file.write_all(&self.buffer[..read]).map_err(ImageError::io("write a file of the image"))?;
            rest -= read as u64;
            self.left -= read as u64;
            self.offset += read as u64;
        }
        Ok(())
    }

    fn discard(&mut self, length: u64) -> Result<(), ImageError> {
        let skipped = self.inner.skip(length).map_err(unwrap_io("read the image"))?;
        self.offset += skipped;
        if skipped == length { Ok(()) } else { Err(cut_short()) }
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), ImageError> {
        self.inner.read_exact(buffer).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => cut_short(),
            _ => unwrap_io("read the image")(error),
        })?;
        self.offset += buffer.len() as u64;
        Ok(())
    }

    /// False at the stream's end, which may come without the two empty blocks.
    fn read_block(&mut self, block: &mut [u8; BLOCK]) -> Result<bool, ImageError> {
        let mut filled = 0;
        while filled < BLOCK {
            match self.inner.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(false),
                Ok(0) => return Err(cut_short()),
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(unwrap_io("read the image")(error)),
            }
        }
        self.offset += BLOCK as u64;
        Ok(true)
    }
}

/// Bytes from the end of data to the next header.
fn padding(length: u64) -> Result<u64, ImageError> {
    length.checked_next_multiple_of(BLOCK as u64).map(|end| end - length).ok_or_else(cut_short)
}

fn cut_short() -> ImageError {
    ImageError::malformed("tar", "is cut short; fetch the image again")
}

fn malformed(header: &Header, problem: &str) -> ImageError {
    ImageError::malformed(show(&header.path_bytes()), problem)
}

fn at_path(path: &[u8], error: ImageError) -> ImageError {
    match error {
        ImageError::Malformed { problem, .. } => ImageError::malformed(show(path), problem),
        other => other,
    }
}

fn number(value: io::Result<u64>, header: &Header) -> Result<u64, ImageError> {
    value.map_err(|_| malformed(header, "has a header with what is no number"))
}

fn until_nul(mut name: Vec<u8>) -> Vec<u8> {
    if let Some(end) = name.iter().position(|byte| *byte == 0) {
        name.truncate(end);
    }
    name
}
