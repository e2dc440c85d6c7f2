//! A layer's bytes: decompressed, counted, and held against both of its digests.

use std::io::{self, BufReader, Read};

use flate2::bufread::MultiGzDecoder;

use crate::archive::{Archive, Extent, ExtentReader};
use crate::bounds::Bounds;
use crate::digest::{Digest, Hasher};
use crate::error::{ImageError, unwrap_io};

/// The window that a zstd stream may ask for, as a power of two: 128 MiB, what `zstd --long` asks.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

const BUFFER_BYTES: usize = 128 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packing {
    Plain,
    Gzip,
    Zstd,
}

impl Packing {
    /// By the first bytes: media types are often wrong, and an archive has none.
    pub(crate) fn of(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            _ => Self::Plain,
        }
    }
}

/// What a manifest says of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LayerRef {
    pub(crate) extent: Extent,
    /// Of the bytes as they lie in the archive.
    pub(crate) digest: Option<Digest>,
    /// Of the bytes decompressed.
    pub(crate) diff_id: Digest,
}

/// How much all layers of an image may still unpack to.
#[derive(Debug)]
pub(crate) struct Budget<'b> {
    bounds: &'b Bounds,
    archive: u64,
    unpacked: u64,
}

impl<'b> Budget<'b> {
    pub(crate) fn new(bounds: &'b Bounds, archive: u64) -> Self {
        Self { bounds, archive, unpacked: 0 }
    }

    pub(crate) fn bounds(&self) -> &'b Bounds {
        self.bounds
    }

    fn take(&mut self, bytes: usize) -> Result<(), ImageError> {
        self.unpacked = self.unpacked.saturating_add(bytes as u64);
        crate::bounds::within("bytes in its layers", self.unpacked, self.bounds.layer_bytes)?;
        self.check_ratio(self.unpacked)
    }

    /// Whether so many bytes may come of this archive.
    pub(crate) fn check_ratio(&self, bytes: u64) -> Result<(), ImageError> {
        let most = self.archive.saturating_mul(self.bounds.ratio);
        if bytes <= self.bounds.ratio_free_bytes || bytes <= most {
            return Ok(());
        }
        Err(ImageError::TooLarge {
            what: "bytes for each byte of its archive",
            found: bytes / self.archive.max(1),
            maximum: self.bounds.ratio,
        })
    }
}

pub(crate) struct LayerReader<'a, 'b> {
    decoder: Decoder<Hashing<ExtentReader<'a>>>,
    hasher: Hasher,
    budget: &'a mut Budget<'b>,
    layer: LayerRef,
}

impl<'a, 'b> LayerReader<'a, 'b> {
    pub(crate) fn open(
        archive: &'a Archive,
        layer: LayerRef,
        budget: &'a mut Budget<'b>,
    ) -> Result<Self, ImageError> {
        let mut start = [0; 4];
        let head = Extent { length: layer.extent.length.min(4), ..layer.extent };
        let length = usize::try_from(head.length).unwrap_or_default();
        archive.reader(head).read_exact(&mut start[..length]).map_err(ImageError::io("read the archive"))?;
        let raw = Hashing { inner: archive.reader(layer.extent), hasher: Hasher::default() };
        let decoder = Decoder::new(raw, Packing::of(&start[..length]))?;
        Ok(Self { decoder, hasher: Hasher::default(), budget, layer })
    }

    /// Reads what is left, and compares.
    pub(crate) fn finish(mut self, name: &str) -> Result<(), ImageError> {
        io::copy(&mut self, &mut io::sink()).map_err(unwrap_io("read a layer"))?;
        check(name, self.layer.diff_id, self.hasher.finish())?;
        // What follows the last compressed byte is under the digest too.
        let raw = self.decoder.source();
        io::copy(raw, &mut io::sink()).map_err(ImageError::io("read a layer"))?;
        match self.layer.digest {
            Some(expected) => check(name, expected, std::mem::take(&mut raw.hasher).finish()),
            None => Ok(()),
        }
    }
}

pub(crate) fn check(what: &str, expected: Digest, found: Digest) -> Result<(), ImageError> {
    // What a fuzzer makes has no digest.
    if expected == found || cfg!(fuzzing) {
        return Ok(());
    }
    Err(ImageError::WrongDigest {
        what: what.to_owned(),
        expected: expected.to_string(),
        found: found.to_string(),
    })
}

impl Read for LayerReader<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.decoder.read(buffer).map_err(|error| {
            let problem = format!("does not decompress: {error}");
            io::Error::other(ImageError::malformed("a layer", problem))
        })?;
        self.budget.take(read).map_err(io::Error::other)?;
        self.hasher.update(&buffer[..read]);
        Ok(read)
    }
}

impl crate::tar::Skip for LayerReader<'_, '_> {}

/// Bytes as they are, or decompressed.
pub(crate) enum Decoder<R: Read> {
    Plain(BufReader<R>),
    Gzip(Box<MultiGzDecoder<BufReader<R>>>),
    Zstd(zstd::Decoder<'static, BufReader<R>>),
}

impl<R: Read> Decoder<R> {
    pub(crate) fn new(source: R, packing: Packing) -> Result<Self, ImageError> {
        let source = BufReader::with_capacity(BUFFER_BYTES, source);
        Ok(match packing {
            Packing::Plain => Self::Plain(source),
            Packing::Gzip => Self::Gzip(Box::new(MultiGzDecoder::new(source))),
            Packing::Zstd => {
                let starting = || ImageError::io("start a zstd decoder");
                let mut decoder = zstd::Decoder::with_buffer(source).map_err(starting())?;
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(starting())?;
                Self::Zstd(decoder)
            }
        })
    }

    fn source(&mut self) -> &mut R {
        match self {
            Self::Plain(reader) => reader.get_mut(),
            Self::Gzip(decoder) => decoder.get_mut().get_mut(),
            Self::Zstd(decoder) => decoder.get_mut().get_mut(),
        }
    }
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(reader) => reader.read(buffer),
            Self::Gzip(decoder) => decoder.read(buffer),
            Self::Zstd(decoder) => decoder.read(buffer),
        }
    }
}

pub(crate) struct Hashing<R> {
    inner: R,
    hasher: Hasher,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        Ok(read)
    }
}
