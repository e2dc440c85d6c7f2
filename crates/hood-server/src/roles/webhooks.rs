//! The sender of webhooks as the operator configured it.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use hood_store::Store;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::data_dir::DataDir;
use crate::clock::Clock;
use crate::config;
use crate::notifier::Notifier;
use crate::webhook::{Sender, Signer};

/// Sends from now on, until told to stop.
pub(super) fn start(
    config: &config::Webhooks,
    data_dir: &DataDir,
    (store, clock): (&Store, &Arc<dyn Clock>),
    stop: &CancellationToken,
) -> anyhow::Result<JoinHandle<()>> {
    let signer = Signer::new(&secret(config, data_dir)?).context("webhooks.secret cannot be used")?;
    let read = |path: &PathBuf| {
        std::fs::read(path).with_context(|| format!("cannot read webhooks.ca, {}", path.display()))
    };
    let ca = config.ca.as_ref().map(read).transpose()?;
    let sender = Sender::new(Arc::new(config.rules()), ca.as_deref(), signer)?;
    let name = format!("notifier-{}", std::process::id());
    let notifier = Notifier::new(store.clone(), Arc::clone(clock), sender, name);
    Ok(tokio::spawn(notifier.run(stop.clone())))
}

/// The configured one, or this installation's own, which the first start makes.
fn secret(config: &config::Webhooks, data_dir: &DataDir) -> anyhow::Result<String> {
    if !config.secret.is_empty() {
        return Ok(config.secret.expose().to_owned());
    }
    if let Some(kept) = data_dir.webhook_secret()? {
        return Ok(kept);
    }
    let made = Signer::secret(rand::random());
    data_dir.keep_webhook_secret(&made)?;
    Ok(made)
}
