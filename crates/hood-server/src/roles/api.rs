//! The API apart: it accepts and tells, and has neither places nor a way to any.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use hood_store::{BusSide, Store};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::apart;
use super::data_dir::DataDir;
use super::key::first_token;
use crate::api::{self, ApiState};
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::health::Health;
use crate::telemetry::Metrics;
use crate::telemetry::metrics::Process;
use crate::tls::Role;

/// An API that answers. Dropping it without [`Running::shutdown`] is what a kill does.
#[derive(Debug)]
pub struct Running {
    pub address: SocketAddr,
    store: Store,
    data_dir: Arc<DataDir>,
    stop: CancellationToken,
    serving: JoinHandle<anyhow::Result<()>>,
}

/// Answers when it returns, though the store may be late: until it is there, with 503. `settings` is the
/// configuration as it may be shown, which is announced to commands.
pub async fn start(config: &Config, settings: BTreeMap<String, String>) -> anyhow::Result<Running> {
    apart::shared(config, Role::Api)?;
    let data_dir = Arc::new(DataDir::lock(&config.data_dir)?);
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let store = apart::store(config, BusSide::Api).await?;
    Metrics::of(Process::Api)?;
    let health = Health::default();
    apart::watch_store(&health, &store);
    let listen = config.server.listen;
    let listener = TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    let address = listener.local_addr()?;
    let state = ApiState::new(store.clone(), Arc::clone(&clock), config, (address, data_dir.seal()), health)?;
    let stop = CancellationToken::new();
    let serving = tokio::spawn(api::serve(listener, state, (stop.clone(), config.server.leave)));
    data_dir.announce(address, settings)?;
    tokio::spawn(stop.clone().run_until_cancelled_owned(ensure_key(
        Arc::clone(&data_dir),
        store.clone(),
        clock,
    )));
    Ok(Running { address, store, data_dir, stop, serving })
}

/// The first key of all, as soon as the store is there: `fumehood migrate` has made it, or this role does
/// where its database user may.
async fn ensure_key(data_dir: Arc<DataDir>, store: Store, clock: Arc<dyn Clock>) {
    let is_new = apart::until_done("making the API key", || {
        let (data_dir, store, now) = (Arc::clone(&data_dir), store.clone(), clock.now());
        async move { first_token(&data_dir, &store, now).await.map_err(|error| format!("{error:#}")) }
    })
    .await;
    if is_new {
        let path = data_dir.path().join("token");
        tracing::info!(path = %path.display(), "an API key was made");
    }
}

impl Running {
    /// Open requests get the drain time, once clients have had the time to go elsewhere.
    pub async fn shutdown(self) -> anyhow::Result<()> {
        self.stop.cancel();
        self.data_dir.withdraw();
        let served = self.serving.await.context("the API panicked")?;
        if tokio::time::timeout(apart::STOP_PATIENCE, self.store.close()).await.is_err() {
            tracing::warn!("the store's connections were cut off");
        }
        served
    }

    /// Completes when a part ends that should not have.
    pub async fn failed(&mut self) -> anyhow::Error {
        match (&mut self.serving).await {
            Ok(Ok(())) => anyhow::anyhow!("the API stopped serving"),
            Ok(Err(error)) => error.context("the API stopped serving"),
            Err(panic) => anyhow::Error::new(panic).context("the API panicked"),
        }
    }
}
