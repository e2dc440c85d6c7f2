//! The notifier apart: it tells clients' addresses what has ended. It reads and writes deliveries, and
//! has no places, no blobs, no API and no certificate: nobody calls it, and it calls no other role.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use hood_store::{BusSide, Store};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{apart, side, webhooks};
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::health::Health;
use crate::telemetry::metrics::Process;
use crate::tls::Role;

/// A notifier at work. Dropping it without [`Running::shutdown`] is what a kill does.
#[derive(Debug)]
pub struct Running {
    /// Where health and metrics are, if anywhere.
    pub side: Option<SocketAddr>,
    store: Store,
    stop_sending: CancellationToken,
    stop: CancellationToken,
    sending: JoinHandle<()>,
}

/// Returns as soon as it is at work on becoming ready: the store may be late.
pub async fn start(config: &Config) -> anyhow::Result<Running> {
    apart::shared_store(config, Role::Notifier)?;
    if config.webhooks.secret.is_empty() {
        bail!(
            "a notifier that runs apart signs as every other one does: set webhooks.secret, the same for all of \
             them, as in `whsec_$(openssl rand -base64 32)`"
        );
    }
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let store = apart::records(config, BusSide::Notifier).await?;
    let notifier = webhooks::notifier(&config.webhooks, config.webhooks.secret.expose(), &store, &clock)?;
    let health = Health::default();
    apart::watch_records(&health, &store);
    health.register_pulse(notifier.pulse());
    health.figures().of_bus(&store);
    health.figures().of_deliveries(&store, &clock);
    let (stop_sending, stop) = (CancellationToken::new(), CancellationToken::new());
    let side = side::start(config.metrics.listen, Process::Notifier, &health, &stop).await?;
    let sending = tokio::spawn(notifier.run(stop_sending.clone()));
    Ok(Running { side, store, stop_sending, stop, sending })
}

impl Running {
    /// Drains: nothing more is taken, and what is on its way may end. What did not is sent again by
    /// another, once its claim is over.
    pub async fn shutdown(self) -> anyhow::Result<()> {
        self.stop_sending.cancel();
        self.sending.await.context("the notifier panicked")?;
        self.stop.cancel();
        if tokio::time::timeout(apart::STOP_PATIENCE, self.store.close()).await.is_err() {
            tracing::warn!("the store's connections were cut off");
        }
        Ok(())
    }

    /// Completes when a part ends that should not have.
    pub async fn failed(&mut self) -> anyhow::Error {
        match (&mut self.sending).await {
            Ok(()) => anyhow::anyhow!("the notifier stopped"),
            Err(panic) => anyhow::Error::new(panic).context("the notifier panicked"),
        }
    }
}
