//! What is remembered of an image: which declaration and which Python of the host it was made from.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::declaration::{Base, Declaration};
use super::host;
use super::image::Owner;

/// Rises whenever the same host and declaration would give another image.
const BUILDER: u32 = 1;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    builder: u32,
    build_key: String,
    /// Hexadecimal BLAKE3.
    pub(super) digest: String,
    pub(super) files: u64,
    pub(super) size_bytes: u64,
    pub(super) interpreter: String,
    uid: u32,
    gid: u32,
    /// What the interpreter's name led to, for an image of this host's.
    #[serde(default)]
    found: PathBuf,
    #[serde(default)]
    witnesses: Vec<Witness>,
}

/// A file or directory of the host as it was. Packages are upgraded by replacing files, which the
/// times of both tell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Witness {
    path: PathBuf,
    /// 0 for a directory, whose size says nothing.
    size: u64,
    mtime_s: i64,
    mtime_ns: i64,
}

impl Witness {
    pub(super) fn take(path: &Path) -> io::Result<Self> {
        let meta = fs::metadata(path)?;
        let size = if meta.is_dir() { 0 } else { meta.size() };
        Ok(Self { path: path.to_owned(), size, mtime_s: meta.mtime(), mtime_ns: meta.mtime_nsec() })
    }

    pub(super) fn still_there(&self) -> bool {
        Self::take(&self.path).is_ok_and(|now| now == *self)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// What a build found out.
pub(super) struct Built {
    pub(super) digest: String,
    pub(super) files: u64,
    pub(super) size_bytes: u64,
    pub(super) interpreter: String,
    pub(super) owner: Owner,
    pub(super) origin: Origin,
}

/// What of this host an image was made from; nothing for one that is the same anywhere.
#[derive(Default)]
pub(super) struct Origin {
    pub(super) found: PathBuf,
    pub(super) witnesses: Vec<Witness>,
}

impl Record {
    pub(super) fn new(declaration: &Declaration, built: Built) -> Self {
        Self {
            builder: BUILDER,
            build_key: declaration.build_key(),
            digest: built.digest,
            files: built.files,
            size_bytes: built.size_bytes,
            interpreter: built.interpreter,
            uid: built.owner.uid,
            gid: built.owner.gid,
            found: built.origin.found,
            witnesses: built.origin.witnesses,
        }
    }

    /// `None` for what is not there, was cut short, or was written by another builder: each means
    /// that the image must be built.
    pub(super) fn read(path: &Path) -> Option<Self> {
        let record: Self = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
        // The digest becomes a path.
        let good = record.builder == BUILDER && blake3::Hash::from_hex(&record.digest).is_ok();
        good.then_some(record)
    }

    pub(super) fn owner(&self) -> Owner {
        Owner { uid: self.uid, gid: self.gid }
    }

    /// Whether a build today would read what this one read. Only metadata is looked at.
    pub(super) fn is_current(&self, declaration: &Declaration) -> bool {
        self.build_key == declaration.build_key()
            && match declaration.base {
                Base::HostPython => {
                    host::find(&declaration.interpreter).is_ok_and(|found| found == self.found)
                        && self.witnesses.iter().all(Witness::still_there)
                }
                Base::Locked | Base::Imported => true,
            }
    }
}
