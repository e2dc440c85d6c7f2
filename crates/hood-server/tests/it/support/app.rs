//! The API, real in every part, on a free loopback port over a real store in a directory of its own.
//! There is no worker: tests play it through [`FakeWorker`].

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hood_core::limits::Limits;
use hood_core::plan::{Capacity, ExecutorClass, Layer, Offer, PlaceKind, PolicyMode};
use hood_core::{Tenant, Timestamp};
use hood_server::api::{ApiConfig, ApiLimits, ApiParts, ApiState, HostPolicy, serve, token_hash};
use hood_server::clock::{Clock, SystemClock};
use hood_server::config::Builds;
use hood_server::document::{CatalogueDocument, limits_to_wire, to_json};
use hood_server::health::Health;
use hood_server::telemetry::Metrics;
use hood_server::webhook::Rules;
use hood_store::{NewKey, Store, StoreConfig};
use hood_wire::api::{Environment, EnvironmentState};
use reqwest::Method;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::answer::Answer;
use super::fake_worker::FakeWorker;

/// Longer than anything here takes on a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct TestApp {
    pub(crate) address: SocketAddr,
    pub(crate) token: String,
    pub(crate) store: Store,
    pub(crate) health: Health,
    http: reqwest::Client,
    stop: CancellationToken,
    server: JoinHandle<anyhow::Result<()>>,
    pub(crate) settings: Settings,
    /// Of the first of its replicas.
    _dir: Option<tempfile::TempDir>,
}

/// What a test wants otherwise.
#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) limits: ApiLimits,
    pub(crate) store: StoreConfig,
    pub(crate) catalogue: Option<CatalogueDocument>,
    pub(crate) allowed_hosts: Vec<String>,
    pub(crate) webhooks: Rules,
    pub(crate) request_bytes_in_rows_max: usize,
    pub(crate) leave: Duration,
}

impl TestApp {
    pub(crate) async fn start() -> Self {
        Self::with(|_| ()).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut settings = Settings {
            limits: ApiLimits::default(),
            store: StoreConfig::at(dir.path().join("store")),
            catalogue: Some(catalogue()),
            allowed_hosts: Vec::new(),
            webhooks: Rules::default(),
            request_bytes_in_rows_max: 64 * 1024,
            leave: Duration::ZERO,
        };
        change(&mut settings);
        let mut app = Self::over(settings).await;
        app._dir = Some(dir);
        app.token = app.add_key("test", &Tenant::default()).await;
        app
    }

    /// Another one on the same database.
    pub(crate) async fn replica(&self) -> Self {
        Self { token: self.token.clone(), ..Self::over(self.settings.clone()).await }
    }

    async fn over(settings: Settings) -> Self {
        let store = Store::open(settings.store.clone()).await.expect("the store opens");
        if let Some(catalogue) = &settings.catalogue {
            store.put_capacity(1, SystemClock.now(), &to_json(catalogue)).await.expect("a catalogue");
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let health = Health::new(Duration::from_millis(500), Duration::ZERO);
        let config = ApiConfig {
            builds: Builds::OnDemand,
            policy: PolicyMode::Strict,
            hosts: HostPolicy::new(address, &settings.allowed_hosts),
            queue_max: settings.store.queue_max,
            request_bytes_in_rows_max: settings.request_bytes_in_rows_max,
            webhooks: settings.webhooks.clone(),
            limits: settings.limits.clone(),
        };
        let state = ApiState::from_parts(ApiParts {
            store: store.clone(),
            clock: Arc::new(SystemClock),
            config,
            health: health.clone(),
            metrics: Metrics::install().expect("the only recorder"),
            seal: None,
        });
        let stop = CancellationToken::new();
        let server = tokio::spawn(serve(listener, state, (stop.clone(), settings.leave)));
        let http = reqwest::Client::builder().timeout(PATIENCE).build().expect("a client");
        Self { address, token: String::new(), store, health, http, stop, server, settings, _dir: None }
    }

    /// Makes a key of that name and returns its token.
    pub(crate) async fn add_key(&self, name: &str, tenant: &Tenant) -> String {
        let token = format!("fh_{name}_{}", self.address.port());
        let key = NewKey {
            tenant: tenant.clone(),
            name: name.to_owned(),
            hash: token_hash(&token),
            created_at: SystemClock.now(),
        };
        self.store.insert_key(&key).await.expect("a key");
        token
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// A request with the key.
    pub(crate) fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.bare(method, path).bearer_auth(&self.token)
    }

    /// A request without a key.
    pub(crate) fn bare(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, self.url(path))
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        Answer::of(self.request(Method::GET, path)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        Answer::of(self.request(Method::DELETE, path)).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        Answer::of(self.request(Method::POST, path).json(body)).await
    }

    /// Submits and returns the id.
    pub(crate) async fn submit(&self, body: &Value) -> String {
        let answer = self.post("/v1/evaluations", body).await.expect(201);
        answer.json()["id"].as_str().expect("an id").to_owned()
    }

    pub(crate) fn worker(&self) -> FakeWorker {
        FakeWorker::new(self.store.clone())
    }

    /// Ends the server and waits for it.
    pub(crate) async fn shut_down(self) {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, self.server)
            .await
            .expect("in time")
            .expect("no panic")
            .expect("no error");
    }

    /// Asks the server to end and does not wait.
    pub(crate) fn begin_shutdown(&self) {
        self.stop.cancel();
    }
}

pub(crate) fn capacity() -> Capacity {
    Capacity {
        version: 1,
        taken_at: Timestamp::from_micros(0),
        kind: PlaceKind::LocalRoot,
        classes: vec![ExecutorClass::Cpu],
        proven: Layer::ALL.to_vec(),
        unproven: Vec::new(),
        memory_bytes_max: Limits::MAXIMUM.memory_bytes / 2,
        places: 2,
    }
}

pub(crate) fn environment(name: &str) -> Environment {
    Environment {
        name: name.to_owned(),
        description: "for tests".to_owned(),
        state: EnvironmentState::Ready,
        digest: Some("blake3:00".to_owned()),
        size_bytes: Some(1),
        base: "host-python".to_owned(),
        isolation: "namespace".to_owned(),
        system_calls: "ordinary".to_owned(),
        portable: false,
        security: None,
        progress: None,
        interpreter: Some("3.11.2".to_owned()),
        packages: Vec::new(),
        code: None,
        image: None,
        default_limits: limits_to_wire(&Limits::DEFAULT, &[]),
        maximum_limits: limits_to_wire(&Limits::MAXIMUM, &[]),
        allowed_classes: vec!["cpu".to_owned()],
        default: name == "minimal",
        error: None,
        error_lasts: false,
    }
}

pub(crate) fn catalogue() -> CatalogueDocument {
    let capacity = capacity();
    let offer =
        Offer { executor: "one".to_owned(), free: capacity.places, open: true, environments: None, capacity };
    CatalogueDocument::new(&[offer], vec![environment("minimal"), environment("spare")])
}
