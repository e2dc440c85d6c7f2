//! White box: makes layers and archives, sound ones and others. Headers are written here byte by
//! byte, since no library writes what an attacker would.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use hood_image::{Bounds, Digest, ImageError, Pick, Unpacked, unpack};
use serde_json::{Value, json};
use tempfile::TempDir;

pub(crate) const FILE: u8 = b'0';
pub(crate) const HARD: u8 = b'1';
pub(crate) const LINK: u8 = b'2';
pub(crate) const CHAR: u8 = b'3';
pub(crate) const DIR: u8 = b'5';
pub(crate) const FIFO: u8 = b'6';

/// One tar entry, its header first. A name that is too long for its field is cut: whoever wants it
/// whole writes an extended header before.
pub(crate) fn raw(kind: u8, name: &[u8], target: &[u8], mode: u32, data: &[u8]) -> Vec<u8> {
    let mut block = [0_u8; 512];
    let name = &name[..name.len().min(100)];
    let target = &target[..target.len().min(100)];
    block[..name.len()].copy_from_slice(name);
    block[100..108].copy_from_slice(format!("{mode:07o}\0").as_bytes());
    block[108..116].copy_from_slice(b"0000000\0");
    block[116..124].copy_from_slice(b"0000000\0");
    block[124..136].copy_from_slice(format!("{:011o}\0", data.len()).as_bytes());
    block[136..148].copy_from_slice(b"00000000000\0");
    block[156] = kind;
    block[157..157 + target.len()].copy_from_slice(target);
    block[257..265].copy_from_slice(b"ustar\x0000");
    seal(&mut block);
    let mut bytes = block.to_vec();
    bytes.extend_from_slice(data);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

/// Writes the checksum of a header.
pub(crate) fn seal(block: &mut [u8]) {
    block[148..156].fill(b' ');
    let sum: u32 = block[..512].iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

pub(crate) fn pax(records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut data = Vec::new();
    for (key, value) in records {
        let body = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
        let mut length = body.len() + 1;
        while length != body.len() + length.to_string().len() {
            length += 1;
        }
        data.extend_from_slice(length.to_string().as_bytes());
        data.extend_from_slice(&body);
    }
    raw(b'x', b"pax", b"", 0o644, &data)
}

/// A layer under construction.
#[derive(Clone, Default)]
pub(crate) struct Layer(Vec<u8>);

impl Layer {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(crate) fn file(self, name: &str, data: &str) -> Self {
        self.raw(&raw(FILE, name.as_bytes(), b"", 0o644, data.as_bytes()))
    }

    pub(crate) fn program(self, name: &str, data: &[u8]) -> Self {
        self.raw(&raw(FILE, name.as_bytes(), b"", 0o755, data))
    }

    pub(crate) fn dir(self, name: &str) -> Self {
        self.raw(&raw(DIR, name.as_bytes(), b"", 0o755, b""))
    }

    pub(crate) fn link(self, name: &str, target: &str) -> Self {
        self.raw(&raw(LINK, name.as_bytes(), target.as_bytes(), 0o777, b""))
    }

    pub(crate) fn hard(self, name: &str, target: &str) -> Self {
        self.raw(&raw(HARD, name.as_bytes(), target.as_bytes(), 0o644, b""))
    }

    /// The layer's tar file.
    pub(crate) fn tar(&self) -> Vec<u8> {
        let mut tar = self.0.clone();
        tar.resize(tar.len() + 1024, 0);
        tar
    }
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).expect("compresses");
    encoder.finish().expect("compresses")
}

pub(crate) fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).expect("compresses")
}

/// An image before it is put into an archive: its parts can be made wrong first.
#[derive(Clone)]
pub(crate) struct Image {
    /// Tar files, and the same as they lie in the archive.
    pub(crate) layers: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) config: Value,
    pub(crate) layer_type: &'static str,
}

impl Image {
    pub(crate) fn new(layers: &[Layer]) -> Self {
        Self::packed(layers, <[u8]>::to_vec)
    }

    pub(crate) fn packed(layers: &[Layer], pack: impl Fn(&[u8]) -> Vec<u8>) -> Self {
        let layers: Vec<_> = layers.iter().map(Layer::tar).map(|tar| (tar.clone(), pack(&tar))).collect();
        let diff_ids: Vec<String> = layers.iter().map(|(tar, _)| Digest::of(tar).to_string()).collect();
        let config = json!({
            "architecture": "amd64",
            "os": "linux",
            "config": {
                "Entrypoint": ["/bin/app"], "Cmd": ["--help"], "Env": ["PATH=/opt/bin:/bin", "EMPTY="],
                "User": "app", "WorkingDir": "/srv", "Labels": {"a": "b"}
            },
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        Self { layers, config, layer_type: "application/vnd.oci.image.layer.v1.tar" }
    }

    /// What an OCI layout holds, by name; and the manifest's descriptor.
    pub(crate) fn blobs(&self) -> (Vec<(String, Vec<u8>)>, Value) {
        let mut blobs = Vec::new();
        let mut add = |bytes: &[u8], kind: &str| {
            let digest = Digest::of(bytes);
            blobs.push((format!("blobs/sha256/{}", digest.hex()), bytes.to_vec()));
            json!({"mediaType": kind, "digest": digest.to_string(), "size": bytes.len()})
        };
        let layers: Vec<Value> = self.layers.iter().map(|(_, packed)| add(packed, self.layer_type)).collect();
        let config = add(self.config.to_string().as_bytes(), "application/vnd.oci.image.config.v1+json");
        let manifest = json!({"schemaVersion": 2, "config": config, "layers": layers});
        let manifest = add(manifest.to_string().as_bytes(), "application/vnd.oci.image.manifest.v1+json");
        // Two layers may be the same.
        blobs.sort();
        blobs.dedup();
        (blobs, manifest)
    }

    pub(crate) fn layout(&self) -> Vec<u8> {
        let (blobs, manifest) = self.blobs();
        layout(&blobs, &[manifest])
    }

    pub(crate) fn docker(&self) -> Vec<u8> {
        let config = self.config.to_string();
        let name = format!("{}.json", Digest::of(config.as_bytes()).hex());
        let mut archive = Layer::new().file(&name, &config);
        let mut names = Vec::new();
        for (i, (_, packed)) in self.layers.iter().enumerate() {
            let name = format!("{i}/layer.tar");
            archive = archive.raw(&raw(FILE, name.as_bytes(), b"", 0o644, packed));
            names.push(name);
        }
        let manifest = json!([{"Config": name, "RepoTags": ["app:1"], "Layers": names}]);
        archive.file("manifest.json", &manifest.to_string()).tar()
    }
}

/// An OCI layout as a tar file.
pub(crate) fn layout(blobs: &[(String, Vec<u8>)], manifests: &[Value]) -> Vec<u8> {
    let index = json!({"schemaVersion": 2, "manifests": manifests});
    let mut archive = Layer::new()
        .file("oci-layout", r#"{"imageLayoutVersion": "1.0.0"}"#)
        .file("index.json", &index.to_string());
    for (name, bytes) in blobs {
        archive = archive.raw(&raw(FILE, name.as_bytes(), b"", 0o644, bytes));
    }
    archive.tar()
}

/// Where an image is unpacked, with something beside it that must stay as it is.
pub(crate) struct Bench {
    dir: TempDir,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir(dir.path().join("root")).expect("made");
        fs::write(dir.path().join("canary"), "alive").expect("written");
        Self { dir }
    }

    pub(crate) fn root(&self) -> std::path::PathBuf {
        self.dir.path().join("root")
    }

    pub(crate) fn unpack(&self, archive: &[u8]) -> Result<Unpacked, ImageError> {
        self.unpack_with(archive, None, &Bounds::DEFAULT)
    }

    pub(crate) fn unpack_with(
        &self,
        archive: &[u8],
        name: Option<&str>,
        bounds: &Bounds,
    ) -> Result<Unpacked, ImageError> {
        let path = self.dir.path().join("archive");
        fs::write(&path, archive).expect("written");
        self.unpack_file(File::open(path).expect("there"), name, bounds)
    }

    pub(crate) fn unpack_file(
        &self,
        input: File,
        name: Option<&str>,
        bounds: &Bounds,
    ) -> Result<Unpacked, ImageError> {
        let pick = Pick { name: name.map(str::to_owned), architecture: "amd64".to_owned() };
        let root = File::open(self.root()).expect("there");
        unpack(input, &pick, bounds, root.as_fd(), &mut |_| ())
    }

    /// Every name in the image with what it is: `dir`, `-> target`, or mode and content.
    pub(crate) fn tree(&self) -> Vec<(String, String)> {
        let mut found = Vec::new();
        list(&self.root(), "", &mut found);
        // What every image here has.
        let seats = ["dev", "eval", "proc", "srv", "tmp"];
        found.retain(|(path, what)| !(what == "dir" && seats.contains(&path.as_str())));
        found.sort();
        found
    }

    /// Nothing was written, neither where it should be nor elsewhere.
    pub(crate) fn assert_untouched(&self, what: &str) {
        let left: Vec<_> = fs::read_dir(self.root()).expect("there").collect();
        assert!(left.is_empty(), "{what}: {left:?} was left behind");
        let mut beside: Vec<_> = fs::read_dir(self.dir.path())
            .expect("there")
            .map(|entry| entry.expect("read").file_name())
            .collect();
        beside.sort();
        beside.retain(|name| name != "archive");
        assert_eq!(beside, ["canary", "root"], "{what}");
        assert_eq!(fs::read_to_string(self.dir.path().join("canary")).expect("there"), "alive", "{what}");
    }
}

fn list(dir: &Path, prefix: &str, found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(dir).expect("readable") {
        let path = entry.expect("readable").path();
        let name = path.file_name().expect("named").as_bytes().escape_ascii().to_string();
        let name = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
        let meta = fs::symlink_metadata(&path).expect("there");
        if meta.is_symlink() {
            let target = fs::read_link(&path).expect("a link");
            found.push((name, format!("-> {}", target.as_os_str().as_bytes().escape_ascii())));
        } else if meta.is_dir() {
            assert_eq!(meta.permissions().mode() & 0o7777, 0o755, "{name}");
            found.push((name.clone(), "dir".to_owned()));
            list(&path, &name, found);
        } else {
            assert!(meta.is_file(), "{name} is no file");
            let mode = meta.permissions().mode() & 0o7777;
            let content = fs::read(&path).expect("readable").escape_ascii().to_string();
            found.push((name, format!("{mode:o} {content}")));
        }
    }
}

/// The image of these layers, as names and what they are; directories left out.
pub(crate) fn merged(layers: &[Layer]) -> Vec<(String, String)> {
    let bench = Bench::new();
    bench.unpack(&Image::new(layers).docker()).unwrap_or_else(|error| panic!("{error}"));
    let mut tree = bench.tree();
    tree.retain(|(_, what)| what != "dir");
    tree
}

pub(crate) fn named(tree: &[(String, String)]) -> Vec<(&str, &str)> {
    tree.iter().map(|(name, what)| (name.as_str(), what.as_str())).collect()
}
