//! Where large things are kept, as the operator says it.

use std::path::PathBuf;

use hood_store::{BlobPlace, BlobsConfig, S3Config, S3Keys};
use serde::Deserialize;

use super::{Secret, Url};

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Blobs {
    pub url: Url,
    pub dir: PathBuf,
    pub endpoint: Url,
    pub region: String,
    pub access_key_id: Secret,
    pub secret_access_key: Secret,
    pub inputs_above_bytes: u64,
}

impl Blobs {
    /// The longest request that is kept in the database.
    pub fn inputs_above(&self) -> usize {
        match self.inputs_above_bytes {
            0 => usize::MAX,
            bytes => usize::try_from(bytes).unwrap_or(usize::MAX),
        }
    }

    /// Whether other machines reach them.
    pub const fn are_shared(&self) -> bool {
        !self.url.is_empty()
    }

    pub fn place(&self) -> BlobsConfig {
        let Some((_, path)) = self.url.expose().split_once("://") else {
            return BlobsConfig::files(self.dir.clone());
        };
        let (bucket, prefix) = path.split_once('/').unwrap_or((path, ""));
        let filled = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let keys = filled(self.access_key_id.expose())
            .zip(filled(self.secret_access_key.expose()))
            .map(|(id, secret)| S3Keys { id, secret });
        BlobsConfig {
            place: BlobPlace::S3(S3Config {
                bucket: bucket.to_owned(),
                prefix: prefix.trim_matches('/').to_owned(),
                endpoint: filled(self.endpoint.expose()),
                region: self.region.clone(),
                keys,
            }),
        }
    }
}
