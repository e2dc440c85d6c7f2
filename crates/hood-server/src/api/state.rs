//! What the handlers share.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use hood_core::Timestamp;
use hood_store::Store;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::catalogue::Catalogues;
use super::config::ApiConfig;
use super::guard::Keyring;
use crate::clock::Clock;
use crate::config::Config;
use crate::health::Health;
use crate::seal::Seal;
use crate::telemetry::Metrics;
use crate::telemetry::metrics::MetricsError;

/// What the API is made of.
#[derive(Debug)]
pub struct ApiParts {
    pub store: Store,
    pub clock: Arc<dyn Clock>,
    pub config: ApiConfig,
    pub health: Health,
    pub metrics: Metrics,
    /// What this server announced with its address, where it did.
    pub seal: Option<Seal>,
}

/// Cheap to clone; one for each request.
#[derive(Clone, Debug)]
pub struct ApiState(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    parts: ApiParts,
    /// Sends clients elsewhere while the server still answers.
    leaving: CancellationToken,
    /// Ends long answers when the server is about to end.
    shutdown: CancellationToken,
    keyring: Keyring,
    catalogues: Catalogues,
    /// Room for bodies that arrive, in [`super::body::UNIT`]s, and as much for what is made of them: who has the
    /// one may wait for the other, and never the other way round.
    bodies: Arc<Semaphore>,
    work: Arc<Semaphore>,
    began: Instant,
}

impl ApiState {
    /// The API as the operator configured it, for a server that listens on `address` and has announced
    /// itself with `seal`.
    pub fn new(
        store: Store,
        clock: Arc<dyn Clock>,
        config: &Config,
        (address, seal): (SocketAddr, &Seal),
        health: Health,
    ) -> Result<Self, MetricsError> {
        let config = ApiConfig::of(config, address);
        let (metrics, seal) = (Metrics::install()?, Some(seal.clone()));
        Ok(Self::from_parts(ApiParts { store, clock, config, health, metrics, seal }))
    }

    pub fn from_parts(parts: ApiParts) -> Self {
        let units = parts.config.limits.body.units();
        let figures = parts.health.figures();
        figures.of_bus(&parts.store);
        figures.of_queue(&parts.store, &parts.clock);
        figures.of_storage(&parts.store);
        Self(Arc::new(Inner {
            parts,
            leaving: CancellationToken::new(),
            shutdown: CancellationToken::new(),
            keyring: Keyring::default(),
            catalogues: Catalogues::default(),
            bodies: Arc::new(Semaphore::new(units as usize)),
            work: Arc::new(Semaphore::new(units as usize)),
            began: Instant::now(),
        }))
    }

    pub fn store(&self) -> &Store {
        &self.0.parts.store
    }

    pub fn now(&self) -> Timestamp {
        self.0.parts.clock.now()
    }

    pub fn config(&self) -> &ApiConfig {
        &self.0.parts.config
    }

    pub fn health(&self) -> &Health {
        &self.0.parts.health
    }

    pub fn metrics(&self) -> &Metrics {
        &self.0.parts.metrics
    }

    pub fn seal(&self) -> Option<&Seal> {
        self.0.parts.seal.as_ref()
    }

    pub fn leaving(&self) -> &CancellationToken {
        &self.0.leaving
    }

    pub fn shutdown(&self) -> &CancellationToken {
        &self.0.shutdown
    }

    pub(super) fn keyring(&self) -> &Keyring {
        &self.0.keyring
    }

    pub(super) fn catalogues(&self) -> &Catalogues {
        &self.0.catalogues
    }

    pub(super) fn bodies(&self) -> &Arc<Semaphore> {
        &self.0.bodies
    }

    pub(super) fn work(&self) -> &Arc<Semaphore> {
        &self.0.work
    }

    pub(super) fn began(&self) -> Instant {
        self.0.began
    }
}
