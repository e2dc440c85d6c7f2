//! A tree of files as an image: an OCI layout in one tar file, the same bytes for the same tree.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use crate::digest::{Digest, Hasher};
use crate::error::ImageError;
use crate::manifest::{ImageConfig, Pick};

const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// The time of everything in an image, and of the image: 2 January 1980, UTC.
const TIME: u64 = 315_619_200;
const CREATED: &str = "1980-01-02T00:00:00Z";

/// What one layer is made of.
#[derive(Clone, Debug)]
pub enum Source {
    /// A directory, whose own name is the root.
    Tree(PathBuf),
    /// Programs, each at a path without a leading slash.
    Programs(Vec<(String, Vec<u8>)>),
}

/// An image to be written.
#[derive(Clone, Debug)]
pub struct Recipe {
    pub layers: Vec<Source>,
    pub config: ImageConfig,
    /// What the layout calls it.
    pub reference: String,
}

/// An image that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// Of its manifest.
    pub digest: Digest,
    pub bytes: u64,
}

/// Writes the image. `spool` is an empty file for layers whose digest is not known yet.
pub fn export(recipe: &Recipe, mut to: File, mut spool: File) -> Result<Exported, ImageError> {
    let mut layers = Vec::new();
    for source in &recipe.layers {
        layers.push(write_layer(source, &mut spool)?);
    }
    let config = config(recipe, &layers).to_string();
    let descriptors: Vec<Value> =
        layers.iter().map(|layer| descriptor(LAYER_TYPE, layer.digest, layer.length)).collect();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": descriptor(CONFIG_TYPE, Digest::of(config.as_bytes()), config.len() as u64),
        "layers": descriptors,
    })
    .to_string();
    let digest = Digest::of(manifest.as_bytes());
    let mut index = descriptor(MANIFEST_TYPE, digest, manifest.len() as u64);
    index["annotations"] = json!({ "org.opencontainers.image.ref.name": recipe.reference });
    let index = json!({ "schemaVersion": 2, "manifests": [index] }).to_string();
    let mut archive = tar::Builder::new(&mut to);
    document(&mut archive, "oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    document(&mut archive, "index.json", &index)?;
    document(&mut archive, &blob_name(digest), &manifest)?;
    document(&mut archive, &blob_name(Digest::of(config.as_bytes())), &config)?;
    for (i, layer) in layers.iter().enumerate() {
        // Two layers of the same bytes are one blob.
        if layers[..i].iter().any(|known| known.digest == layer.digest) {
            continue;
        }
        spool.seek(SeekFrom::Start(layer.offset)).map_err(writing())?;
        let mut header = header(layer.length, 0o644);
        archive
            .append_data(&mut header, blob_name(layer.digest), (&spool).take(layer.length))
            .map_err(writing())?;
    }
    archive.into_inner().map_err(writing())?;
    let bytes = to.stream_position().map_err(writing())?;
    Ok(Exported { digest, bytes })
}

fn writing() -> impl FnOnce(io::Error) -> ImageError {
    ImageError::io("write the image")
}

fn descriptor(kind: &str, digest: Digest, size: u64) -> Value {
    json!({ "mediaType": kind, "digest": digest.to_string(), "size": size })
}

fn blob_name(digest: Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn document(archive: &mut tar::Builder<&mut File>, name: &str, text: &str) -> Result<(), ImageError> {
    let mut header = header(text.len() as u64, 0o644);
    archive.append_data(&mut header, name, text.as_bytes()).map_err(writing())
}

fn header(size: u64, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(TIME);
    header
}

fn config(recipe: &Recipe, layers: &[Layer]) -> Value {
    let ImageConfig { entrypoint, cmd, env, user, workdir, labels } = &recipe.config;
    let env: Vec<String> = env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let labels: serde_json::Map<String, Value> =
        labels.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect();
    let diff_ids: Vec<String> = layers.iter().map(|layer| layer.diff_id.to_string()).collect();
    let history: Vec<Value> =
        layers.iter().map(|_| json!({ "created": CREATED, "created_by": "fumehood" })).collect();
    json!({
        "created": CREATED,
        "architecture": Pick::here(None).architecture,
        "os": "linux",
        "config": {
            "Entrypoint": entrypoint, "Cmd": cmd, "Env": env, "User": user, "WorkingDir": workdir,
            "Labels": labels,
        },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
        "history": history,
    })
}

/// A layer in the spool.
struct Layer {
    offset: u64,
    length: u64,
    digest: Digest,
    diff_id: Digest,
}

fn write_layer(source: &Source, spool: &mut File) -> Result<Layer, ImageError> {
    let offset = spool.seek(SeekFrom::End(0)).map_err(writing())?;
    let packed = Counting { inner: io::BufWriter::new(spool), hasher: Hasher::default(), length: 0 };
    let encoder = GzEncoder::new(packed, Compression::default());
    let plain = Counting { inner: encoder, hasher: Hasher::default(), length: 0 };
    let mut tar = tar::Builder::new(plain);
    match source {
        Source::Tree(root) => tree(&mut tar, root)?,
        Source::Programs(programs) => {
            for (path, bytes) in programs {
                let mut header = header(bytes.len() as u64, 0o755);
                tar.append_data(&mut header, path, bytes.as_slice()).map_err(writing())?;
            }
        }
    }
    let plain = tar.into_inner().map_err(writing())?;
    let mut packed = plain.inner.finish().map_err(writing())?;
    packed.inner.flush().map_err(writing())?;
    let (digest, diff_id) = (packed.hasher.finish(), plain.hasher.finish());
    Ok(Layer { offset, length: packed.length, digest, diff_id })
}

/// Everything in the tree, in the order of the paths' bytes, so that each directory comes before what
/// it holds.
fn tree<W: Write>(tar: &mut tar::Builder<W>, root: &Path) -> Result<(), ImageError> {
    let mut waiting = vec![PathBuf::new()];
    while let Some(path) = waiting.pop() {
        let whole = root.join(&path);
        let meta = fs::symlink_metadata(&whole).map_err(reading())?;
        let mode = meta.permissions().mode() & 0o777;
        if meta.is_symlink() {
            let target = fs::read_link(&whole).map_err(reading())?;
            let mut header = header(0, 0o777);
            header.set_entry_type(tar::EntryType::Symlink);
            tar.append_link(&mut header, &path, target).map_err(writing())?;
        } else if meta.is_dir() {
            if !path.as_os_str().is_empty() {
                let mut header = header(0, mode);
                header.set_entry_type(tar::EntryType::Directory);
                tar.append_data(&mut header, &path, io::empty()).map_err(writing())?;
            }
            let entries = fs::read_dir(&whole).and_then(Iterator::collect::<io::Result<Vec<_>>>);
            let mut inner: Vec<PathBuf> =
                entries.map_err(reading())?.iter().map(|entry| path.join(entry.file_name())).collect();
            inner.sort_by(|a, b| b.as_os_str().as_bytes().cmp(a.as_os_str().as_bytes()));
            waiting.append(&mut inner);
        } else {
            let file = File::open(&whole).map_err(reading())?;
            let mut header = header(meta.len(), mode);
            tar.append_data(&mut header, &path, file.take(meta.len())).map_err(writing())?;
        }
    }
    Ok(())
}

fn reading() -> impl FnOnce(io::Error) -> ImageError {
    ImageError::io("read the environment's image")
}

struct Counting<W> {
    inner: W,
    hasher: Hasher,
    length: u64,
}

impl<W: Write> Write for Counting<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(buffer)?;
        self.hasher.update(&buffer[..written]);
        self.length += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
