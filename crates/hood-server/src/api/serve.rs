//! Connections: how many, how large a head, how long it may take, and how they end.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;

use super::routes::router;
use super::state::ApiState;
use crate::telemetry::metrics::UPKEEP_EVERY;

/// The wait after an accept that failed for want of descriptors or memory: another try at once
/// would fail as well.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts that fail one after another before the listener is given up for broken: half a minute.
const ACCEPT_FAILURES_MAX: u32 = 300;

/// The least that the HTTP library takes for a request's head.
const HEAD_BYTES_MIN: usize = 8192;

/// Serves the API until `shutdown`, and for the time of `leave` after it: not ready, and closing each
/// connection with its answer, so that clients go elsewhere and none asks where nobody hears it any more.
/// Then long answers end, open requests get the drain time, and this returns. An error means that no
/// connection can be accepted any more.
pub async fn serve(
    listener: TcpListener,
    state: ApiState,
    (shutdown, leave): (CancellationToken, Duration),
) -> anyhow::Result<()> {
    let limits = state.config().limits.connection.clone();
    let connections = Arc::new(Semaphore::new(limits.connections_max));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(limits.head_timeout)
        .max_buf_size(limits.head_bytes_max.max(HEAD_BYTES_MIN))
        .max_headers(limits.headers_max);
    let write_timeout = limits.write_timeout;
    let open = GracefulShutdown::new();
    let server = Server { router: router(state.clone()), http, open, write_timeout };
    let upkeep = tokio::spawn(upkeep(state.clone()));
    let left = async {
        shutdown.cancelled().await;
        state.leaving().cancel();
        tokio::time::sleep(leave).await;
    };
    tokio::pin!(left);
    let served = loop {
        tokio::select! {
            () = &mut left => break Ok(()),
            accepted = accept(&listener, &connections) => match accepted {
                Ok((stream, permit)) => server.connect(stream, permit),
                Err(error) => break Err(error),
            },
        }
    };
    drop(listener);
    upkeep.abort();
    state.shutdown().cancel();
    if tokio::time::timeout(limits.drain, server.open.shutdown()).await.is_err() {
        tracing::warn!(drain_ms = limits.drain.as_millis(), "connections were cut off at shutdown");
    }
    Ok(served?)
}

/// The next connection, once one more may be open.
async fn accept(
    listener: &TcpListener,
    connections: &Arc<Semaphore>,
) -> io::Result<(TcpStream, Option<OwnedSemaphorePermit>)> {
    // The semaphore is never closed.
    let permit = connections.clone().acquire_owned().await.ok();
    let mut failures = 0;
    loop {
        match listener.accept().await {
            Ok((stream, _peer)) => return Ok((stream, permit)),
            Err(error) if failures < ACCEPT_FAILURES_MAX => {
                failures += 1;
                tracing::warn!(error = %error, "a connection was not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// A listener that hears nothing for a long time sends nothing either: whether it is still there is
/// asked after so long, so often, and so many times before its place is given to another.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMES: u32 = 3;

fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE_EVERY)?;
    Ok(sockopt::set_tcp_keepcnt(stream, KEEPALIVE_TIMES)?)
}

struct Server {
    router: Router,
    http: http1::Builder,
    open: GracefulShutdown,
    write_timeout: Duration,
}

impl Server {
    fn connect(&self, stream: TcpStream, permit: Option<OwnedSemaphorePermit>) {
        // Events and output are small and wanted at once.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(error = %error, "a connection keeps its delay");
        }
        if let Err(error) = keep_alive(&stream) {
            tracing::debug!(error = %error, "whether a silent peer lives will not be asked");
        }
        // Whoever asks and never reads would otherwise hold a connection for ever, key or no key.
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(self.write_timeout));
        let service = TowerToHyperService::new(self.router.clone());
        let connection = self.http.serve_connection(TokioIo::new(Box::pin(stream)), service);
        let connection = self.open.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(error = %error, "a connection ended early");
            }
            drop(permit);
        });
    }
}

/// Folds what the histograms have gathered, so that it does not grow where nobody scrapes.
async fn upkeep(state: ApiState) -> Infallible {
    let mut ticks = tokio::time::interval(UPKEEP_EVERY);
    loop {
        ticks.tick().await;
        state.metrics().upkeep();
    }
}

#[cfg(test)]
mod tests {
    //! White box: from outside it takes a minute without a network to see it.

    use super::*;

    #[tokio::test]
    async fn whether_a_silent_peer_lives_is_asked() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let stream = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("connects");
        keep_alive(&stream).expect("is set");
        assert!(sockopt::socket_keepalive(&stream).expect("is told"));
        assert_eq!(sockopt::tcp_keepidle(&stream).expect("is told"), KEEPALIVE_IDLE);
        assert_eq!(sockopt::tcp_keepintvl(&stream).expect("is told"), KEEPALIVE_EVERY);
        assert_eq!(sockopt::tcp_keepcnt(&stream).expect("is told"), KEEPALIVE_TIMES);
    }
}
