use std::fmt;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _, TlsCertificates,
};

/// How long a connection may take to be made, TLS and log-in included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Which part of the installation a process is on the bus: it writes hints under its own name, so that
/// a server's access rules can keep each from writing another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BusSide {
    Api,
    Worker,
    Notifier,
    /// All of them in one process.
    Serve,
}

impl BusSide {
    pub const ALL: [Self; 4] = [Self::Api, Self::Worker, Self::Notifier, Self::Serve];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Worker => "worker",
            Self::Notifier => "notifier",
            Self::Serve => "serve",
        }
    }
}

/// The Redis through which processes wake each other.
#[derive(Clone, PartialEq, Eq)]
pub struct BusConfig {
    /// `redis://` or `rediss://`, with user and password: a secret.
    pub url: String,
    /// Certificates in PEM that the server's is checked with; `None` takes the host's.
    pub ca: Option<Vec<u8>>,
    /// What every key begins with: several installations can share a server.
    pub prefix: String,
    pub side: BusSide,
}

impl fmt::Debug for BusConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BusConfig")
            .field("prefix", &self.prefix)
            .field("side", &self.side)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// The URL itself is not repeated: it may hold a password.
    #[error("the bus's URL cannot be used; it is redis:// or rediss://[USER:PASSWORD@]HOST[:PORT]")]
    Url(#[source] redis::RedisError),
    #[error("the certificates that the bus's server is to be checked with cannot be used")]
    Certificates(#[source] redis::RedisError),
}

/// A bus that can be connected to.
#[derive(Debug)]
pub(super) struct Endpoint {
    client: Client,
    prefix: String,
    side: BusSide,
}

impl Endpoint {
    pub(super) fn new(config: &BusConfig) -> Result<Self, BusError> {
        let info = config.url.as_str().into_connection_info().map_err(BusError::Url)?;
        // The process has one provider: whoever chose before this chose the same one.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let client = match &config.ca {
            Some(ca) if is_tls(&info) => {
                let certificates = TlsCertificates { client_tls: None, root_cert: Some(ca.clone()) };
                Client::build_with_tls(quiet(info), certificates).map_err(BusError::Certificates)?
            }
            _ => Client::open(quiet(info)).map_err(BusError::Url)?,
        };
        Ok(Self { client, prefix: config.prefix.clone(), side: config.side })
    }

    /// The stream of one side.
    pub(super) fn stream(&self, side: BusSide) -> String {
        format!("{}wake:{}", self.prefix, side.as_str())
    }

    /// The stream that this process writes to.
    pub(super) fn own_stream(&self) -> String {
        self.stream(self.side)
    }

    /// A connection of which every answer comes within `patience`.
    pub(super) async fn connect(
        &self,
        patience: Duration,
    ) -> Result<MultiplexedConnection, redis::RedisError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(patience));
        self.client.get_multiplexed_async_connection_with_config(&config).await
    }
}

fn is_tls(info: &ConnectionInfo) -> bool {
    matches!(info.addr(), ConnectionAddr::TcpTls { .. })
}

/// Without the library's name, which needs one more command to be allowed.
fn quiet(info: ConnectionInfo) -> ConnectionInfo {
    let settings = info.redis_settings().clone().set_skip_set_lib_name();
    info.set_redis_settings(settings)
}
