//! How the processes of an installation wake each other, as the operator configured it.

use std::path::Path;

use anyhow::Context as _;
use hood_store::{BusConfig, BusSide, Reach, Store};

use crate::config;
use crate::health::Health;

/// `None` where the bus is memory.
pub(super) fn configured(config: &config::Bus, side: BusSide) -> anyhow::Result<Option<BusConfig>> {
    if config.url.is_empty() {
        return Ok(None);
    }
    let read =
        |path: &Path| std::fs::read(path).with_context(|| format!("cannot read bus.ca, {}", path.display()));
    let ca = config.ca.as_deref().map(read).transpose()?;
    Ok(Some(BusConfig { url: config.url.expose().to_owned(), ca, prefix: config.prefix.clone(), side }))
}

/// Without the bus everything goes on, up to a second later: degraded, and not down.
pub(super) fn watch_over(health: &Health, store: &Store) {
    if store.wake().reach() == Reach::Alone {
        return;
    }
    let wake = store.wake().clone();
    health.register_spare("bus", move || {
        let reach = wake.reach();
        async move {
            match reach {
                Reach::Alone | Reach::Connected => Ok(()),
                Reach::CutOff { reason } => Err(format!(
                    "the bus cannot be reached, so other processes are heard up to a second later: {reason}; \
                     check bus.url, and that the server is up"
                )),
            }
        }
    });
}
