//! The dispatcher: places and nothing else. It has no database, no bus and no API; what it knows, an
//! assignment told it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use hood_dispatch::Dispatch;
use hood_dispatch::local::Local;
use hood_dispatch::remote::{ALIVE_EVERY, Service, ServiceConfig};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::data_dir::DataDir;
use super::serve::{BURIAL_PATIENCE, Purpose, keep_proven, sound, start_places, tell_places};
use super::{apart, side};
use crate::config::Config;
use crate::dispatcher::{self, DispatcherState};
use crate::health::Health;
use crate::link::RealWorld;
use crate::telemetry::Traced;
use crate::telemetry::metrics::Process;
use crate::tls::Role;

/// Beside a request's own bytes, an order has its head.
const ORDER_HEAD_BYTES: usize = hood_wire::dispatch::HEAD_BYTES_MAX;

/// Orders that are read at once hold at most this much, or one of the largest.
const ORDERS_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Between two looks whether the last place is empty.
const DRAIN_LOOK: Duration = Duration::from_millis(50);

/// A dispatcher that answers. Dropping it without [`Running::shutdown`] is what a kill does.
#[derive(Debug)]
pub struct Running {
    pub address: SocketAddr,
    /// Where health and metrics are, if anywhere.
    pub side: Option<SocketAddr>,
    pub name: String,
    drain: Duration,
    service: Service,
    local: Local,
    stop: CancellationToken,
    serving: JoinHandle<()>,
    _data_dir: DataDir,
}

pub async fn start(config: &Config) -> anyhow::Result<Running> {
    let credentials = apart::credentials(config, Role::Dispatcher)?;
    let data_dir = DataDir::lock(&config.data_dir)?;
    let stop = CancellationToken::new();
    let health = Health::default();
    let side = side::start(config.metrics.listen, Process::Dispatcher, &health, &stop).await?;
    let local = start_places(config, Purpose::Standing).await?;
    let policy = config.sandbox.policy.into();
    if let Err(why) = sound(&local.capacity(), policy) {
        tracing::warn!(reason = %why, "nothing can be run here as it is");
    }
    let places = local.clone();
    health.register("sandbox", move || {
        let sound = sound(&places.capacity(), policy);
        async move { sound }
    });

    tell_places(&health, &local, config.worker.places);

    let name = credentials.identity().name;
    let life = rand::random::<u64>().to_string();
    let places = config.worker.places as usize;
    let service = Service::new(
        Arc::new(Traced::new(local.clone())),
        Arc::new(RealWorld::default()),
        ServiceConfig { name: name.clone(), life, alive_every: ALIVE_EVERY, places, outlives: false },
    );
    let listen = config.dispatcher.listen;
    let listener = TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    let address = listener.local_addr()?;
    let order_bytes_max = config.api.body_bytes_max.saturating_add(ORDER_HEAD_BYTES);
    let state = DispatcherState::new(service.clone(), order_bytes_max, ORDERS_BYTES_MAX);
    let tls = credentials.server_config()?;
    let serving = tokio::spawn(dispatcher::serve(listener, dispatcher::router(state), tls, stop.clone()));
    tokio::spawn(stop.clone().run_until_cancelled_owned(credentials.keep_current()));
    tokio::spawn(stop.clone().run_until_cancelled_owned(keep_proven(local.clone())));
    let drain = config.server.drain;
    Ok(Running { address, side, name, drain, service, local, stop, serving, _data_dir: data_dir })
}

impl Running {
    /// Drains: nothing new is taken, what runs may end within the drain time while workers listen.
    /// Then connections end *before* the places do, so that no worker takes our end for a program's.
    pub async fn shutdown(self) -> anyhow::Result<()> {
        self.service.drain();
        let empty = async {
            while self.service.still_live().await > 0 {
                tokio::time::sleep(DRAIN_LOOK).await;
            }
        };
        if tokio::time::timeout(self.drain, empty).await.is_err() {
            tracing::warn!(places = self.service.live(), "still running at the end of the drain time");
        }
        self.stop.cancel();
        self.serving.await.context("the dispatcher panicked")?;
        self.local.shut_down(BURIAL_PATIENCE).await;
        Ok(())
    }

    /// Completes when a part ends that should not have.
    pub async fn failed(&mut self) -> anyhow::Error {
        match (&mut self.serving).await {
            Ok(()) => anyhow::anyhow!("the dispatcher stopped serving"),
            Err(panic) => anyhow::Error::new(panic).context("the dispatcher panicked"),
        }
    }
}
