//! Images to and fro.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use reqwest::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION};
use reqwest::{Method, StatusCode, Url};
use tokio::fs;
use tokio::io::AsyncWriteExt as _;

use super::{Call, Registry, RegistryError, body, no_body, successful};
use crate::archive::{Archive, Extent};
use crate::bounds::{Bounds, within};
use crate::digest::{Digest, Hasher};
use crate::error::ImageError;
use crate::layer::check;
use crate::manifest::documents::{Descriptor, INDEXES, Index, MANIFESTS, Manifest, parse};
use crate::manifest::{self, Pick};

/// For one image: the largest within the bounds over a slow line.
const TRANSFER_MAX: Duration = Duration::from_secs(2 * 60 * 60);
/// Indexes that lead to indexes.
const HOPS_MAX: usize = 3;
/// Sent at once.
const CHUNK_BYTES: u64 = 256 * 1024;
const BLOBS: &str = "blobs/sha256";

/// An image that lies in a directory now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    /// Of its manifest.
    pub digest: Digest,
    /// Of everything that was fetched.
    pub bytes: u64,
}

impl Registry {
    /// The digest of the image for this machine, without its layers: whether a tag has moved.
    pub async fn resolve(&self, bounds: &Bounds) -> Result<Digest, RegistryError> {
        Ok(self.manifest(&Pick::here(None), bounds).await?.0)
    }

    /// Fetches the image for this machine into an empty directory, as an OCI layout. `tell` gets the
    /// bytes so far and in all.
    pub async fn pull(
        &self,
        dir: &Path,
        bounds: &Bounds,
        tell: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<Pulled, RegistryError> {
        let all = self.pull_all(dir, bounds, tell);
        tokio::time::timeout(TRANSFER_MAX, all).await.unwrap_or_else(|_| {
            Err(RegistryError::answer(format!("takes longer than {} s", TRANSFER_MAX.as_secs())))
        })
    }

    async fn pull_all(
        &self,
        dir: &Path,
        bounds: &Bounds,
        tell: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<Pulled, RegistryError> {
        let (digest, kind, text) = self.manifest(&Pick::here(None), bounds).await?;
        let manifest: Manifest = parse("the manifest", &text)?;
        within("layers", manifest.layers.len() as u64, bounds.layers)?;
        within("bytes in a manifest or configuration", manifest.config.size, bounds.document_bytes)?;
        manifest.layers.iter().try_for_each(Descriptor::is_layer)?;
        let blobs: Vec<&Descriptor> = manifest.layers.iter().chain([&manifest.config]).collect();
        // What is announced decides: nothing is fetched of an image that is too large.
        let total = blobs.iter().fold(0_u64, |sum, blob| sum.saturating_add(blob.size));
        within("bytes in its archive", total, bounds.archive_bytes)?;
        let writing = "write the image to disk";
        fs::create_dir_all(dir.join(BLOBS)).await.map_err(RegistryError::io(writing))?;
        let mut done = 0;
        let mut fetched = BTreeSet::new();
        for blob in blobs {
            let digest = blob.digest()?;
            if fetched.insert(digest) {
                self.fetch(blob, &dir.join(BLOBS).join(digest.hex()), &mut |more| {
                    done += more;
                    tell(done, total);
                })
                .await?;
            }
        }
        let size = text.len();
        let index = serde_json::json!({ "schemaVersion": 2, "manifests": [
            { "mediaType": kind, "digest": digest.to_string(), "size": size },
        ]});
        for (name, text) in [
            (format!("{BLOBS}/{}", digest.hex()), text),
            ("index.json".to_owned(), index.to_string().into_bytes()),
            ("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
        ] {
            fs::write(dir.join(name), text).await.map_err(RegistryError::io(writing))?;
        }
        Ok(Pulled { digest, bytes: done })
    }

    /// The manifest for this machine, through indexes: its digest, type and bytes.
    async fn manifest(
        &self,
        pick: &Pick,
        bounds: &Bounds,
    ) -> Result<(Digest, String, Vec<u8>), RegistryError> {
        const STEP: &str = "give the image's manifest";
        let mut wanted = self.reference.wanted();
        for _ in 0..=HOPS_MAX {
            let accept = INDEXES.into_iter().chain(MANIFESTS).collect::<Vec<_>>().join(", ");
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, value(&accept)?);
            let url = self.url(&format!("manifests/{wanted}"))?;
            let call = Call { method: Method::GET, url, headers, body: &no_body };
            let answer = self.call(STEP, call).await?;
            if answer.status() == StatusCode::NOT_FOUND {
                return Err(RegistryError::Missing { reference: self.reference.to_string() });
            }
            let answer = successful(STEP, answer).await?;
            let kind = answer.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
            let kind = kind.unwrap_or_default().split(';').next().unwrap_or_default().trim().to_owned();
            let text = body(STEP, answer, bounds.document_bytes).await?;
            let digest = Digest::of(&text);
            if let Ok(expected) = wanted.parse::<Digest>() {
                check("the manifest", expected, digest)?;
            }
            if MANIFESTS.contains(&kind.as_str()) {
                return Ok((digest, kind, text));
            }
            if !INDEXES.contains(&kind.as_str()) {
                let why = "only OCI's and Docker's second version of manifests are known".to_owned();
                let what = format!("a manifest of the type {}", kind.escape_default());
                return Err(ImageError::Unsupported { what, why }.into());
            }
            wanted = choose(parse("the index", &text)?, pick)?.to_string();
        }
        Err(RegistryError::answer("leads from index to index"))
    }

    async fn fetch(
        &self,
        blob: &Descriptor,
        to: &Path,
        more: &mut (dyn FnMut(u64) + Send),
    ) -> Result<(), RegistryError> {
        const STEP: &str = "give a layer";
        let (digest, size) = (blob.digest()?, blob.size);
        let url = self.url(&format!("blobs/{digest}"))?;
        let call = Call { method: Method::GET, url, headers: HeaderMap::new(), body: &no_body };
        let mut answer = successful(STEP, self.call(STEP, call).await?).await?;
        let writing = "write the image to disk";
        let mut file = fs::File::create_new(to).await.map_err(RegistryError::io(writing))?;
        let (mut hasher, mut left) = (Hasher::default(), size);
        while let Some(chunk) = answer.chunk().await.map_err(RegistryError::http(STEP))? {
            left = left.checked_sub(chunk.len() as u64).ok_or_else(|| {
                RegistryError::answer(format!("gives more than the {size} bytes of {digest}"))
            })?;
            hasher.update(&chunk);
            file.write_all(&chunk).await.map_err(RegistryError::io(writing))?;
            more(chunk.len() as u64);
        }
        if left > 0 {
            return Err(RegistryError::answer(format!("ends {left} bytes before the end of {digest}")));
        }
        file.flush().await.map_err(RegistryError::io(writing))?;
        Ok(check("a layer", digest, hasher.finish())?)
    }

    /// Brings an image, as [`crate::export`] wrote it, to the registry. What is there already is not
    /// sent again.
    pub async fn push(
        &self,
        layout: File,
        tell: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<Digest, RegistryError> {
        let bounds = &Bounds::DEFAULT;
        let nothing = || Err(ImageError::malformed("the image", "is compressed as a whole"));
        let archive = Archive::open(layout, bounds, nothing)?;
        let (digest, text) = manifest::text(&archive, &Pick::here(None), bounds)?;
        let manifest: Manifest = parse("the manifest", &text)?;
        let descriptors: Vec<Descriptor> = manifest.layers.into_iter().chain([manifest.config]).collect();
        let total = descriptors.iter().map(|descriptor| descriptor.size).sum();
        let mut done = 0;
        for descriptor in &descriptors {
            self.offer(&archive, descriptor).await?;
            done += descriptor.size;
            tell(done, total);
        }
        const STEP: &str = "take the manifest";
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, value(MANIFESTS[0])?);
        let url = self.url(&format!("manifests/{}", self.reference.wanted()))?;
        let body = || Ok(reqwest::Body::from(text.clone()));
        let call = Call { method: Method::PUT, url, headers, body: &body };
        successful(STEP, self.call(STEP, call).await?).await?;
        Ok(digest)
    }

    async fn offer(&self, archive: &Archive, blob: &Descriptor) -> Result<(), RegistryError> {
        const STEP: &str = "take a layer";
        let digest = blob.digest()?;
        let url = self.url(&format!("blobs/{digest}"))?;
        let call = Call { method: Method::HEAD, url, headers: HeaderMap::new(), body: &no_body };
        if self.call(STEP, call).await?.status().is_success() {
            return Ok(());
        }
        let url = self.url("blobs/uploads/")?;
        let call = Call { method: Method::POST, url: url.clone(), headers: HeaderMap::new(), body: &no_body };
        let answer = successful(STEP, self.call(STEP, call).await?).await?;
        let to = answer.headers().get(LOCATION).and_then(|to| to.to_str().ok());
        let mut to: Url = to
            .and_then(|to| url.join(to).ok())
            .filter(|to| to.origin() == self.base.origin())
            .ok_or_else(|| RegistryError::answer("wants layers sent elsewhere, which is not done"))?;
        to.query_pairs_mut().append_pair("digest", &digest.to_string());
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, value("application/octet-stream")?);
        headers.insert(CONTENT_LENGTH, blob.size.into());
        let extent = archive.find(&format!("{BLOBS}/{}", digest.hex()));
        let extent = extent.ok_or_else(|| ImageError::malformed("the image", "lacks a layer"))?;
        let body = || Ok(reqwest::Body::wrap_stream(chunks(archive.handle()?, extent)));
        let call = Call { method: Method::PUT, url: to, headers, body: &body };
        successful(STEP, self.call(STEP, call).await?).await.map(drop)
    }
}

/// A part of a file, piece by piece.
fn chunks(file: File, extent: Extent) -> impl futures::Stream<Item = std::io::Result<Vec<u8>>> {
    futures::stream::try_unfold((file, extent), |(file, mut extent)| async move {
        let length = extent.length.min(CHUNK_BYTES);
        if length == 0 {
            return Ok(None);
        }
        let mut chunk = vec![0; usize::try_from(length).unwrap_or_default()];
        file.read_exact_at(&mut chunk, extent.offset)?;
        extent = Extent { offset: extent.offset + length, length: extent.length - length };
        Ok(Some((chunk, (file, extent))))
    })
}

fn value(text: &str) -> Result<HeaderValue, RegistryError> {
    HeaderValue::from_str(text).map_err(|_| RegistryError::answer("needs a header that is none"))
}

fn choose(index: Index, pick: &Pick) -> Result<Digest, RegistryError> {
    let mut here = index
        .manifests
        .iter()
        .filter(|descriptor| descriptor.platform.as_ref().is_none_or(|platform| pick.is_here(platform)));
    match (here.next(), here.next()) {
        (Some(one), None) => Ok(one.digest()?),
        (Some(_), Some(_)) => {
            Err(RegistryError::answer("has several images for this machine under one name"))
        }
        (None, _) => {
            let others = index.manifests.iter().filter_map(|descriptor| descriptor.platform.as_ref());
            let others: BTreeSet<String> = others.map(ToString::to_string).collect();
            let others: Vec<String> = others.into_iter().collect();
            let why =
                format!("this machine runs linux/{}, and it is for {}", pick.architecture, others.join(", "));
            Err(ImageError::Unsupported { what: "the image".to_owned(), why }.into())
        }
    }
}
