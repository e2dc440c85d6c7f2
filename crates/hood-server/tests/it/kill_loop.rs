//! Black box: `fumehood serve` as a process, killed with SIGKILL over and over while it works. After
//! each death a successor takes over; at the end the whole history is read.

use std::collections::HashMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Kills, and evaluations submitted between them. `FUMEHOOD_KILLS` makes it longer.
const KILLS: u32 = 12;
const BATCH: usize = 40;

/// As short as a lease may be.
const LEASE_MS: &str = "1000";

/// How long a start, or the drain at the end, may take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(180);

struct Victim {
    process: Child,
    url: String,
    token: String,
    http: reqwest::Client,
}

impl Victim {
    async fn start(home: &Home) -> Self {
        let Home { data, images, database, .. } = home;
        let log =
            fs::File::options().create(true).append(true).open(data.with_extension("log")).expect("a log");
        let mut process = Command::new(env!("CARGO_BIN_EXE_fumehood"))
            .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(data)
            .env("FUMEHOOD_ENVIRONMENTS_IMAGES_DIR", images)
            .env("FUMEHOOD_STORE_URL", database)
            // On a database that others may use a lease is taken over once it lapses, not before.
            .env("FUMEHOOD_WORKER_LEASE_TTL_MS", LEASE_MS)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a descriptor"))
            .stderr(log)
            .spawn()
            .expect("the server starts");
        let deadline = Instant::now() + PATIENCE;
        let address = loop {
            if let Ok(text) = fs::read_to_string(data.join("server.json"))
                && let Ok(endpoint) = serde_json::from_str::<Value>(&text)
                && endpoint["pid"] == process.id()
            {
                break endpoint["address"].as_str().expect("an address").to_owned();
            }
            if let Some(status) = process.try_wait().expect("waits") {
                panic!(
                    "the server ended: {status}\n{}",
                    fs::read_to_string(data.with_extension("log")).unwrap_or_default()
                );
            }
            assert!(Instant::now() < deadline, "the server does not answer");
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        let token = fs::read_to_string(data.join("token")).expect("a token").trim().to_owned();
        Self { process, url: format!("http://{address}"), token, http: reqwest::Client::new() }
    }

    /// `None` where the server died before it answered.
    async fn call(&self, method: reqwest::Method, path: &str, body: Option<&Value>) -> Option<(u16, Value)> {
        let mut request = self.http.request(method, format!("{}{path}", self.url)).bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        let response = request.timeout(PATIENCE).send().await.ok()?;
        let status = response.status().as_u16();
        Some((status, serde_json::from_slice(&response.bytes().await.ok()?).unwrap_or(Value::Null)))
    }

    async fn get(&self, path: &str) -> Value {
        let (status, body) = self.call(reqwest::Method::GET, path, None).await.expect("the server lives");
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    fn kill(mut self) {
        self.process.kill().expect("SIGKILL");
        self.process.wait().expect("dies");
    }
}

/// First processes of the places on record: pid and start time.
fn recorded(data: &Path) -> Vec<(u32, u64)> {
    let Ok(records) = fs::read_dir(data.join("sandbox/places")) else { return Vec::new() };
    let texts = records.filter_map(|record| fs::read_to_string(record.ok()?.path()).ok());
    texts
        .filter_map(|text| {
            let line = text.lines().find_map(|line| line.strip_prefix("process ")).map(str::to_owned)?;
            let (pid, start) = line.split_once(' ')?;
            Some((pid.parse().ok()?, start.parse().ok()?))
        })
        .collect()
}

fn is_alive((pid, start): (u32, u64)) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let zombie = fields.first() == Some(&"Z");
    !zombie && fields.get(19).and_then(|field| field.parse().ok()) == Some(start)
}

fn work(round: u32) -> Value {
    let evaluations: Vec<Value> = (0..BATCH)
        .map(|i| {
            let code = match i % 4 {
                0 => format!("print('{round}-{i}')"),
                1 => format!(
                    "import time\nfor n in range(5): print('{round}-{i}', n, flush=True); time.sleep(0.02)"
                ),
                2 => format!("import sys\nsys.stdout.write('{round}-{i} ' * 5000)"),
                _ => format!("print('{round}-{i}')\nraise SystemExit(3)"),
            };
            json!({ "code": code, "labels": { "kind": (i % 4).to_string(), "tag": format!("{round}-{i}") } })
        })
        .collect();
    json!({ "evaluations": evaluations })
}

fn expected(kind: &str, tag: &str) -> String {
    match kind {
        "1" => (0..5).map(|n| format!("{tag} {n}\n")).collect(),
        "2" => format!("{tag} ").repeat(5000),
        _ => format!("{tag}\n"),
    }
}

/// What outlives each server.
struct Home {
    data: PathBuf,
    images: PathBuf,
    /// Empty for SQLite.
    database: String,
    _dir: tempfile::TempDir,
}

impl Home {
    fn new(database: String) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let user = rustix::process::geteuid().as_raw();
        let images = std::env::temp_dir().join(format!("fumehood-test-images-{user}"));
        Self { data: dir.path().join("data"), images, database, _dir: dir }
    }

    /// `None` where there is no PostgreSQL, which is said.
    async fn on_postgres() -> Option<Self> {
        if let Some(why) = hood_testkit::missing() {
            let _ = writeln!(std::io::stderr(), "\nSKIPPED: postgres: {why}");
            return None;
        }
        Some(Self::new(hood_testkit::postgres().await.fresh_database().await))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_accepted_is_lost_and_nothing_ends_twice() {
    survive(&Home::new(String::new())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_accepted_is_lost_on_postgres_and_nothing_ends_twice() {
    if let Some(home) = Home::on_postgres().await {
        survive(&home).await;
    }
}

async fn survive(home: &Home) {
    let kills = std::env::var("FUMEHOOD_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(KILLS);
    let mut accepted = Vec::new();
    let mut server = Victim::start(home).await;
    for round in 0..kills {
        let answer = server.call(reqwest::Method::POST, "/v1/batches", Some(&work(round))).await;
        let (status, body) = answer.expect("the server lives");
        assert_eq!(status, 201, "{body}");
        accepted.extend(
            body["evaluations"]
                .as_array()
                .expect("ids")
                .iter()
                .map(|id| id.as_str().expect("text").to_owned()),
        );
        // Death comes at another moment each time: in the middle of the batch, of a claim, of a run.
        tokio::time::sleep(Duration::from_millis(u64::from(30 + (round * 97) % 400))).await;
        server.kill();
        let left = recorded(&home.data);
        server = Victim::start(home).await;
        let alive: Vec<_> = left.into_iter().filter(|place| is_alive(*place)).collect();
        assert!(alive.is_empty(), "the successor answers while places of its predecessor live: {alive:?}");
    }
    let tally = drain(&server, &accepted).await;
    eprintln!("kill loop: {} evaluations, {kills} kills, verdicts {tally:?}", accepted.len());
    assert!(tally.get("succeeded").is_some_and(|n| *n > accepted.len() / 2), "{tally:?}");
    server.kill();
}

/// Waits for every end, then reads each history.
async fn drain(server: &Victim, accepted: &[String]) -> HashMap<String, usize> {
    let deadline = Instant::now() + PATIENCE;
    let mut tally = HashMap::new();
    for id in accepted {
        let ended = loop {
            let evaluation = server.get(&format!("/v1/evaluations/{id}?wait=30s")).await;
            if !evaluation["verdict"].is_null() {
                break evaluation;
            }
            assert!(Instant::now() < deadline, "never ended: {evaluation:#}");
        };
        check(server, &ended).await;
        *tally.entry(ended["verdict"].as_str().expect("text").to_owned()).or_default() += 1;
    }
    tally
}

async fn check(server: &Victim, ended: &Value) {
    let id = ended["id"].as_str().expect("an id");
    let events = server.get(&format!("/v1/evaluations/{id}/events")).await;
    let events = events["items"].as_array().expect("items");
    let count = |kind: &str| events.iter().filter(|event| event["type"] == kind).count();
    for (i, event) in events.iter().enumerate() {
        assert_eq!(event["number"], i as u64 + 1, "a gap: {events:#?}");
    }
    assert_eq!((count("submitted"), count("finished")), (1, 1), "{events:#?}");
    assert_eq!(events.last().expect("not empty")["type"], "finished");
    assert!(count("started") <= 2, "a program was started more than twice: {events:#?}");
    assert_eq!(count("attempt_started"), count("retry_scheduled") + 1, "{events:#?}");
    let (kind, tag) =
        (ended["labels"]["kind"].as_str().expect("text"), ended["labels"]["tag"].as_str().expect("text"));
    match ended["verdict"].as_str() {
        Some("succeeded") if kind != "3" => {}
        Some("failed") if kind == "3" && ended["exit_code"] == 3 => {}
        // Killed in the middle of both of its runs: it may be why, and is not tried a third time.
        Some("infrastructure_error") => {
            assert_eq!((count("started"), &ended["evidence"]["suspect"]), (2, &json!(true)), "{ended:#}");
            return;
        }
        other => panic!("{other:?}: {ended:#}"),
    }
    let stdout =
        server.http.get(format!("{}/v1/evaluations/{id}/stdout", server.url)).bearer_auth(&server.token);
    let bytes = stdout.send().await.expect("an answer").bytes().await.expect("bytes");
    assert_eq!(String::from_utf8_lossy(&bytes), expected(kind, tag));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_whose_server_dies_each_time_is_started_twice_at_most() {
    let home = Home::new(String::new());
    let mut server = Victim::start(&home).await;
    let sleeper = json!({ "code": "import time\nprint('up', flush=True)\ntime.sleep(100)" });
    let (status, body) =
        server.call(reqwest::Method::POST, "/v1/evaluations", Some(&sleeper)).await.expect("lives");
    assert_eq!(status, 201, "{body}");
    let id = body["id"].as_str().expect("an id").to_owned();
    let mut kills = 0;
    let ended = loop {
        let evaluation = server.get(&format!("/v1/evaluations/{id}")).await;
        if !evaluation["verdict"].is_null() {
            break evaluation;
        }
        if evaluation["state"] == "running" {
            server.kill();
            kills += 1;
            assert!(kills <= 2, "started a third time");
            server = Victim::start(&home).await;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert_eq!(kills, 2);
    assert_eq!(ended["verdict"], "infrastructure_error", "{ended:#}");
    assert_eq!(
        (&ended["evidence"]["suspect"], &ended["evidence"]["lost"]["kind"]),
        (&json!(true), &json!("suspect"))
    );
    assert_eq!(ended["attempts"].as_array().map(Vec::len), Some(2));
    server.kill();
}
