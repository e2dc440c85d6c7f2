//! What the fuzzer calls: any bytes, read as layers or as an archive. Checksums and digests count as
//! right here, since nothing would get past them; whatever comes through must hold together.

use std::fs::File;
use std::io::{self, Write as _};

use rustix::fs::MemfdFlags;

use crate::archive::Archive;
use crate::bounds::Bounds;
use crate::error::ImageError;
use crate::layer::{Budget, LayerReader};
use crate::manifest::{self, Pick};
use crate::tar::{Reader, Skip};
use crate::tree::Tree;

/// Small, so that each is met.
const BOUNDS: Bounds = Bounds {
    archive_bytes: 1 << 20,
    bytes: 1 << 20,
    layer_bytes: 1 << 20,
    ratio: 10,
    ratio_free_bytes: 1 << 16,
    inodes: 100,
    entries: 500,
    layers: 8,
    depth: 8,
    name_bytes: 40,
    path_bytes: 200,
    document_bytes: 1 << 14,
    header_bytes: 1 << 12,
};

/// Between two layers.
const NEXT_LAYER: &[u8] = b"\xff\xfe\xfd\xfc";

impl Skip for &[u8] {}

pub fn layers(input: &[u8]) {
    let mut tree = Tree::new(&BOUNDS);
    let mut rest = input;
    for number in 0..8 {
        let end = rest.windows(NEXT_LAYER.len()).position(|window| window == NEXT_LAYER);
        let layer = &rest[..end.unwrap_or(rest.len())];
        tree.begin_layer(number);
        // Whatever was applied before an error must hold together, too.
        let applied = apply(&mut tree, layer);
        tree.assert_sound();
        if applied.is_err() {
            return;
        }
        match end {
            Some(end) => rest = &rest[end + NEXT_LAYER.len()..],
            None => break,
        }
    }
    if tree.make_workdir("/srv/app").is_ok() && tree.seat("/srv/app").is_ok() {
        tree.has_program("python3", "/bin:/usr/bin");
        tree.assert_sound();
    }
}

fn apply(tree: &mut Tree<'_>, layer: &[u8]) -> Result<(), ImageError> {
    let mut reader = Reader::new(layer, &BOUNDS);
    let mut number = 0;
    while let Some(entry) = reader.next()? {
        crate::bounds::within("entries", u64::from(number), BOUNDS.entries)?;
        tree.apply(&entry, number)?;
        number += 1;
    }
    Ok(())
}

pub fn archive(input: &[u8]) {
    // An error is an answer; a panic, an endless loop or too much memory is a finding.
    let _ = read(input);
}

fn read(input: &[u8]) -> Result<(), ImageError> {
    let archive = Archive::open(memory(input)?, &BOUNDS, || memory(b""))?;
    let pick = Pick { name: None, architecture: "amd64".to_owned() };
    let found = manifest::find(&archive, &pick, &BOUNDS)?;
    let mut budget = Budget::new(&BOUNDS, archive.length());
    let mut tree = Tree::new(&BOUNDS);
    for (number, layer) in found.layers.iter().enumerate() {
        tree.begin_layer(u32::try_from(number).unwrap_or(u32::MAX));
        let mut reader = Reader::new(LayerReader::open(&archive, *layer, &mut budget)?, &BOUNDS);
        let mut entries = 0;
        while let Some(entry) = reader.next()? {
            crate::bounds::within("entries", u64::from(entries), BOUNDS.entries)?;
            tree.apply(&entry, entries)?;
            entries += 1;
        }
        reader.into_inner().finish("a layer")?;
    }
    tree.make_workdir(&found.config.workdir)?;
    tree.seat("/")?;
    tree.assert_sound();
    Ok(())
}

fn memory(bytes: &[u8]) -> Result<File, ImageError> {
    let failed = |error: io::Error| ImageError::io("make a file in memory")(error);
    let mut file = File::from(
        rustix::fs::memfd_create("archive", MemfdFlags::CLOEXEC).map_err(|error| failed(error.into()))?,
    );
    file.write_all(bytes).map_err(failed)?;
    io::Seek::rewind(&mut file).map_err(failed)?;
    Ok(file)
}
