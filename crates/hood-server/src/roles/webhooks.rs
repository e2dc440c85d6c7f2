//! The sender of webhooks as the operator configured it.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use hood_store::Store;

use super::data_dir::DataDir;
use crate::clock::Clock;
use crate::config;
use crate::notifier::{Notifier, NotifierConfig};
use crate::webhook::{Sender, Signer};

/// One that signs with `secret`, and has sent nothing yet.
pub(super) fn notifier(
    config: &config::Webhooks,
    secret: &str,
    store: &Store,
    clock: &Arc<dyn Clock>,
) -> anyhow::Result<Notifier> {
    let signer = Signer::new(secret).context("webhooks.secret cannot be used")?;
    let read = |path: &PathBuf| {
        std::fs::read(path).with_context(|| format!("cannot read webhooks.ca, {}", path.display()))
    };
    let ca = config.ca.as_ref().map(read).transpose()?;
    let sender = Sender::new(Arc::new(config.rules()), ca.as_deref(), signer)?;
    let name = format!("notifier-{}", std::process::id());
    let config = NotifierConfig { name, claim_time: config.claim_time };
    Ok(Notifier::new(store.clone(), Arc::clone(clock), sender, config))
}

/// The configured one, or this installation's own, which the first start makes.
pub(super) fn secret(config: &config::Webhooks, data_dir: &DataDir) -> anyhow::Result<String> {
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
