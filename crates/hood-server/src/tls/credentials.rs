//! A role's own certificate, its key, and the CA that it believes; read again when the files change.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use hood_core::Timestamp;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::verify::{AnyRole, OneRole, Shown};
use super::{Identity, IdentityError, Role, TlsError};
use crate::config;

/// Between two looks at the files. A renewal comes hours before it is needed.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// What the files held when they were last read and sound.
#[derive(Debug)]
pub(super) struct Material {
    pub(super) certified: Arc<CertifiedKey>,
    pub(super) clients: Arc<dyn ClientCertVerifier>,
    pub(super) servers: Arc<WebPkiServerVerifier>,
    identity: Identity,
    expires_at: Timestamp,
}

pub(super) type Current = ArcSwap<Material>;

/// The bytes of the three files: compared, so that a change is seen whatever wrote it.
#[derive(Clone, PartialEq, Eq)]
struct Bytes {
    cert: Vec<u8>,
    key: Vec<u8>,
    ca: Vec<u8>,
}

/// Cheap to share. The configurations that it gives out go on being right after a renewal.
#[derive(Debug)]
pub struct Credentials {
    files: Files,
    current: Arc<Current>,
}

#[derive(Clone, Debug)]
struct Files {
    cert: PathBuf,
    key: PathBuf,
    ca: PathBuf,
}

impl Credentials {
    /// Reads the files that the configuration names.
    pub fn load(config: &config::TlsFiles) -> Result<Arc<Self>, TlsError> {
        let files = Files { cert: config.cert.clone(), key: config.key.clone(), ca: config.ca.clone() };
        let material = files.parse(&files.read()?)?;
        Ok(Arc::new(Self { files, current: Arc::new(ArcSwap::from_pointee(material)) }))
    }

    pub fn identity(&self) -> Identity {
        self.current.load().identity.clone()
    }

    pub fn expires_at(&self) -> Timestamp {
        self.current.load().expires_at
    }

    /// For a listener: the client must show a certificate of a role.
    pub fn server_config(&self) -> Result<Arc<ServerConfig>, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let algorithms = provider.signature_verification_algorithms;
        let verifier = AnyRole { current: Arc::clone(&self.current), algorithms };
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(TlsError::Setup)?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(Arc::new(Shown(Arc::clone(&self.current))));
        // A resumed session would be believed for what its certificate once was.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }

    /// For calls to `expected`: the server must show a certificate of that role.
    pub fn client_config(&self, expected: Role) -> Result<Arc<ClientConfig>, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let algorithms = provider.signature_verification_algorithms;
        let verifier = OneRole { current: Arc::clone(&self.current), algorithms, expected };
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(TlsError::Setup)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::new(Shown(Arc::clone(&self.current))));
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }

    /// Takes renewed files up, for as long as it is polled. What cannot be used is said once and
    /// changes nothing: the last sound certificate stays.
    pub async fn keep_current(self: Arc<Self>) {
        let mut taken = self.files.read().ok();
        let mut complained_of = None;
        loop {
            tokio::time::sleep(CHECK_INTERVAL).await;
            let read = match self.files.read() {
                Ok(read) if Some(&read) == taken.as_ref() => continue,
                Ok(read) => read,
                // Between the removal of the old and the arrival of the new.
                Err(_) => continue,
            };
            match self.files.parse(&read) {
                Ok(material) => {
                    tracing::info!(identity = %material.identity, "the renewed certificate is in use");
                    self.current.store(Arc::new(material));
                    taken = Some(read);
                }
                Err(error) if complained_of.as_ref() != Some(&read) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "the renewed certificate is not used"
                    );
                    complained_of = Some(read);
                }
                Err(_) => {}
            }
        }
    }
}

impl Files {
    fn read(&self) -> Result<Bytes, TlsError> {
        let read =
            |path: &PathBuf| fs::read(path).map_err(|source| TlsError::Read { path: path.clone(), source });
        Ok(Bytes { cert: read(&self.cert)?, key: read(&self.key)?, ca: read(&self.ca)? })
    }

    fn parse(&self, bytes: &Bytes) -> Result<Material, TlsError> {
        let pem = |path: &PathBuf, holds| {
            let path = path.clone();
            move |source| TlsError::Pem { path, holds, source }
        };
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&bytes.cert)
            .collect::<Result<_, _>>()
            .map_err(pem(&self.cert, "certificate"))?;
        let of = |source| TlsError::Certificate { path: self.cert.clone(), source };
        let leaf = chain.first().ok_or_else(|| of(IdentityError::Absent))?;
        let identity = Identity::of_certificate(leaf).map_err(of)?;
        let expires_at = expiry(leaf).ok_or_else(|| of(IdentityError::NotX509))?;
        let key = PrivateKeyDer::from_pem_slice(&bytes.key).map_err(pem(&self.key, "private key"))?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let certified = CertifiedKey::from_der(chain, key, &provider).map_err(|source| TlsError::Pair {
            cert: self.cert.clone(),
            key: self.key.clone(),
            source,
        })?;
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(&bytes.ca) {
            let root = root.map_err(pem(&self.ca, "certificate"))?;
            roots.add(root).map_err(TlsError::Setup)?;
        }
        let roots = Arc::new(roots);
        let authority = |source| TlsError::Authority { path: self.ca.clone(), source };
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider));
        let servers = WebPkiServerVerifier::builder_with_provider(roots, provider);
        Ok(Material {
            certified: Arc::new(certified),
            clients: clients.build().map_err(authority)?,
            servers: servers.build().map_err(authority)?,
            identity,
            expires_at,
        })
    }
}

fn expiry(leaf: &CertificateDer<'_>) -> Option<Timestamp> {
    let (_, certificate) = X509Certificate::from_der(leaf).ok()?;
    let seconds = certificate.validity().not_after.timestamp();
    Some(Timestamp::from_micros(seconds.checked_mul(1_000_000)?))
}
