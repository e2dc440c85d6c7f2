//! Black box: API, workers and a dispatcher as processes on a PostgreSQL, and what becomes of an
//! evaluation when one of them dies or freezes.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use hood_server::tls::Role;
use rustix::process::Signal;
use serde_json::{Value, json};

use super::process::{Process, tls};
use super::tls::Authority;

const PATIENCE: Duration = Duration::from_secs(120);

/// Long enough for a loaded machine, short enough to be waited for.
const LEASE_MS: u64 = 2000;

/// An installation: a database, an authority and a directory.
struct Site {
    server: &'static hood_testkit::Postgres,
    owner_url: String,
    database: String,
    authority: Authority,
    dir: tempfile::TempDir,
    http: reqwest::Client,
}

impl Site {
    /// `None`, said aloud, where there is no PostgreSQL.
    async fn new() -> Option<Self> {
        let site = Self::without_schema().await?;
        site.migrate();
        Some(site)
    }

    /// Each role has a database user of its own, who is in no group and has no right yet.
    async fn without_schema() -> Option<Self> {
        if let Some(why) = hood_testkit::missing() {
            let _ = writeln!(std::io::stderr(), "\nSKIPPED: roles: {why}");
            return None;
        }
        let server = hood_testkit::postgres().await;
        let owner_url = server.fresh_database().await;
        let database = owner_url.rsplit('/').next().expect("a name").to_owned();
        for role in ["api", "worker"] {
            server.sql(&database, &format!("CREATE ROLE {role}_{database} LOGIN")).expect("a user");
        }
        let (authority, dir) = (Authority::new(), tempfile::tempdir().expect("a directory"));
        Some(Self { server, owner_url, database, authority, dir, http: reqwest::Client::new() })
    }

    /// What the owner does: the schema, and each user into its group.
    fn migrate(&self) {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_fumehood"));
        let output = command
            .args(["migrate", "--data-dir"])
            .arg(self.dir.path().join("api"))
            .env("FUMEHOOD_STORE_URL", &self.owner_url)
            .output();
        let output = output.expect("it runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        for role in ["api", "worker"] {
            let grant = format!("GRANT fumehood_{role} TO {role}_{}", self.database);
            self.server.sql(&self.database, &grant).expect("a member");
        }
    }

    fn shared(&self, role: &str) -> Vec<(&'static str, String)> {
        let blobs = self.dir.path().join("blobs");
        vec![
            ("store.url", self.server.url(&format!("{role}_{}", self.database), &self.database)),
            ("blobs.dir", blobs.to_string_lossy().into_owned()),
            ("worker.lease_ttl_ms", LEASE_MS.to_string()),
        ]
    }

    fn dispatcher(&self, listen: &str) -> Process {
        let mut settings = tls(&self.authority.files(Role::Dispatcher, "d1"));
        settings.push(("dispatcher.listen", listen.to_owned()));
        settings.push(("worker.places", "4".to_owned()));
        Process::start("dispatcher", self.dir.path(), &settings)
    }

    fn worker(&self, name: &str, dispatcher: &str) -> Process {
        let mut settings = self.shared("worker");
        settings.extend(tls(&self.authority.files(Role::Worker, name)));
        settings.push(("worker.dispatchers", format!("https://{dispatcher}")));
        settings.push(("worker.places", "4".to_owned()));
        settings.push(("metrics.listen", "127.0.0.1:0".to_owned()));
        Process::start(&format!("worker-{name}"), self.dir.path(), &settings)
    }

    fn api(&self) -> Process {
        let mut settings = self.shared("api");
        settings.push(("server.listen", "127.0.0.1:0".to_owned()));
        Process::start("api", self.dir.path(), &settings)
    }

    async fn call(&self, api: &Process, path: &str, body: Option<&Value>) -> (u16, Value) {
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
    async fn submit(&self, api: &Process, code: &str) -> String {
        let began = Instant::now();
        loop {
            let (status, body) = self.call(api, "/v1/evaluations", Some(&json!({ "code": code }))).await;
            match status {
                201 => return body["id"].as_str().expect("an id").to_owned(),
                503 if began.elapsed() < PATIENCE => tokio::time::sleep(Duration::from_millis(50)).await,
                _ => panic!("{status}: {body}"),
            }
        }
    }

    async fn wait_for(&self, api: &Process, id: &str, what: impl Fn(&Value) -> bool) -> Value {
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

    async fn stdout(&self, api: &Process, id: &str) -> String {
        let url = format!("http://{}/v1/evaluations/{id}/stdout", api.address("http://"));
        let token = fs::read_to_string(self.dir.path().join("api/token")).expect("a token");
        let response = self.http.get(url).bearer_auth(token.trim()).send().await.expect("an answer");
        response.text().await.expect("text")
    }
}

async fn until<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(began.elapsed() < PATIENCE, "no {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Prints who it is, so that two runs would show, and counts on for as long as a lease lasts.
const COUNTS: &str = "import os, time
print(os.urandom(8).hex(), flush=True)
for n in range(80): print(n, flush=True); time.sleep(0.1)";

/// One run's output, whole.
fn is_one_run(stdout: &str) -> bool {
    let Some((who, counted)) = stdout.split_once('\n') else { return false };
    let wanted: String = (0..80).map(|n| format!("{n}\n")).collect();
    who.len() == 16 && counted == wanted
}

/// Verdict, and how many attempts it took.
fn outcome(seen: &Value) -> (&str, usize) {
    (seen["verdict"].as_str().unwrap_or_default(), seen["attempts"].as_array().map_or(0, Vec::len))
}

/// Its program has run for a while, and something of it is written down.
fn has_output(seen: &Value) -> bool {
    seen["state"] == "running" && seen["stdout"]["preview"].as_str().is_some_and(|text| text.len() > 20)
}

fn ended(seen: &Value) -> bool {
    !seen["verdict"].is_null()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_killed_or_freezes_is_taken_over_within_the_same_attempt() {
    let Some(site) = Site::new().await else { return };
    // In the worst order: nothing that a role needs is there when it starts.
    let api = site.api();
    let dispatcher = site.dispatcher("127.0.0.1:0");
    let address = dispatcher.address("https://");
    let first = site.worker("w1", &address);
    let killed = site.submit(&api, COUNTS).await;
    site.wait_for(&api, &killed, has_output).await;
    let second = site.worker("w2", &address);
    first.kill();
    let seen = site.wait_for(&api, &killed, ended).await;
    assert_eq!(outcome(&seen), ("succeeded", 1), "{seen}");
    let stdout = site.stdout(&api, &killed).await;
    assert!(is_one_run(&stdout), "{stdout}");

    let frozen = site.submit(&api, COUNTS).await;
    site.wait_for(&api, &frozen, has_output).await;
    let third = site.worker("w3", &address);
    second.signal(Signal::STOP);
    let seen = site.wait_for(&api, &frozen, ended).await;
    second.signal(Signal::CONT);
    assert_eq!(outcome(&seen), ("succeeded", 1), "{seen}");
    let stdout = site.stdout(&api, &frozen).await;
    assert!(is_one_run(&stdout), "{stdout}");
    // The one that thawed finds that it holds nothing, and works on.
    let after = site.submit(&api, "print('after')").await;
    site.wait_for(&api, &after, ended).await;
    for process in [second, third, api, dispatcher] {
        let log = process.log.clone();
        assert!(process.stop().success(), "{}", fs::read_to_string(log).unwrap_or_default());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_whose_dispatcher_was_killed_is_tried_again_and_nothing_is_refused_meanwhile() {
    let Some(site) = Site::new().await else { return };
    let (api, dispatcher) = (site.api(), site.dispatcher("127.0.0.1:0"));
    let address = dispatcher.address("https://");
    let worker = site.worker("w1", &address);
    let id = site.submit(&api, COUNTS).await;
    site.wait_for(&api, &id, has_output).await;
    dispatcher.kill();
    let side = worker.address("http://");
    let ready = |status| {
        let url = format!("http://{side}/readyz");
        async move {
            let began = Instant::now();
            loop {
                let answer = reqwest::get(&url).await.expect("an answer");
                let (found, text) = (answer.status().as_u16(), answer.text().await.expect("text"));
                if found == status {
                    return text;
                }
                assert!(began.elapsed() < PATIENCE, "{found}: {text}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    };
    assert!(ready(503).await.contains("has not answered"));
    // What is submitted meanwhile waits; it is not refused for an outage.
    let waiting = site.submit(&api, "print('waited')").await;
    let successor = site.dispatcher(&address);
    ready(200).await;
    let seen = site.wait_for(&api, &id, ended).await;
    assert_eq!(outcome(&seen), ("succeeded", 2), "{seen}");
    let stdout = site.stdout(&api, &id).await;
    assert!(is_one_run(&stdout), "{stdout}");
    let seen = site.wait_for(&api, &waiting, ended).await;
    assert_eq!(seen["verdict"], "succeeded", "{seen}");
    let said = worker.said();
    let times = said.matches("a dispatcher does not answer").count();
    assert_eq!(times, 1, "said once, not a thousand times:\n{said}");
    drop((successor, worker, api));
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_wait_until_the_owner_has_migrated_and_change_no_schema_themselves() {
    let Some(site) = Site::without_schema().await else { return };
    let dispatcher = site.dispatcher("127.0.0.1:0");
    let (api, worker) = (site.api(), site.worker("w1", &dispatcher.address("https://")));
    for process in [&api, &worker] {
        let url = format!("http://{}/readyz", process.address("http://"));
        let answer = reqwest::get(url).await.expect("an answer");
        assert_eq!(answer.status().as_u16(), 503);
        let said = answer.text().await.expect("text");
        assert!(said.contains("fumehood migrate"), "{said}");
    }
    let tables = "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'public'";
    assert_eq!(site.server.sql(&site.database, tables).expect("counts").trim(), "0");
    site.migrate();
    let id = site.submit(&api, "print('at last')").await;
    let seen = site.wait_for(&api, &id, ended).await;
    assert_eq!(outcome(&seen), ("succeeded", 1), "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_runs_apart_refuses_what_it_could_not_share() {
    let dir = tempfile::tempdir().expect("a directory");
    let refused = |role: &str, settings: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_fumehood"));
        command.arg(role).arg("--data-dir").arg(dir.path().join(role));
        for setting in settings {
            command.args(["--set", setting]);
        }
        let output = command.output().expect("it runs");
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let url = "store.url=postgres://nobody@127.0.0.1:1/nothing";
    assert!(refused("api", &[]).contains("store.url"));
    assert!(refused("api", &[url]).contains("blobs.url"));
    for role in ["worker", "dispatcher"] {
        assert!(refused(role, &[url]).contains("tls.cert"), "{role}");
    }
    let authority = Authority::new();
    let files = authority.files(Role::Api, "a");
    let named = |key: &str, path: &Path| format!("{key}={}", path.display());
    let (cert, key, ca) =
        (named("tls.cert", &files.cert), named("tls.key", &files.key), named("tls.ca", &files.ca));
    let said = refused("dispatcher", &[&cert, &key, &ca]);
    assert!(said.contains("role/api/a") && said.contains("this is a dispatcher"), "{said}");
}
