//! Grey box: real handshakes over a socket, with certificates of real CAs.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, Stream};

use super::pki::{self, PkiError, Request};
use super::{Credentials, Identity, Role, TlsError, install_provider, peer};
use crate::config::TlsFiles;

const HOST: &str = "d1.example";
const PATIENCE: Duration = Duration::from_secs(30);

fn ca() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    pki::init(&dir.path().join("pki"), 1).expect("a CA");
    dir
}

fn request(role: Role, name: &str, days: u32, renew: bool) -> Request {
    let hosts = if role.is_called() { vec![HOST.to_owned()] } else { Vec::new() };
    Request { identity: Identity::new(role, name).expect("a name"), hosts, days, renew }
}

fn files(dir: &Path, role: Role) -> TlsFiles {
    let issued = pki::issue(&dir.join("pki"), &request(role, "1", 1, false)).expect("a certificate");
    TlsFiles { cert: issued.cert, key: issued.key, ca: issued.ca }
}

fn credentials(dir: &Path, role: Role) -> Arc<Credentials> {
    Credentials::load(&files(dir, role)).expect("sound")
}

type Ended = Result<Identity, String>;

/// Both ends' view of one connection over which a byte goes each way.
fn shake(server: Arc<ServerConfig>, client: Arc<ClientConfig>, host: &str) -> (Ended, Ended) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = listener.local_addr().expect("an address");
    let serving = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().expect("a connection");
        let mut tls = ServerConnection::new(server).expect("a connection");
        let done = exchange(&mut Stream::new(&mut tls, &mut socket));
        done.and_then(|()| peer(tls.peer_certificates()).map_err(|error| error.to_string()))
    });
    let mut socket = TcpStream::connect(address).expect("connected");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let name = ServerName::try_from(host.to_owned()).expect("a name");
    let mut tls = ClientConnection::new(client, name).expect("a connection");
    let done = exchange(&mut Stream::new(&mut tls, &mut socket));
    let called = done.and_then(|()| peer(tls.peer_certificates()).map_err(|error| error.to_string()));
    drop(socket);
    (serving.join().expect("no panic"), called)
}

fn exchange(stream: &mut (impl std::io::Read + std::io::Write)) -> Result<(), String> {
    let mut byte = [0];
    let done =
        stream.write_all(b"x").and_then(|()| stream.flush()).and_then(|()| stream.read_exact(&mut byte));
    done.map_err(|error| error.to_string())
}

fn between(server: &Credentials, client: &Credentials, expected: Role, host: &str) -> (Ended, Ended) {
    let server = server.server_config().expect("sound");
    shake(server, client.client_config(expected).expect("sound"), host)
}

#[test]
fn each_end_learns_who_the_other_is() {
    let dir = ca();
    let (dispatcher, worker) =
        (credentials(dir.path(), Role::Dispatcher), credentials(dir.path(), Role::Worker));
    let (caller, callee) = between(&dispatcher, &worker, Role::Dispatcher, HOST);
    assert_eq!(caller, Ok(worker.identity()));
    assert_eq!(callee, Ok(dispatcher.identity()));
}

#[test]
fn what_is_not_of_our_ca_is_refused_at_either_end() {
    let (ours, theirs) = (ca(), ca());
    let (dispatcher, worker) =
        (credentials(ours.path(), Role::Dispatcher), credentials(theirs.path(), Role::Worker));
    let (caller, callee) = between(&dispatcher, &worker, Role::Dispatcher, HOST);
    assert!(caller.is_err() && callee.is_err(), "{caller:?} {callee:?}");

    install_provider();
    // A client that believes anybody, to see that it is the server who refuses.
    let stranger = ClientConfig::builder().with_root_certificates(RootCertStore::empty());
    let mut stranger = stranger.with_no_client_auth();
    stranger.dangerous().set_certificate_verifier(Arc::new(Credulous));
    let (caller, _) = shake(dispatcher.server_config().expect("sound"), Arc::new(stranger), HOST);
    assert!(caller.expect_err("without a certificate").contains("certificate"));
}

#[test]
fn a_certificate_for_servers_is_no_clients_and_the_other_way_round() {
    let dir = ca();
    let dispatcher = credentials(dir.path(), Role::Dispatcher);
    let (caller, _) = between(&dispatcher, &dispatcher, Role::Dispatcher, HOST);
    assert!(caller.is_err(), "a dispatcher that calls a dispatcher");
    let worker = credentials(dir.path(), Role::Worker);
    for expected in [Role::Worker, Role::Dispatcher] {
        let (_, callee) = between(&worker, &worker, expected, HOST);
        assert!(callee.is_err(), "a worker that passes for a server");
    }
}

#[test]
fn another_name_and_another_role_than_were_meant_are_refused() {
    let dir = ca();
    let (dispatcher, worker) =
        (credentials(dir.path(), Role::Dispatcher), credentials(dir.path(), Role::Worker));
    let (_, callee) = between(&dispatcher, &worker, Role::Dispatcher, "other.example");
    assert!(callee.is_err(), "another host");
    let (_, callee) = between(&dispatcher, &worker, Role::Api, HOST);
    assert!(callee.is_err(), "another role");
}

#[tokio::test(start_paused = true)]
async fn renewed_files_are_taken_up_and_broken_ones_are_not() {
    let dir = ca();
    let files = files(dir.path(), Role::Worker);
    let worker = Credentials::load(&files).expect("sound");
    let (first, key) = (worker.expires_at(), std::fs::read(&files.key).expect("a key"));
    let keeping = tokio::spawn(Arc::clone(&worker).keep_current());

    // Only the key has changed: the pair does not fit.
    pki::issue(&dir.path().join("pki"), &request(Role::Worker, "2", 2, false)).expect("another");
    std::fs::copy(dir.path().join("pki/worker-2.key"), &files.key).expect("copied");
    tokio::time::sleep(PATIENCE).await;
    assert_eq!(worker.expires_at(), first);
    let dispatcher = credentials(dir.path(), Role::Dispatcher);
    let (caller, _) = between(&dispatcher, &worker, Role::Dispatcher, HOST);
    assert_eq!(caller, Ok(worker.identity()), "the last sound one goes on being shown");

    std::fs::write(&files.key, key).expect("restored");
    // Given out before the renewal, and right after it.
    let config = worker.client_config(Role::Dispatcher).expect("sound");
    pki::issue(&dir.path().join("pki"), &request(Role::Worker, "1", 3, true)).expect("renewed");
    tokio::time::sleep(PATIENCE).await;
    assert!(worker.expires_at() > first, "the renewed one is in use");
    let (caller, _) = shake(dispatcher.server_config().expect("sound"), config, HOST);
    assert_eq!(caller, Ok(worker.identity()));
    keeping.abort();
}

#[test]
fn what_is_there_is_never_replaced_unasked_and_keys_are_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = ca();
    let pki_dir = dir.path().join("pki");
    assert!(matches!(pki::init(&pki_dir, 1), Err(PkiError::Exists(_))));
    let files = files(dir.path(), Role::Worker);
    let again = pki::issue(&pki_dir, &request(Role::Worker, "1", 1, false));
    assert!(matches!(again, Err(PkiError::Exists(_))));
    for key in [files.key, pki_dir.join("ca.key")] {
        assert_eq!(std::fs::metadata(&key).expect("a key").permissions().mode() & 0o777, 0o600, "{key:?}");
    }
    let elsewhere = pki::issue(&dir.path().join("none"), &request(Role::Worker, "1", 1, false));
    assert!(matches!(elsewhere, Err(PkiError::NoAuthority(_))));
}

#[test]
fn a_certificate_without_a_role_is_named_as_such() {
    let dir = ca();
    let ca = dir.path().join("pki/ca.crt");
    let files = TlsFiles { cert: ca.clone(), key: dir.path().join("pki/ca.key"), ca };
    let error = Credentials::load(&files).expect_err("the CA is no role");
    assert!(matches!(error, TlsError::Certificate { .. }), "{error}");
}

/// Believes every server.
#[derive(Debug)]
struct Credulous;

impl rustls::client::danger::ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
