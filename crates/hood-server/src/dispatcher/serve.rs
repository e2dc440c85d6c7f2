//! Connections of workers: how many, how they are proven, and how they end.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::{Extension, Router};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::tls::peer;

/// Open connections: one of each worker, some during restarts, and strangers until they are refused.
const CONNECTIONS_MAX: usize = 1024;

/// In which a peer must have proven itself.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Streams of one worker at once: one for each evaluation that it follows, and its calls beside.
const STREAMS_MAX: u32 = 100_000;

/// A worker that is frozen, or cut off, is noticed after the sum of both.
const PING_EVERY: Duration = Duration::from_secs(5);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// What an order's body may have under way before it is read.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 8 * 1024 * 1024;

/// The wait after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `stop`; then connections end where they are. What was under way is asked for again.
pub async fn serve(listener: TcpListener, router: Router, tls: Arc<ServerConfig>, stop: CancellationToken) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        // The semaphore is never closed.
        let permit = Arc::clone(&connections).acquire_owned().await.ok();
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _peer)) => {
                let connected = connect(stream, router.clone(), TlsAcceptor::from(Arc::clone(&tls)), permit);
                tokio::spawn(stop.clone().run_until_cancelled_owned(connected));
            }
            Err(error) => {
                tracing::warn!(error = %error, "a connection was not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connect(
    stream: TcpStream,
    router: Router,
    acceptor: TlsAcceptor,
    permit: Option<OwnedSemaphorePermit>,
) {
    let address = stream.peer_addr().map(|address| address.to_string()).unwrap_or_default();
    if let Err(error) = converse(stream, router, acceptor).await {
        tracing::debug!(peer = address, error = %error, "a connection ended early");
    }
    drop(permit);
}

async fn converse(stream: TcpStream, router: Router, acceptor: TlsAcceptor) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await??;
    let identity = peer(stream.get_ref().1.peer_certificates()).map_err(io::Error::other)?;
    let service = TowerToHyperService::new(router.layer(Extension(identity)));
    hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT)
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .serve_connection(TokioIo::new(stream), service)
        .await
        .map_err(io::Error::other)
}
