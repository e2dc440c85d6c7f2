//! A receiver of webhooks on this host, which answers when it is told to and remembers what came.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hood_server::tls::Role;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::tls::Authority;

/// A target is no quicker: two at once would meet here.
const THINKS: Duration = Duration::from_millis(50);

const TAKEN: &[u8] = b"HTTP/1.1 204 No Content\r\n\r\n";

pub(super) struct Receiver {
    pub(super) url: String,
    seen: Arc<Mutex<Seen>>,
    answering: watch::Sender<bool>,
}

#[derive(Default)]
struct Seen {
    requests: Vec<Request>,
    /// By id, those that have no answer yet.
    open: BTreeMap<String, usize>,
    /// Ids of which two were open at once.
    overlapped: Vec<String>,
}

/// One request as it came.
#[derive(Clone, Debug)]
pub(super) struct Request {
    head: String,
    pub(super) body: String,
}

impl Request {
    pub(super) fn header(&self, name: &str) -> &str {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(known, _)| known.eq_ignore_ascii_case(name)).map_or("", |(_, value)| value)
    }
}

impl Receiver {
    pub(super) async fn plain(address: [u8; 4]) -> Self {
        Self::listen(address.into(), None).await
    }

    /// With a certificate that the authority gave to this host's address.
    pub(super) async fn tls(authority: &Authority) -> Self {
        let files = authority.files(Role::Dispatcher, "hooks");
        let chain: Result<Vec<_>, _> =
            CertificateDer::pem_file_iter(&files.cert).expect("readable").collect();
        let key = PrivateKeyDer::from_pem_file(&files.key).expect("a key");
        let config = ServerConfig::builder().with_no_client_auth();
        let config = config.with_single_cert(chain.expect("certificates"), key).expect("they fit");
        Self::listen([127, 0, 0, 1].into(), Some(TlsAcceptor::from(Arc::new(config)))).await
    }

    async fn listen(address: IpAddr, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind((address, 0)).await.expect("a free port");
        let scheme = if tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{}/hook", listener.local_addr().expect("an address"));
        let (answering, answer) = watch::channel(true);
        let seen = Arc::new(Mutex::new(Seen::default()));
        let shared = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (seen, answer, tls) = (Arc::clone(&shared), answer.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => take(stream, &seen, answer).await,
                        // Whoever does not believe the certificate says nothing.
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => take(stream, &seen, answer).await,
                            Err(_) => None,
                        },
                    }
                });
            }
        });
        Self { url, seen, answering }
    }

    /// Whether requests are answered, those that wait for it included.
    pub(super) fn answer(&self, answering: bool) {
        self.answering.send_replace(answering);
    }

    pub(super) fn requests(&self) -> Vec<Request> {
        lock(&self.seen).requests.clone()
    }

    pub(super) fn overlapped(&self) -> Vec<String> {
        lock(&self.seen).overlapped.clone()
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn take<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    seen: &Mutex<Seen>,
    mut answer: watch::Receiver<bool>,
) -> Option<()> {
    let request = read(&mut stream).await?;
    let id = request.header("webhook-id").to_owned();
    {
        let mut seen = lock(seen);
        let open = seen.open.entry(id.clone()).or_default();
        *open += 1;
        if *open > 1 {
            seen.overlapped.push(id.clone());
        }
        seen.requests.push(request);
    }
    tokio::time::sleep(THINKS).await;
    answer.wait_for(|answering| *answering).await.ok()?;
    *lock(seen).open.entry(id).or_default() -= 1;
    stream.write_all(TAKEN).await.ok()?;
    stream.shutdown().await.ok()
}

async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Option<Request> {
    let mut bytes = Vec::new();
    loop {
        let mut piece = [0; 4096];
        let read = stream.read(&mut piece).await.ok().filter(|read| *read > 0)?;
        bytes.extend_from_slice(&piece[..read]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let request = Request { head: head.to_owned(), body: body.to_owned() };
        if request.header("content-length").parse() == Ok(body.len()) {
            return Some(request);
        }
    }
}
