//! The documents as JSON. What is not needed is passed over, as the specifications ask.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::ImageConfig;
use crate::bounds::within;
use crate::digest::Digest;
use crate::error::ImageError;

/// The most arguments, names and values of an image, and their bytes in all: a program could not be
/// started with much more.
const WORDS_MAX: u64 = 1000;
const WORDS_BYTES_MAX: u64 = 128 * 1024;

pub(crate) const INDEXES: [&str; 2] =
    ["application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"];
pub(crate) const MANIFESTS: [&str; 2] =
    ["application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"];
const LAYERS: [&str; 5] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
];
/// Where a layout keeps an image's name: the specification's key, and containerd's.
const NAME_KEYS: [&str; 2] = ["org.opencontainers.image.ref.name", "io.containerd.image.name"];

pub(crate) fn parse<T: DeserializeOwned>(what: &str, text: &[u8]) -> Result<T, ImageError> {
    serde_json::from_slice(text)
        .map_err(|error| ImageError::malformed(what, format!("cannot be read: {error}")))
}

#[derive(Debug, Deserialize)]
pub(crate) struct Index {
    pub(crate) manifests: Vec<Descriptor>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    media_type: Option<String>,
    pub(crate) digest: String,
    pub(crate) size: u64,
    pub(crate) platform: Option<Platform>,
    annotations: Option<BTreeMap<String, String>>,
}

impl Descriptor {
    pub(crate) fn digest(&self) -> Result<Digest, ImageError> {
        self.digest.parse().map_err(|problem: String| ImageError::malformed("a descriptor", problem))
    }

    pub(crate) fn media_type(&self) -> String {
        self.media_type.as_deref().unwrap_or_default().escape_default().to_string()
    }

    pub(crate) fn is_index(&self) -> bool {
        self.media_type.as_deref().is_some_and(|kind| INDEXES.contains(&kind))
    }

    pub(crate) fn is_manifest(&self) -> bool {
        self.media_type.as_deref().is_some_and(|kind| MANIFESTS.contains(&kind))
    }

    /// Layers that lie elsewhere, or are encrypted, have types of their own.
    pub(crate) fn is_layer(&self) -> Result<(), ImageError> {
        if self.media_type.as_deref().is_some_and(|kind| LAYERS.contains(&kind)) {
            return Ok(());
        }
        Err(ImageError::Unsupported {
            what: format!("a layer of the type {}", self.media_type()),
            why: "tar files are taken, as they are or with gzip or zstd".to_owned(),
        })
    }

    pub(crate) fn names(&self) -> Vec<String> {
        let annotations = self.annotations.iter();
        annotations.flat_map(|all| NAME_KEYS.into_iter().filter_map(|key| all.get(key).cloned())).collect()
    }
}

#[derive(Debug, Deserialize)]
pub(crate) struct Platform {
    pub(crate) architecture: String,
    pub(crate) os: String,
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os.escape_default(), self.architecture.escape_default())
    }
}

#[derive(Debug, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct DockerImage {
    pub(crate) config: String,
    pub(crate) repo_tags: Option<Vec<String>>,
    pub(crate) layers: Vec<String>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Config {
    pub(crate) architecture: String,
    pub(crate) os: String,
    config: Option<Execution>,
    pub(crate) rootfs: RootFs,
}

#[derive(Debug, Deserialize)]
pub(crate) struct RootFs {
    pub(crate) diff_ids: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Execution {
    user: Option<String>,
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    working_dir: Option<String>,
    labels: Option<BTreeMap<String, String>>,
}

impl Config {
    pub(crate) fn image(self) -> Result<ImageConfig, ImageError> {
        let given = self.config.unwrap_or_default();
        let mut variables = Vec::new();
        for variable in given.env.unwrap_or_default() {
            let pair = variable.split_once('=');
            let (name, value) = pair.ok_or_else(|| wrong("has a variable that is not NAME=VALUE"))?;
            variables.push((name.to_owned(), value.to_owned()));
        }
        let config = ImageConfig {
            entrypoint: given.entrypoint.unwrap_or_default(),
            cmd: given.cmd.unwrap_or_default(),
            env: variables,
            user: given.user.unwrap_or_default(),
            workdir: given.working_dir.unwrap_or_default(),
            labels: given.labels.unwrap_or_default().into_iter().collect(),
        };
        config.check()?;
        Ok(config)
    }
}

fn wrong(problem: &str) -> ImageError {
    ImageError::malformed("the configuration", problem)
}

impl ImageConfig {
    /// Whether a program can be started so, within bounds.
    pub fn check(&self) -> Result<(), ImageError> {
        let words = self.entrypoint.iter().chain(&self.cmd);
        let pairs = self.env.iter().chain(&self.labels);
        let texts = || words.clone().chain(pairs.clone().flat_map(|(name, value)| [name, value]));
        within("arguments, variables and labels", texts().count() as u64, WORDS_MAX)?;
        let bytes: usize = texts().chain([&self.user, &self.workdir]).map(String::len).sum();
        within("bytes in arguments, variables and labels", bytes as u64, WORDS_BYTES_MAX)?;
        if texts().chain([&self.user, &self.workdir]).any(|text| text.contains('\0')) {
            return Err(wrong("holds a NUL byte"));
        }
        if self.env.iter().any(|(name, _)| name.is_empty() || name.contains('=')) {
            return Err(wrong("has a variable that is not NAME=VALUE"));
        }
        if !self.workdir.is_empty() && !self.workdir.starts_with('/') {
            return Err(wrong("has a working directory that is no absolute path"));
        }
        Ok(())
    }
}
