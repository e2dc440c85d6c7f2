use super::ImageError;

/// How large an image may be, in each way in which one can be too large. All are held while reading:
/// nothing is trusted to be what a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of the archive, as it is.
    pub archive_bytes: u64,
    /// Bytes of all files, once unpacked; a hard link counts as the file that it becomes.
    pub bytes: u64,
    /// Bytes of all layers, decompressed, with what later layers replace or remove.
    pub layer_bytes: u64,
    /// Unpacked bytes for each byte of the archive. Held beyond [`Bounds::ratio_free_bytes`], below
    /// which a tiny archive of much the same harms nobody.
    pub ratio: u64,
    pub ratio_free_bytes: u64,
    /// Files, directories and links together, at any moment.
    pub inodes: u64,
    /// Entries of all layers, with those that replace or remove.
    pub entries: u64,
    pub layers: u64,
    /// Components of a path.
    pub depth: u64,
    pub name_bytes: u64,
    pub path_bytes: u64,
    /// A manifest, index or configuration.
    pub document_bytes: u64,
    /// The extended header of one entry.
    pub header_bytes: u64,
}

impl Bounds {
    /// The largest of what people use — a CUDA image with a framework — is within them.
    pub const DEFAULT: Self = Self {
        archive_bytes: 16 << 30,
        bytes: 16 << 30,
        layer_bytes: 32 << 30,
        ratio: 100,
        ratio_free_bytes: 64 << 20,
        inodes: 500_000,
        entries: 2_000_000,
        layers: 127,
        depth: 64,
        name_bytes: 255,
        // What imports these holds each path of the image to as much.
        path_bytes: 3072,
        document_bytes: 4 << 20,
        header_bytes: 1 << 20,
    };
}

impl Default for Bounds {
    fn default() -> Self {
        Self::DEFAULT
    }
}

pub(crate) fn within(what: &'static str, found: u64, maximum: u64) -> Result<(), ImageError> {
    if found > maximum { Err(ImageError::TooLarge { what, found, maximum }) } else { Ok(()) }
}
