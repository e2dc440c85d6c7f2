//! What roles have in common that run apart.

use std::sync::Arc;

use anyhow::{Context as _, bail};

use crate::config::Config;
use crate::tls::{Credentials, Role};

/// The certificate of this role; without one nobody would speak to it.
pub(super) fn credentials(config: &Config, role: Role) -> anyhow::Result<Arc<Credentials>> {
    let Some(files) = config.tls.files() else {
        bail!(
            "a {role} needs a certificate: set tls.cert, tls.key and tls.ca (`fumehood pki issue {role}` makes one)"
        );
    };
    let credentials = Credentials::load(&files).context("the certificate cannot be used")?;
    let identity = credentials.identity();
    if identity.role != role {
        bail!("the certificate in tls.cert is of {identity}, and this is a {role}: issue one for it");
    }
    Ok(credentials)
}
