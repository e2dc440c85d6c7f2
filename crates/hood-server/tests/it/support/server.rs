//! The whole role `serve`, real in every part, on a free port over a data directory of its own.

use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use hood_server::config::Config;
use hood_server::roles::serve::{self, Options, Running};
use serde_json::{Value, json};

/// Longer than any evaluation of a test takes on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) struct Server {
    pub(crate) running: Running,
    http: reqwest::Client,
    _dir: Option<tempfile::TempDir>,
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::with(|_| ()).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut server = Self::over(dir.path(), change).await;
        server._dir = Some(dir);
        server
    }

    pub(crate) async fn over(dir: &Path, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::at(&dir.join("data")).expect("the defaults are sound");
        config.server.listen = ([127, 0, 0, 1], 0).into();
        config.environments.images_dir = shared_images();
        change(&mut config);
        let running = serve::start(&config, Options::default()).await.expect("the server starts");
        Self { running, http: reqwest::Client::new(), _dir: None }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.running.address)
    }

    pub(crate) async fn request(
        &self,
        method: reqwest::Method,
        path: &str,
        body: Option<&Value>,
    ) -> (u16, Value) {
        let mut request = self.http.request(method, self.url(path)).bearer_auth(&self.running.token);
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        let response = request.timeout(PATIENCE).send().await.expect("an answer");
        let status = response.status().as_u16();
        let bytes = response.bytes().await.expect("a body");
        (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    pub(crate) async fn submit(&self, submission: &Value) -> String {
        let (status, body) = self.request(reqwest::Method::POST, "/v1/evaluations", Some(submission)).await;
        assert_eq!(status, 201, "{body}");
        body["id"].as_str().expect("an id").to_owned()
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        let (status, body) = self.request(reqwest::Method::GET, path, None).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    /// Waits for the end, however long it takes.
    pub(crate) async fn end(&self, id: &str) -> Value {
        loop {
            let evaluation = self.get(&format!("/v1/evaluations/{id}?wait=30s")).await;
            if !evaluation["verdict"].is_null() {
                return evaluation;
            }
        }
    }

    pub(crate) async fn run(&self, submission: &Value) -> Value {
        let id = self.submit(submission).await;
        self.end(&id).await
    }

    pub(crate) async fn python(&self, code: &str) -> Value {
        self.run(&json!({ "code": code })).await
    }

    /// Whether programs are in groups that hold and count what they use; says it where they are not
    /// and a test therefore does not run.
    pub(crate) async fn has_groups(&self) -> bool {
        let ended = self.python("").await;
        let lacking = ended["evidence"]["degraded"].as_array().is_some_and(|layers| !layers.is_empty());
        if lacking {
            let why = "no group holds this user's programs: run as root or in a delegated cgroup";
            let _ = writeln!(std::io::stderr(), "\nSKIPPED: verdicts: {why}");
        }
        !lacking
    }

    /// The exact bytes of a stream.
    pub(crate) async fn bytes(&self, evaluation: &Value, stream: &str) -> Vec<u8> {
        let id = evaluation["id"].as_str().expect("an id");
        let request = self.http.get(self.url(&format!("/v1/evaluations/{id}/{stream}")));
        let response = request.bearer_auth(&self.running.token).send().await.expect("an answer");
        assert_eq!(response.status(), 200);
        response.bytes().await.expect("the bytes").to_vec()
    }

    pub(crate) async fn stop(self) {
        self.running.shutdown().await.expect("stops cleanly");
    }
}

/// Images are addressed by content and never change: all tests of a run share one copy.
pub(crate) fn shared_images() -> std::path::PathBuf {
    std::env::temp_dir().join(format!("fumehood-test-images-{}", rustix::process::geteuid().as_raw()))
}
