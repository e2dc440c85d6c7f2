//! The worker's way to one dispatcher: HTTP/2 over TLS, one connection for everything.

mod world;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _, stream};
use hood_dispatch::AttemptKey;
use hood_dispatch::remote::{Answer, Call, Failure, Frames, Said, Transport};
use hood_wire::dispatch as wire;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio_rustls::TlsConnector;

use crate::tls::{Credentials, Role, TlsError, peer};

pub use world::RealWorld;

/// For a connection and its handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A dispatcher that is frozen, or cut off, is noticed after the sum of both.
const PING_EVERY: Duration = Duration::from_secs(5);
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// What one stream may have sent that nobody has read: a worker that waits for its store is no
/// reason to hold more than this of each program.
const STREAM_WINDOW: u32 = 256 * 1024;

/// The sum over streams is bounded by the one above, so that a slow stream holds up no other.
const CONNECTION_WINDOW: u32 = 1 << 30;

/// The largest answer that is no stream: a catalogue with all its environments and packages.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum WayError {
    #[error("`{0}` is no https://HOST:PORT")]
    Address(String),
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// One dispatcher's address.
pub struct Https {
    authority: String,
    host: ServerName<'static>,
    tls: Arc<ClientConfig>,
    connection: Mutex<Option<Connection>>,
}

#[derive(Clone)]
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    /// The name in the dispatcher's certificate.
    by: String,
}

impl fmt::Debug for Https {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Https").field("authority", &self.authority).finish_non_exhaustive()
    }
}

fn unreachable(error: &dyn std::error::Error) -> Failure {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    Failure::Unreachable(text)
}

impl Https {
    pub fn new(address: &str, credentials: &Credentials) -> Result<Self, WayError> {
        let wrong = || WayError::Address(address.to_owned());
        let authority = address.strip_prefix("https://").ok_or_else(wrong)?.trim_end_matches('/');
        let (host, port) = authority.rsplit_once(':').ok_or_else(wrong)?;
        port.parse::<u16>().map_err(|_| wrong())?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let host = ServerName::try_from(host).map_err(|_| wrong())?;
        let tls = credentials.client_config(Role::Dispatcher)?;
        Ok(Self { authority: authority.to_owned(), host, tls, connection: Mutex::new(None) })
    }

    /// The connection that is open, or a new one with the certificates of today.
    async fn connection(&self) -> Result<Connection, Failure> {
        let mut current = self.connection.lock().await;
        if let Some(open) = current.as_ref().filter(|open| !open.sender.is_closed()) {
            return Ok(open.clone());
        }
        let opened = tokio::time::timeout(CONNECT_TIMEOUT, self.connect()).await;
        let late =
            || Failure::Unreachable(format!("not connected within {} ms", CONNECT_TIMEOUT.as_millis()));
        let connection = opened.unwrap_or_else(|_| Err(late()))?;
        *current = Some(connection.clone());
        Ok(connection)
    }

    async fn connect(&self) -> Result<Connection, Failure> {
        let stream = TcpStream::connect(&self.authority).await.map_err(|error| unreachable(&error))?;
        stream.set_nodelay(true).map_err(|error| unreachable(&error))?;
        let connector = TlsConnector::from(Arc::clone(&self.tls));
        let stream =
            connector.connect(self.host.clone(), stream).await.map_err(|error| unreachable(&error))?;
        let identity = peer(stream.get_ref().1.peer_certificates()).map_err(|error| unreachable(&error))?;
        let (sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| unreachable(&error))?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(error = %error, "a connection to a dispatcher ended");
            }
        });
        Ok(Connection { sender, by: identity.name })
    }

    async fn send(&self, sent: Sent) -> Result<Said<Response<Incoming>>, Failure> {
        let Connection { mut sender, by } = self.connection().await?;
        let request = Request::builder()
            .method(sent.method)
            .uri(format!("https://{}{}", self.authority, sent.path))
            .header(wire::VERSION_HEADER, wire::VERSION)
            .header(hyper::header::CONTENT_TYPE, sent.content_type)
            .body(Full::new(sent.body))
            .map_err(|error| unreachable(&error))?;
        sender.ready().await.map_err(|error| unreachable(&error))?;
        let response = sender.send_request(request).await.map_err(|error| unreachable(&error))?;
        if response.status().is_success() {
            return Ok(Said { by, what: response });
        }
        let status = response.status();
        let problem = body(response).await.ok().and_then(|body| serde_json::from_slice(&body).ok());
        Err(match problem {
            Some(problem) => Failure::Refused(problem),
            None => Failure::Unreachable(format!("it answers {status}")),
        })
    }
}

/// A request before it has a connection.
struct Sent {
    method: Method,
    path: String,
    content_type: &'static str,
    body: Bytes,
}

const JSON: &str = "application/json";

fn json<T: serde::Serialize>(key: AttemptKey, verb: &str, body: &T) -> Result<Sent, Failure> {
    let body = serde_json::to_vec(body).map_err(|error| unreachable(&error))?;
    let path = format!("{}/{verb}", place(key));
    Ok(Sent { method: Method::POST, path, content_type: JSON, body: body.into() })
}

fn place(key: AttemptKey) -> String {
    format!("/v1/places/{}/{}", key.evaluation, key.attempt)
}

fn request(call: &Call) -> Result<Sent, Failure> {
    match call {
        Call::Execute { key, order } => {
            let body = wire::encode_order(order).map_err(|error| unreachable(&error))?;
            let (method, path) = (Method::PUT, place(*key));
            Ok(Sent { method, path, content_type: wire::ORDER_TYPE, body: body.into() })
        }
        Call::Status { key, request } => json(*key, "status", request),
        Call::Acknowledge { key, acknowledge } => json(*key, "acknowledge", acknowledge),
        Call::Cancel { key, cancel } => json(*key, "cancel", cancel),
        Call::Capacity => {
            let path = "/v1/capacity".to_owned();
            Ok(Sent { method: Method::GET, path, content_type: JSON, body: Bytes::new() })
        }
    }
}

async fn body(response: Response<Incoming>) -> Result<Bytes, Failure> {
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
    body.map(http_body_util::Collected::to_bytes).map_err(|error| unreachable(&*error))
}

fn read<T: DeserializeOwned>(body: &Bytes) -> Result<T, Failure> {
    serde_json::from_slice(body).map_err(|error| unreachable(&error))
}

impl Transport for Https {
    fn call(&self, call: Call) -> BoxFuture<'_, Result<Said<Answer>, Failure>> {
        async move {
            let Said { by, what } = self.send(request(&call)?).await?;
            if what.status() == StatusCode::NO_CONTENT {
                return Ok(Said { by, what: Answer::Done });
            }
            let body = body(what).await?;
            let answer = match call {
                Call::Execute { .. } => Answer::Opened(read(&body)?),
                Call::Status { .. } => Answer::Status(read(&body)?),
                Call::Capacity => Answer::Capacity(read(&body)?),
                Call::Acknowledge { .. } | Call::Cancel { .. } => Answer::Done,
            };
            Ok(Said { by, what: answer })
        }
        .boxed()
    }

    fn listen(&self, key: AttemptKey, listen: wire::Listen) -> BoxFuture<'_, Result<Said<Frames>, Failure>> {
        async move {
            let Said { by, what } = self.send(json(key, "frames", &listen)?).await?;
            Ok(Said { by, what: frames(what.into_body()) })
        }
        .boxed()
    }
}

/// Frames as their bytes arrive; nothing comes after a failure.
fn frames(body: Incoming) -> Frames {
    let state = Some((body.into_data_stream(), wire::FrameReader::default()));
    stream::unfold(state, |state| async move {
        let (mut bytes, mut reader) = state?;
        loop {
            match reader.next_frame() {
                Ok(Some(frame)) => return Some((Ok(frame), Some((bytes, reader)))),
                Ok(None) => {}
                Err(error) => return Some((Err(unreachable(&error)), None)),
            }
            match bytes.next().await? {
                Ok(piece) => reader.push(&piece),
                Err(error) => return Some((Err(unreachable(&error)), None)),
            }
        }
    })
    .boxed()
}
