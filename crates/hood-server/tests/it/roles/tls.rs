//! The suite of `Dispatch` over HTTP/2 and TLS, as a worker and a dispatcher speak it.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::FutureExt as _;
use hood_dispatch::Dispatch;
use hood_dispatch::local::Local;
use hood_dispatch::remote::{ALIVE_EVERY, Remote, Service, ServiceConfig, Transport};
use hood_server::config::TlsFiles;
use hood_server::dispatcher::{self, DispatcherState};
use hood_server::link::{Https, RealWorld};
use hood_server::telemetry::Traced;
use hood_server::telemetry::traces::{Exporting, export};
use hood_server::tls::pki::{self, Request};
use hood_server::tls::{Credentials, Identity, Role};
use tokio::net::TcpListener;
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

// The very suite, and the very places, of the crate that owns the trait.
#[expect(dead_code, reason = "the other crate's tests use more of it")]
#[path = "../../../../hood-dispatch/tests/it/bench.rs"]
pub(crate) mod bench;
#[macro_use]
#[path = "../../../../hood-dispatch/tests/it/conformance/cases.rs"]
mod cases;

use bench::{Another, Bench};

conformance!(over_https, over_https());

/// An authority of a test's own.
pub(crate) struct Authority(tempfile::TempDir);

impl Authority {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        pki::init(dir.path(), 1).expect("an authority");
        Self(dir)
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn files(&self, role: Role, name: &str) -> TlsFiles {
        let hosts = if role.is_called() { vec!["127.0.0.1".to_owned()] } else { Vec::new() };
        let identity = Identity::new(role, name).expect("a name");
        let issued =
            pki::issue(self.path(), &Request { identity, hosts, days: 1, renew: true }).expect("issued");
        TlsFiles { cert: issued.cert, key: issued.key, ca: issued.ca }
    }

    pub(crate) fn credentials(&self, role: Role, name: &str) -> Arc<Credentials> {
        Credentials::load(&self.files(role, name)).expect("sound")
    }
}

async fn serve(dispatch: Arc<dyn Dispatch>, authority: &Authority) -> SocketAddr {
    let (name, life) = ("one".to_owned(), "1".to_owned());
    let config = ServiceConfig { name, life, alive_every: ALIVE_EVERY, places: 8, outlives: false };
    let service = Service::new(dispatch, Arc::new(RealWorld::default()), config);
    let state = DispatcherState::new(service, 1 << 20, 1 << 20);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let tls = authority.credentials(Role::Dispatcher, "one").server_config().expect("sound");
    tokio::spawn(dispatcher::serve(listener, dispatcher::router(state), tls, CancellationToken::new()));
    address
}

pub(crate) async fn worker(address: SocketAddr, credentials: &Credentials) -> Remote {
    let address = format!("https://{address}");
    let way: Arc<dyn Transport> = Arc::new(Https::new(&address, credentials).expect("an address"));
    let remote = Remote::new(Arc::new(RealWorld::default()), vec![(address, way)]);
    while remote.capacity().offers.is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    remote
}

/// As a dispatcher has it where somebody records, so that the suite goes through that as well.
fn traced(local: Local) -> Traced<Local> {
    static RECORDING: OnceLock<Option<Exporting>> = OnceLock::new();
    // Nobody is there to take what is recorded, and it is dropped.
    RECORDING.get_or_init(|| export("http://127.0.0.1:1", "test").expect("an exporter"));
    Traced::new(local)
}

async fn over_https() -> Bench {
    Bench::behind(|local: Local| -> Another {
        let authority = Arc::new(Authority::new());
        let address = Arc::new(OnceCell::new());
        Box::new(move || {
            let (authority, address, local) = (Arc::clone(&authority), Arc::clone(&address), local.clone());
            async move {
                let serving = || serve(Arc::new(traced(local)), &authority);
                let address = *address.get_or_init(serving).await;
                let credentials = authority.credentials(Role::Worker, "w1");
                Arc::new(worker(address, &credentials).await) as Arc<dyn Dispatch>
            }
            .boxed()
        })
    })
    .await
}
