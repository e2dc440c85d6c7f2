//! What is demanded of the other end's certificate, and which certificate is shown to it: always by
//! what the files held last, so that a renewal reaches the next connection.

use std::sync::Arc;

use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
};

use super::credentials::Current;
use super::{Identity, Role};

/// Shows our certificate, whoever asks.
#[derive(Debug)]
pub(super) struct Shown(pub(super) Arc<Current>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.load().certified))
    }
}

impl ResolvesClientCert for Shown {
    fn resolve(&self, _roots: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.load().certified))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Who has the key is asked alike at both ends, by traits that do not know of each other.
macro_rules! checked_by_our_algorithms {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls12_signature(message, cert, dss, &self.algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls13_signature(message, cert, dss, &self.algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.algorithms.supported_schemes()
        }
    };
}

/// A client with a certificate of our CA for clients, which carries a role. What that role may do is
/// decided where its request is known.
#[derive(Debug)]
pub(super) struct AnyRole {
    pub(super) current: Arc<Current>,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for AnyRole {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // They would be of the CA that was there at the start.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        identity(end_entity)?;
        self.current.load().clients.verify_client_cert(end_entity, intermediates, now)
    }

    checked_by_our_algorithms!();
}

/// A server with a certificate of our CA for servers, under the name that was dialled and of the role
/// that was meant.
#[derive(Debug)]
pub(super) struct OneRole {
    pub(super) current: Arc<Current>,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
    pub(super) expected: Role,
}

impl ServerCertVerifier for OneRole {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let found = identity(end_entity)?;
        if found.role != self.expected {
            return Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure));
        }
        let servers = &self.current.load().servers;
        servers.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    checked_by_our_algorithms!();
}

fn identity(certificate: &CertificateDer<'_>) -> Result<Identity, Error> {
    let other = |error| Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))));
    Identity::of_certificate(certificate).map_err(other)
}
