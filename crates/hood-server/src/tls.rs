//! Who the other end of a connection between roles is. Each role has a certificate of the
//! installation's own CA, which carries its role as a URI; an end proves who it is by TLS, and a table
//! says what it may do.

mod credentials;
mod identity;
pub mod pki;
#[cfg(test)]
mod tests;
mod verify;

use std::path::PathBuf;

pub use credentials::Credentials;
pub use identity::{Identity, Role, may_call, peer};

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{} is not PEM, or holds no {holds}", path.display())]
    Pem {
        path: PathBuf,
        holds: &'static str,
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    #[error("the certificate {} cannot be used", path.display())]
    Certificate {
        path: PathBuf,
        #[source]
        source: IdentityError,
    },
    #[error("{} and {} do not belong together, or cannot be used", cert.display(), key.display())]
    Pair {
        cert: PathBuf,
        key: PathBuf,
        #[source]
        source: rustls::Error,
    },
    #[error("the CA {} cannot be used", path.display())]
    Authority {
        path: PathBuf,
        #[source]
        source: rustls::server::VerifierBuilderError,
    },
    #[error("TLS cannot be set up")]
    Setup(#[source] rustls::Error),
}

/// Why a certificate names no role of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    #[error("it is no X.509 certificate")]
    NotX509,
    #[error("it carries no URI of the form spiffe://fumehood/role/ROLE/NAME")]
    NoRole,
    #[error("it carries more than one role")]
    SeveralRoles,
    #[error("its role or name is none that Fumehood knows")]
    UnknownRole,
    #[error("no certificate was presented")]
    Absent,
}

/// Chooses the one provider of cryptography that everything in this process uses. Later calls change
/// nothing.
pub fn install_provider() {
    // It fails only where one is installed already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}
