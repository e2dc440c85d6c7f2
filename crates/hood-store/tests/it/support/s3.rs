//! A bucket on a real S3 server of the test's own.

use std::io::Write as _;
use std::ops::Deref;

use hood_store::{BlobPlace, BlobsConfig, S3Config, S3Keys};

#[derive(Debug)]
pub(crate) struct S3(hood_testkit::S3);

impl S3 {
    /// `None` where there is no server to start, which is said.
    pub(crate) fn start() -> Option<Self> {
        if let Some(why) = hood_testkit::S3::missing() {
            let _ = writeln!(std::io::stderr(), "\nSKIPPED: s3: {why}");
            return None;
        }
        Some(Self(hood_testkit::S3::start().expect("starts")))
    }

    pub(crate) fn config(&self, prefix: &str) -> BlobsConfig {
        let keys = S3Keys {
            id: hood_testkit::S3::ACCESS_KEY.to_owned(),
            secret: hood_testkit::S3::SECRET_KEY.to_owned(),
        };
        BlobsConfig {
            place: BlobPlace::S3(S3Config {
                bucket: hood_testkit::S3::BUCKET.to_owned(),
                prefix: prefix.to_owned(),
                endpoint: Some(self.endpoint()),
                region: hood_testkit::S3::REGION.to_owned(),
                keys: Some(keys),
            }),
        }
    }
}

impl Deref for S3 {
    type Target = hood_testkit::S3;

    fn deref(&self) -> &hood_testkit::S3 {
        &self.0
    }
}
