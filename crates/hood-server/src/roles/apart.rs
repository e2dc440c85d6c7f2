//! What roles have in common that run apart: what they refuse to start without, and how they wait for
//! what is late.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use hood_dispatch::remote::Backoff;
use hood_store::{BlobsConfig, BusSide, Duty, Store, StoreConfig};

use super::bus;
use crate::config::Config;
use crate::health::Health;
use crate::tls::{Credentials, Role};

/// The certificate of this role; without one nobody would speak to it.
pub(super) fn credentials(config: &Config, role: Role) -> anyhow::Result<Arc<Credentials>> {
    let Some(files) = config.tls.files() else {
        bail!(
            "`fumehood {role}` needs a certificate: set tls.cert, tls.key and tls.ca (`fumehood pki issue {role}` makes one)"
        );
    };
    let credentials = Credentials::load(&files).context("the certificate cannot be used")?;
    let identity = credentials.identity();
    if identity.role != role {
        bail!("the certificate in tls.cert is of {identity}, and this is a {role}: issue one for it");
    }
    Ok(credentials)
}

/// A store that the other roles reach too.
pub(super) fn shared_store(config: &Config, role: Role) -> anyhow::Result<()> {
    if config.store.url.is_empty() {
        bail!(
            "`fumehood {role}` shares its store with other roles: set store.url to a PostgreSQL, \
             or run everything in one process with `fumehood serve`"
        );
    }
    Ok(())
}

/// A store and blobs that the other roles reach too.
pub(super) fn shared(config: &Config, role: Role) -> anyhow::Result<()> {
    shared_store(config, role)?;
    // In the data directory it would be this role's alone.
    if !config.blobs.are_shared() && config.blobs.dir.starts_with(&config.data_dir) {
        bail!(
            "`fumehood {role}` shares large output with other roles: set blobs.url to an S3 bucket, \
             or on one machine blobs.dir to a directory that all of them have"
        );
    }
    Ok(())
}

/// The store, which may be late, and may wait for its owner to bring the schema up to date: whoever asks for
/// something is told so until it is there.
pub(super) async fn store(config: &Config, side: BusSide) -> anyhow::Result<Store> {
    let bus = bus::configured(&config.bus, side)?;
    let store = StoreConfig { bus, ..config.store(Duty::Check)? };
    Store::open(store).await.context("cannot open the store")
}

/// The same without blobs.
pub(super) async fn records(config: &Config, side: BusSide) -> anyhow::Result<Store> {
    let bus = bus::configured(&config.bus, side)?;
    let store = StoreConfig { bus, blobs: BlobsConfig::memory(), ..config.store(Duty::Check)? };
    Store::open(store).await.context("cannot open the store")
}

/// Tries until it succeeds; says once that it does not, and once that it does again.
pub(super) async fn until_done<T, E, F>(what: &'static str, mut attempt: impl FnMut() -> F) -> T
where
    E: std::fmt::Display,
    F: Future<Output = Result<T, E>>,
{
    let mut backoff = Backoff::default();
    let mut failures = 0u32;
    loop {
        match attempt().await {
            Ok(done) => {
                if failures > 0 {
                    tracing::info!(what, failures, "done at last");
                }
                return done;
            }
            Err(error) => {
                if failures == 0 {
                    tracing::warn!(what, error = %error, "not possible yet; trying again until it is");
                }
                failures = failures.saturating_add(1);
                tokio::time::sleep(backoff.next(rand::random())).await;
            }
        }
    }
}

/// What a role needs of a store in which it keeps nothing large.
pub(super) fn watch_records(health: &Health, store: &Store) {
    bus::watch_over(health, store);
    let writable = store.clone();
    health.register("store", move || {
        let store = writable.clone();
        async move {
            let written = store.check_writable().await;
            // With its causes: the innermost says what to do.
            written.map_err(|error| format!("the store cannot be written: {:#}", anyhow::Error::new(error)))
        }
    });
}

/// What a role needs of a store with its blobs.
pub(super) fn watch_store(health: &Health, store: &Store) {
    watch_records(health, store);
    let blobs = store.blobs().clone();
    health.register("blobs", move || {
        let blobs = blobs.clone();
        async move { blobs.check().await.map_err(|error| format!("{:#}", anyhow::Error::new(error))) }
    });
}

/// How long a stop waits for what does not belong to an evaluation.
pub(super) const STOP_PATIENCE: Duration = Duration::from_secs(5);
