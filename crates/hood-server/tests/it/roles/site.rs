//! An installation whose roles run apart, each as a process with a database user of its own.

use std::fs;
use std::io::Write as _;
use std::time::{Duration, Instant};

use hood_server::clock::{Clock as _, SystemClock};
use hood_server::document::to_json;
use hood_server::tls::Role;
use hood_store::{DatabaseUrl, Duty, Store, StoreConfig};
use serde_json::{Value, json};

use super::process::{Process, tls};
use super::tls::Authority;
use crate::support::app::catalogue;

/// Of each dispatcher and each worker.
pub(crate) const PLACES: usize = 4;

pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Long enough for a loaded machine, short enough to be waited for.
const LEASE_MS: u64 = 2000;

/// What every notifier signs with.
pub(crate) const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// Users of the database.
const ROLES: [&str; 3] = ["api", "worker", "notifier"];

/// An installation: a database, an authority and a directory.
pub(crate) struct Site {
    pub(crate) server: &'static hood_testkit::Postgres,
    pub(crate) owner_url: String,
    pub(crate) database: String,
    pub(crate) authority: Authority,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) http: reqwest::Client,
    /// Settings of each role besides its own.
    pub(crate) everywhere: Vec<(&'static str, String)>,
}

impl Site {
    /// `None`, said aloud, where there is no PostgreSQL.
    pub(crate) async fn new() -> Option<Self> {
        let site = Self::without_schema().await?;
        site.migrate();
        Some(site)
    }

    /// Each role has a database user of its own, who is in no group and has no right yet.
    pub(crate) async fn without_schema() -> Option<Self> {
        if let Some(why) = hood_testkit::missing() {
            let _ = writeln!(std::io::stderr(), "\nSKIPPED: roles: {why}");
            return None;
        }
        let server = hood_testkit::postgres().await;
        let owner_url = server.fresh_database().await;
        let database = owner_url.rsplit('/').next().expect("a name").to_owned();
        for role in ROLES {
            server.sql(&database, &format!("CREATE ROLE {role}_{database} LOGIN")).expect("a user");
        }
        let (authority, dir) = (Authority::new(), tempfile::tempdir().expect("a directory"));
        Some(Self {
            server,
            owner_url,
            database,
            authority,
            dir,
            http: reqwest::Client::new(),
            everywhere: Vec::new(),
        })
    }

    /// What the owner does: the schema, and each user into its group.
    pub(crate) fn migrate(&self) {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_fumehood"));
        let output = command
            .args(["migrate", "--data-dir"])
            .arg(self.dir.path().join("api"))
            .env("FUMEHOOD_STORE_URL", &self.owner_url)
            .output();
        let output = output.expect("it runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        for role in ROLES {
            let grant = format!("GRANT fumehood_{role} TO {role}_{}", self.database);
            self.server.sql(&self.database, &grant).expect("a member");
        }
    }

    pub(crate) fn shared(&self, role: &str) -> Vec<(&'static str, String)> {
        let blobs = self.dir.path().join("blobs");
        vec![
            ("store.url", self.server.url(&format!("{role}_{}", self.database), &self.database)),
            ("blobs.dir", blobs.to_string_lossy().into_owned()),
            ("worker.lease_ttl_ms", LEASE_MS.to_string()),
        ]
    }

    fn start(&self, role: &str, mut settings: Vec<(&'static str, String)>) -> Process {
        settings.extend_from_slice(&self.everywhere);
        Process::start(role, self.dir.path(), &settings)
    }

    pub(crate) fn dispatcher(&self, listen: &str) -> Process {
        let mut settings = tls(&self.authority.files(Role::Dispatcher, "d1"));
        settings.push(("dispatcher.listen", listen.to_owned()));
        settings.push(("metrics.listen", "127.0.0.1:0".to_owned()));
        settings.push(("worker.places", PLACES.to_string()));
        self.start("dispatcher", settings)
    }

    pub(crate) fn worker(&self, name: &str, dispatcher: &str) -> Process {
        let mut settings = self.shared("worker");
        settings.extend(tls(&self.authority.files(Role::Worker, name)));
        settings.push(("worker.dispatchers", format!("https://{dispatcher}")));
        settings.push(("worker.places", PLACES.to_string()));
        settings.push(("metrics.listen", "127.0.0.1:0".to_owned()));
        self.start(&format!("worker-{name}"), settings)
    }

    pub(crate) fn api(&self) -> Process {
        let mut settings = self.shared("api");
        settings.push(("server.listen", "127.0.0.1:0".to_owned()));
        settings.push(("webhooks.allow", "127.0.0.0/8".to_owned()));
        self.start("api", settings)
    }

    /// It may connect to this host, which the tests' receivers are on.
    pub(crate) fn notifier(&self, name: &str, more: &[(&'static str, String)]) -> Process {
        let url = self.server.url(&format!("notifier_{}", self.database), &self.database);
        let mut settings = vec![
            ("store.url", url),
            ("webhooks.secret", SECRET.to_owned()),
            ("webhooks.allow", "127.0.0.0/8".to_owned()),
            ("metrics.listen", "127.0.0.1:0".to_owned()),
        ];
        settings.extend_from_slice(more);
        self.start(&format!("notifier-{name}"), settings)
    }

    /// The store as a worker's user, which says what is offered, so that something is accepted.
    pub(crate) async fn worker_store(&self) -> Store {
        let url = self.server.url(&format!("worker_{}", self.database), &self.database);
        let url = DatabaseUrl::parse(&url).expect("an address");
        let config = StoreConfig::at(self.dir.path().join("played"));
        let store = Store::open(StoreConfig { url: Some(url), duty: Duty::Check, ..config });
        let store = store.await.expect("opens");
        store.put_capacity(1, SystemClock.now(), &to_json(&catalogue())).await.expect("is offered");
        store
    }

    pub(crate) async fn call(&self, api: &Process, path: &str, body: Option<&Value>) -> (u16, Value) {
        let url = format!("http://{}{path}", api.address("http://"));
        let token = until("a key", || fs::read_to_string(self.dir.path().join("api/token")).ok()).await;
        let request = match body {
            Some(body) => {
                self.http.post(url).header("content-type", "application/json").body(body.to_string())
            }
            None => self.http.get(url),
        };
        let response = request.bearer_auth(token.trim()).timeout(PATIENCE).send().await.expect("an answer");
        let status = response.status().as_u16();
        let bytes = response.bytes().await.expect("a body");
        (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    /// Submits as soon as something is offered.
    pub(crate) async fn submit(&self, api: &Process, code: &str) -> String {
        self.submit_as(api, &json!({ "code": code })).await
    }

    pub(crate) async fn submit_as(&self, api: &Process, submission: &Value) -> String {
        let began = Instant::now();
        loop {
            let (status, body) = self.call(api, "/v1/evaluations", Some(submission)).await;
            match status {
                201 => return body["id"].as_str().expect("an id").to_owned(),
                503 if began.elapsed() < PATIENCE => tokio::time::sleep(Duration::from_millis(50)).await,
                _ => panic!("{status}: {body}"),
            }
        }
    }

    /// Until an environment of that name is ready somewhere.
    pub(crate) async fn until_offered(&self, api: &Process, environment: &str) {
        let (path, began) = (format!("/v1/environments/{environment}"), Instant::now());
        while self.call(api, &path, None).await.1["state"] != "ready" {
            assert!(began.elapsed() < PATIENCE, "`{environment}` is not offered");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub(crate) async fn wait_for(&self, api: &Process, id: &str, what: impl Fn(&Value) -> bool) -> Value {
        let began = Instant::now();
        loop {
            let (_, seen) = self.call(api, &format!("/v1/evaluations/{id}"), None).await;
            if what(&seen) {
                return seen;
            }
            assert!(began.elapsed() < PATIENCE, "it is not what was waited for: {seen}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn stdout(&self, api: &Process, id: &str) -> String {
        let url = format!("http://{}/v1/evaluations/{id}/stdout", api.address("http://"));
        let token = fs::read_to_string(self.dir.path().join("api/token")).expect("a token");
        let response = self.http.get(url).bearer_auth(token.trim()).send().await.expect("an answer");
        response.text().await.expect("text")
    }
}

pub(crate) async fn until<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(began.elapsed() < PATIENCE, "no {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
