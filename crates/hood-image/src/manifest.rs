//! The documents of an image: which layers it has, and how it wants to be started.

pub(crate) mod documents;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::archive::{Archive, Extent};
use crate::bounds::{Bounds, within};
use crate::digest::Digest;
use crate::error::ImageError;
use crate::layer::{LayerRef, check};
use documents::{Config, Descriptor, DockerImage, Index, Manifest, Platform, parse};

/// How deep indexes may lie in indexes, and how many may be read.
const INDEX_DEPTH_MAX: usize = 3;
const INDEXES_MAX: usize = 16;
/// The most names that an error lists.
const NAMES_SHOWN: usize = 10;

/// How an image wants its program to be started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    /// Names and values.
    pub env: Vec<(String, String)>,
    /// As it is written; empty means that none is.
    pub user: String,
    /// Absolute, or empty.
    pub workdir: String,
    pub labels: Vec<(String, String)>,
}

/// Which image of an archive is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pick {
    /// A tag, as the archive has it. Not needed where there is one image.
    pub name: Option<String>,
    /// As images name it: `amd64`.
    pub architecture: String,
}

impl Pick {
    /// The image for this machine.
    pub fn here(name: Option<String>) -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Self { name, architecture: architecture.to_owned() }
    }

    pub(crate) fn is_here(&self, platform: &Platform) -> bool {
        platform.os == "linux" && platform.architecture == self.architecture
    }
}

/// An image that was found, its documents checked.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) config: ImageConfig,
    pub(crate) layers: Vec<LayerRef>,
    /// What the image is known by: its manifest's digest, or its configuration's where it has no
    /// manifest of its own.
    pub(crate) digest: Digest,
}

pub(crate) fn find(archive: &Archive, pick: &Pick, bounds: &Bounds) -> Result<Found, ImageError> {
    let finder = Finder { archive, pick, bounds };
    // `docker save` writes both; the first has more digests.
    if archive.find("oci-layout").is_some()
        && let Some(index) = archive.find("index.json")
    {
        return finder.layout(index);
    }
    match archive.find("manifest.json") {
        Some(manifest) => finder.docker(manifest),
        None => Err(ImageError::NotAnImage { found: archive.names() }),
    }
}

/// The manifest of a layout's image, as it lies there.
#[cfg(feature = "registry")]
pub(crate) fn text(archive: &Archive, pick: &Pick, bounds: &Bounds) -> Result<(Digest, Vec<u8>), ImageError> {
    let finder = Finder { archive, pick, bounds };
    let index = archive.find("index.json");
    let index = index.ok_or_else(|| ImageError::NotAnImage { found: archive.names() })?;
    let index: Index = parse("index.json", &archive.document(index, bounds)?)?;
    let descriptor = finder.choose(index)?;
    Ok((descriptor.digest()?, finder.blob(&descriptor, "the manifest")?))
}

struct Finder<'a> {
    archive: &'a Archive,
    pick: &'a Pick,
    bounds: &'a Bounds,
}

impl Finder<'_> {
    fn layout(&self, index: Extent) -> Result<Found, ImageError> {
        let index: Index = parse("index.json", &self.archive.document(index, self.bounds)?)?;
        let descriptor = self.choose(index)?;
        let text = self.blob(&descriptor, "the manifest")?;
        let manifest: Manifest = parse("the manifest", &text)?;
        within("layers", manifest.layers.len() as u64, self.bounds.layers)?;
        let config = self.config(&self.blob(&manifest.config, "the configuration")?)?;
        let diff_ids = diff_ids(&config, manifest.layers.len())?;
        let layers = manifest.layers.iter().zip(diff_ids).map(|(layer, diff_id)| {
            layer.is_layer()?;
            Ok(LayerRef { extent: self.extent(layer, "a layer")?, digest: Some(layer.digest()?), diff_id })
        });
        let layers = layers.collect::<Result<_, ImageError>>()?;
        Ok(Found { config: config.image()?, layers, digest: descriptor.digest()? })
    }

    /// The one manifest that is meant, through indexes.
    fn choose(&self, index: Index) -> Result<Descriptor, ImageError> {
        let named: Vec<(Vec<String>, Descriptor)> =
            index.manifests.into_iter().map(|descriptor| (descriptor.names(), descriptor)).collect();
        let all: Vec<String> = named.iter().flat_map(|(names, _)| names.clone()).collect();
        let wanted = self.pick.name.as_deref();
        let mut waiting: Vec<(usize, Descriptor)> = named
            .into_iter()
            .filter(|(names, _)| wanted.is_none_or(|wanted| names.iter().any(|name| name == wanted)))
            .map(|(_, descriptor)| (0, descriptor))
            .collect();
        if let (true, Some(wanted)) = (waiting.is_empty(), wanted) {
            return Err(ImageError::NoSuchImage { wanted: wanted.to_owned(), names: shown(all) });
        }
        let (mut found, mut others, mut read) = (Vec::new(), BTreeSet::new(), 0);
        while let Some((depth, descriptor)) = waiting.pop() {
            if descriptor.is_index() {
                read += 1;
                within("indexes", read, INDEXES_MAX as u64)?;
                within("indexes in indexes", depth as u64, INDEX_DEPTH_MAX as u64)?;
                let inner: Index = parse("an index", &self.blob(&descriptor, "an index")?)?;
                waiting.extend(inner.manifests.into_iter().map(|inner| (depth + 1, inner)));
            } else if !descriptor.is_manifest() {
                others.insert(format!("media type {}", descriptor.media_type()));
            } else {
                match &descriptor.platform {
                    Some(platform) if !self.pick.is_here(platform) => {
                        others.insert(platform.to_string());
                    }
                    // The same one under two names is one.
                    _ if found.iter().any(|known: &Descriptor| known.digest == descriptor.digest) => {}
                    _ => found.push(descriptor),
                }
            }
        }
        match (found.pop(), found.is_empty()) {
            (Some(one), true) => Ok(one),
            (Some(_), false) => Err(ImageError::Several { names: shown(all) }),
            (None, _) => Err(self.elsewhere(others.into_iter().collect())),
        }
    }

    fn elsewhere(&self, others: Vec<String>) -> ImageError {
        let here = &self.pick.architecture;
        let has = if others.is_empty() { "nothing".to_owned() } else { shown(others).join(", ") };
        ImageError::Unsupported {
            what: "the image".to_owned(),
            why: format!("this machine runs linux/{here}, and the archive holds {has}"),
        }
    }

    fn docker(&self, manifest: Extent) -> Result<Found, ImageError> {
        let text = self.archive.document(manifest, self.bounds)?;
        let images: Vec<DockerImage> = parse("manifest.json", &text)?;
        let names: Vec<String> = images.iter().flat_map(|image| image.repo_tags.clone()).flatten().collect();
        let wanted = self.pick.name.as_ref();
        let mut meant = images.into_iter().filter(|image| {
            wanted.is_none_or(|wanted| image.repo_tags.iter().flatten().any(|name| name == wanted))
        });
        let image = match (meant.next(), meant.next(), wanted) {
            (Some(image), None, _) => image,
            (Some(_), Some(_), _) => return Err(ImageError::Several { names: shown(names) }),
            (None, _, Some(wanted)) => {
                return Err(ImageError::NoSuchImage { wanted: wanted.clone(), names: shown(names) });
            }
            (None, _, None) => return Err(ImageError::malformed("manifest.json", "names no image")),
        };
        within("layers", image.layers.len() as u64, self.bounds.layers)?;
        let text = self.archive.document(self.member(&image.config)?, self.bounds)?;
        let digest = Digest::of(&text);
        if let Some(named) = digest_in_name(&image.config) {
            check("the configuration", named, digest)?;
        }
        let config = self.config(&text)?;
        let diff_ids = diff_ids(&config, image.layers.len())?;
        let layers = image.layers.iter().zip(diff_ids).map(|(name, diff_id)| {
            // A directory of old has a name that is no digest of the layer.
            let digest = name.starts_with("blobs/").then(|| digest_in_name(name)).flatten();
            Ok(LayerRef { extent: self.member(name)?, digest, diff_id })
        });
        let layers = layers.collect::<Result<_, ImageError>>()?;
        Ok(Found { config: config.image()?, layers, digest })
    }

    fn config(&self, text: &[u8]) -> Result<Config, ImageError> {
        let config: Config = parse("the configuration", text)?;
        let platform = Platform { architecture: config.architecture.clone(), os: config.os.clone() };
        if self.pick.is_here(&platform) {
            Ok(config)
        } else {
            Err(self.elsewhere(vec![platform.to_string()]))
        }
    }

    fn member(&self, name: &str) -> Result<Extent, ImageError> {
        let missing = || ImageError::malformed(name.escape_default().to_string(), "is not in the archive");
        self.archive.find(name).ok_or_else(missing)
    }

    fn extent(&self, descriptor: &Descriptor, what: &str) -> Result<Extent, ImageError> {
        let digest = descriptor.digest()?;
        let extent = self.archive.find(&format!("blobs/sha256/{}", digest.hex()));
        let extent =
            extent.ok_or_else(|| ImageError::malformed(what, format!("{digest} is not in the archive")))?;
        if extent.length != descriptor.size {
            let problem = format!("{digest} should have {} bytes and has {}", descriptor.size, extent.length);
            return Err(ImageError::malformed(what, problem));
        }
        Ok(extent)
    }

    fn blob(&self, descriptor: &Descriptor, what: &str) -> Result<Vec<u8>, ImageError> {
        let text = self.archive.document(self.extent(descriptor, what)?, self.bounds)?;
        check(what, descriptor.digest()?, Digest::of(&text))?;
        Ok(text)
    }
}

fn diff_ids(config: &Config, layers: usize) -> Result<Vec<Digest>, ImageError> {
    let diff_ids = &config.rootfs.diff_ids;
    if diff_ids.len() != layers {
        let problem = format!("names {} layers, and there are {layers}", diff_ids.len());
        return Err(ImageError::malformed("the configuration", problem));
    }
    let parsed = diff_ids.iter().map(|text| text.parse());
    parsed
        .collect::<Result<_, _>>()
        .map_err(|problem: String| ImageError::malformed("the configuration", problem))
}

/// The digest that `blobs/sha256/<hex>` or `<hex>.json` promises.
fn digest_in_name(name: &str) -> Option<Digest> {
    let last = name.rsplit('/').next()?;
    format!("sha256:{}", last.strip_suffix(".json").unwrap_or(last)).parse().ok()
}

fn shown(mut names: Vec<String>) -> Vec<String> {
    if names.is_empty() {
        return vec!["none that has a name".to_owned()];
    }
    names.truncate(NAMES_SHOWN);
    names.into_iter().map(|name| name.escape_default().to_string()).collect()
}
