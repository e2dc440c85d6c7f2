//! The object store that a configuration names, with every wait of it bounded.

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, Checksum};
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::prefix::PrefixStore;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};

use super::config::{BlobPlace, BlobsConfig, S3Config};
use super::error::BlobError;
use super::files::Files;

/// To reach the bucket's server at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// For one request with its body: a part of 8 MiB at little more than 1 Mbit/s.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// Between two tries of a request: at first, and at most. Each is drawn at random up to double the one
/// before, so that those whom one outage stopped do not come back together.
const RETRY_PAUSE_FIRST: Duration = Duration::from_millis(50);
const RETRY_PAUSE_CAP: Duration = Duration::from_secs(2);

/// How long one operation is tried. What is longer away is for the caller to come back to: nothing is
/// lost meanwhile.
const RETRY_PATIENCE: Duration = Duration::from_secs(15);

/// More than there is time for.
const RETRIES_MAX: usize = 100;

pub(super) async fn open(config: &BlobsConfig) -> Result<(Arc<dyn ObjectStore>, Option<Files>), BlobError> {
    match &config.place {
        BlobPlace::Files(dir) => {
            let files = Files::prepare(dir)?;
            let store = LocalFileSystem::new_with_prefix(dir).map_err(unusable)?.with_fsync(true);
            Ok((Arc::new(store), Some(files)))
        }
        BlobPlace::S3(s3) => Ok((bucket(s3).map_err(unusable)?, None)),
        BlobPlace::Memory => Ok((Arc::new(InMemory::new()), None)),
    }
}

fn unusable(error: object_store::Error) -> BlobError {
    BlobError::Open(Arc::new(error))
}

fn bucket(config: &S3Config) -> Result<Arc<dyn ObjectStore>, object_store::Error> {
    let builder = match &config.keys {
        Some(keys) => {
            AmazonS3Builder::new().with_access_key_id(&keys.id).with_secret_access_key(&keys.secret)
        }
        None => AmazonS3Builder::from_env(),
    };
    let plain = config.endpoint.as_ref().is_some_and(|endpoint| endpoint.starts_with("http://"));
    let client = ClientOptions::new()
        .with_connect_timeout(CONNECT_TIMEOUT)
        .with_timeout(REQUEST_TIMEOUT)
        // A host without certificates of authorities can do without, where nothing is asked over TLS: keys that
        // are to be found may be.
        .with_no_system_certificates(plain && config.keys.is_some());
    let backoff = BackoffConfig { init_backoff: RETRY_PAUSE_FIRST, max_backoff: RETRY_PAUSE_CAP, base: 2.0 };
    let mut builder = builder
        .with_client_options(client)
        .with_retry(RetryConfig { backoff, max_retries: RETRIES_MAX, retry_timeout: RETRY_PATIENCE })
        .with_bucket_name(&config.bucket)
        .with_region(&config.region)
        // The server refuses what did not arrive as it was sent.
        .with_checksum_algorithm(Checksum::SHA256);
    if let Some(endpoint) = &config.endpoint {
        builder = builder.with_endpoint(endpoint).with_allow_http(plain);
    }
    let bucket = builder.build()?;
    if config.prefix.is_empty() {
        return Ok(Arc::new(bucket));
    }
    Ok(Arc::new(PrefixStore::new(bucket, config.prefix.as_str())))
}
