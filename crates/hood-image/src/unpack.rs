//! An image, from its archive to a directory.

mod write;

use std::fs::File;
use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, Mode, OFlags};
use serde::{Deserialize, Serialize};

use crate::archive::Archive;
use crate::bounds::{Bounds, within};
use crate::error::ImageError;
use crate::layer::{Budget, LayerReader, LayerRef};
use crate::manifest::{self, ImageConfig, Pick};
use crate::tar::{Kind, Reader};
use crate::tree::Tree;
use write::Writer;

/// Searched for programs where the image names no PATH: what a place searches.
const PATH_DEFAULT: &str = "/usr/local/bin:/usr/bin:/bin";

const SET_ID_BITS: u32 = 0o6000;

/// What of an image stayed behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// Devices, FIFOs and sockets.
    pub devices: u64,
    /// Files that were set-user-id or set-group-id.
    pub set_id: u64,
    /// Files with extended attributes, capabilities among them.
    pub attributes: u64,
}

/// An image that was written down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unpacked {
    pub config: ImageConfig,
    /// `sha256:…` of its manifest, or of its configuration where there is no manifest.
    pub digest: String,
    pub layers: u64,
    pub files: u64,
    pub bytes: u64,
    /// Whether `python3` is on its PATH.
    pub has_python: bool,
    pub left_out: LeftOut,
}

/// How far it has come, in bytes of the layers as they are in the archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// False while digests are checked, true while files are written.
    pub writing: bool,
    pub done: u64,
    pub total: u64,
}

/// Reads an archive and writes its image into `root`, an empty directory. Nothing of it is written
/// before all of it was checked; after an error all the same, the caller removes what is there.
///
/// Directories and programs get the mode 0755, other files 0644, and all belongs to whoever calls.
pub fn unpack(
    input: File,
    pick: &Pick,
    bounds: &Bounds,
    root: BorrowedFd<'_>,
    tell: &mut dyn FnMut(Step),
) -> Result<Unpacked, ImageError> {
    let archive = Archive::open(input, bounds, || spool(root))?;
    let found = manifest::find(&archive, pick, bounds)?;
    let mut tree = Tree::new(bounds);
    let mut left_out = LeftOut::default();
    let mut budget = Budget::new(bounds, archive.length());
    let total = found.layers.iter().map(|layer| layer.extent.length).sum();
    let mut done = 0;
    let mut entries = 0;
    for (number, layer) in found.layers.iter().enumerate() {
        tell(Step { writing: false, done, total });
        tree.begin_layer(u32::try_from(number).unwrap_or(u32::MAX));
        let mut scan = Scan { tree: &mut tree, left_out: &mut left_out, entries: &mut entries, bounds };
        scan.layer(&archive, *layer, &mut budget, number)?;
        done += layer.extent.length;
    }
    tree.make_workdir(&found.config.workdir)?;
    tree.seat(&found.config.workdir)?;
    budget.check_ratio(tree.bytes())?;
    let path = found.config.env.iter().find(|(name, _)| name == "PATH").map(|(_, value)| value.as_str());
    let has_python = tree.has_program("python3", path.unwrap_or(PATH_DEFAULT));
    let bytes = tree.bytes();
    let mut writer = Writer::begin(root, tree.items())?;
    drop(tree);
    let mut budget = Budget::new(bounds, archive.length());
    done = 0;
    for (number, layer) in found.layers.iter().enumerate() {
        tell(Step { writing: true, done, total });
        writer.layer(&archive, *layer, &mut budget, number)?;
        done += layer.extent.length;
    }
    let files = writer.finish()?;
    tell(Step { writing: true, done, total });
    Ok(Unpacked {
        config: found.config,
        digest: found.digest.to_string(),
        layers: found.layers.len() as u64,
        files,
        bytes,
        has_python,
        left_out,
    })
}

/// The first reading: names go into the tree, contents only into hashes.
struct Scan<'a, 'b> {
    tree: &'a mut Tree<'b>,
    left_out: &'a mut LeftOut,
    entries: &'a mut u64,
    bounds: &'b Bounds,
}

impl Scan<'_, '_> {
    fn layer(
        &mut self,
        archive: &Archive,
        layer: LayerRef,
        budget: &mut Budget<'_>,
        number: usize,
    ) -> Result<(), ImageError> {
        let mut reader = Reader::new(LayerReader::open(archive, layer, budget)?, self.bounds);
        let mut entry_number = 0;
        while let Some(entry) = reader.next()? {
            *self.entries += 1;
            within("entries in its layers", *self.entries, self.bounds.entries)?;
            self.left_out.devices += u64::from(entry.kind == Kind::Special);
            self.left_out.set_id += u64::from(entry.kind == Kind::File && entry.mode & SET_ID_BITS != 0);
            self.left_out.attributes += u64::from(entry.has_attributes);
            self.tree.apply(&entry, entry_number)?;
            entry_number += 1;
        }
        reader.into_inner().finish(&layer_name(number))
    }
}

fn layer_name(number: usize) -> String {
    format!("layer {}", number + 1)
}

/// A file without a name, for what cannot be read where it is.
fn spool(root: BorrowedFd<'_>) -> Result<File, ImageError> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = rustix::fs::openat(root, "archive", flags, Mode::RUSR | Mode::WUSR)
        .and_then(|file| rustix::fs::unlinkat(root, "archive", AtFlags::empty()).map(|()| file))
        .map_err(|error| ImageError::io("make a file for the archive")(error.into()))?;
    Ok(file.into())
}
