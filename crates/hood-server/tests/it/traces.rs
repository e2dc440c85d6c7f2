//! Black box: the binary beside a real OpenTelemetry collector, which writes down what it was sent.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::roles::site::Site;
use crate::support::shell::Shell;

/// Longer than a collector or a server takes to start on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

const SENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// Stands in the code and in the output; no part of a trace may hold it.
const PRIVATE: &str = "sesame-7f3a";

/// Ends with the test, however that ends.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Collector {
    port: u16,
    written: PathBuf,
    _process: Process,
}

impl Collector {
    fn start(dir: &Path) -> Option<Self> {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools/otelcol");
        if !program.is_file() {
            // Past the harness, which would swallow it.
            let _ = writeln!(
                std::io::stderr(),
                "\nSKIPPED: traces: no collector: scripts/test-services builds it"
            );
            return None;
        }
        let port =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|l| l.local_addr()).expect("a port").port();
        let config = dir.join("collector.yaml");
        let text = format!(
            "receivers:\n  otlp:\n    protocols:\n      http:\n        endpoint: 127.0.0.1:{port}\n\
             exporters:\n  debug:\n    verbosity: detailed\n\
             service:\n  telemetry:\n    metrics:\n      level: none\n  pipelines:\n    traces:\n      \
             receivers: [otlp]\n      exporters: [debug]\n"
        );
        std::fs::write(&config, text).expect("written");
        let written = dir.join("collected.txt");
        let log = std::fs::File::create(&written).expect("a file");
        let process = Command::new(program)
            .arg("--config")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a descriptor"))
            .stderr(log)
            .spawn()
            .expect("the collector starts");
        let collector = Self { port, written, _process: Process(process) };
        until("the collector listens", || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok());
        Some(collector)
    }

    /// Of the first span of that name.
    fn trace_of(&self, name: &str) -> String {
        let mut trace = String::new();
        until("the span arrives", || {
            let mut last = String::new();
            for line in self.text().lines() {
                match line.trim().split_once(':').map(|(key, value)| (key.trim(), value.trim())) {
                    Some(("Trace ID", value)) => last = value.to_owned(),
                    Some(("Name", value)) if value == name && trace.is_empty() => trace.clone_from(&last),
                    _ => {}
                }
            }
            !trace.is_empty()
        });
        trace
    }

    fn text(&self) -> String {
        std::fs::read_to_string(&self.written).unwrap_or_default()
    }

    /// The spans of a trace.
    fn spans(&self, trace: &str) -> Vec<Span> {
        let mut spans = Vec::new();
        let mut fields = BTreeMap::new();
        for line in self.text().lines() {
            let Some((key, value)) = line.trim().split_once(':') else { continue };
            let (key, value) = (key.trim(), value.trim().to_owned());
            if matches!(key, "Trace ID" | "Parent ID" | "ID" | "Name") {
                fields.insert(key.to_owned(), value);
            } else if key == "Kind" && fields.get("Trace ID").is_some_and(|id| id == trace) {
                let take = |key: &str| fields.get(key).cloned().unwrap_or_default();
                spans.push(Span { name: take("Name"), id: take("ID"), parent: take("Parent ID") });
            }
        }
        spans
    }

    /// Waits until the whole trace is there, and looks whose child each span is.
    fn has_the_whole_trace(&self) {
        let request = "POST /v1/evaluations";
        let wanted = [
            (request, ""),
            ("queue", request),
            ("attempt", request),
            ("place", "attempt"),
            ("agent.run", "place"),
        ];
        until("every span arrives", || self.spans(TRACE).len() >= wanted.len());
        let spans = self.spans(TRACE);
        assert_eq!(spans.len(), wanted.len(), "one of each: {spans:?}");
        let find = |name: &str| spans.iter().find(|span| span.name == name);
        for (name, parent) in wanted {
            let span = find(name).unwrap_or_else(|| panic!("{name} is in {spans:?}"));
            let parent = find(parent).map_or("00f067aa0ba902b7", |parent| parent.id.as_str());
            assert_eq!(span.parent, parent, "the parent of {name} in {spans:?}");
        }
        assert!(!self.text().contains(PRIVATE), "code or output in a trace");
    }
}

#[derive(Debug)]
struct Span {
    name: String,
    id: String,
    parent: String,
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}: not in time");
        std::thread::sleep(POLL);
    }
}

/// `fumehood serve` and its address.
fn serve(shell: &Shell, collector: &Collector) -> (Process, String) {
    let mut command = shell.command(&["serve", "--listen", "127.0.0.1:0"]);
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://127.0.0.1:{}", collector.port));
    let mut server = Process(command.stdout(Stdio::piped()).spawn().expect("it starts"));
    let mut said = String::new();
    let mut stdout = BufReader::new(server.0.stdout.take().expect("piped"));
    while !said.contains("http://") {
        said.clear();
        assert!(stdout.read_line(&mut said).expect("readable") > 0, "it ended before it listened");
    }
    let address = said.trim().rsplit_once(' ').expect("its address").1.to_owned();
    (server, address)
}

async fn evaluate(token: &Path, address: &str) -> Value {
    let token = std::fs::read_to_string(token).expect("a token");
    let code = format!("print('{PRIVATE}')");
    let answer = reqwest::Client::new()
        .post(format!("{address}/v1/evaluations?wait=60s"))
        .bearer_auth(token.trim())
        .header("traceparent", SENT)
        .header("content-type", "application/json")
        .body(json!({"code": code}).to_string())
        .send()
        .await
        .expect("an answer");
    serde_json::from_slice(&answer.bytes().await.expect("a body")).expect("JSON")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_trace_spans_every_part_that_an_evaluation_goes_through() {
    let shell = Shell::new();
    let Some(collector) = Collector::start(shell.dir.path()) else { return };
    let (mut server, address) = serve(&shell, &collector);
    let evaluation = evaluate(&shell.path("data").join("token"), &address).await;
    assert_eq!(evaluation["verdict"], "succeeded", "{evaluation}");
    let pid = i32::try_from(server.0.id()).ok().and_then(Pid::from_raw).expect("a pid");
    kill_process(pid, Signal::TERM).expect("it is there");
    assert!(server.0.wait().expect("it ends").success());

    collector.has_the_whole_trace();
    let text = collector.text();
    assert!(text.contains("service.name: Str(fumehood-serve)"));
    assert!(text.contains(evaluation["id"].as_str().expect("an id")));
}

/// Each role exports for itself: what ties them together is what they tell each other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_trace_spans_roles_that_run_apart() {
    let dir = tempfile::tempdir().expect("a directory");
    let Some(collector) = Collector::start(dir.path()) else { return };
    let Some(mut site) = Site::new().await else { return };
    site.everywhere.push(("telemetry.otlp_endpoint", format!("http://127.0.0.1:{}", collector.port)));
    let (api, dispatcher) = (site.api(), site.dispatcher("127.0.0.1:0"));
    let worker = site.worker("w1", &dispatcher.address("https://"));
    let code = format!("print('{PRIVATE}')");
    // Something is offered once this one has run.
    let first = site.submit(&api, &code).await;
    site.wait_for(&api, &first, |seen| !seen["verdict"].is_null()).await;
    let address = format!("http://{}", api.address("http://"));
    let evaluation = evaluate(&site.dir.path().join("api/token"), &address).await;
    assert_eq!(evaluation["verdict"], "succeeded", "{evaluation}");
    for process in [api, worker, dispatcher] {
        assert!(process.stop().success());
    }
    collector.has_the_whole_trace();
    for role in ["api", "worker", "dispatcher"] {
        assert!(collector.text().contains(&format!("service.name: Str(fumehood-{role})")), "{role}");
    }
}

/// Its worker dies and another one listens: the place is one, and so is its program's run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_trace_has_one_run_though_another_worker_hears_its_end() {
    let dir = tempfile::tempdir().expect("a directory");
    let Some(collector) = Collector::start(dir.path()) else { return };
    let Some(mut site) = Site::new().await else { return };
    site.everywhere.push(("telemetry.otlp_endpoint", format!("http://127.0.0.1:{}", collector.port)));
    let (api, dispatcher) = (site.api(), site.dispatcher("127.0.0.1:0"));
    let address = dispatcher.address("https://");
    let first = site.worker("w1", &address);
    let id =
        site.submit(&api, "import time\nfor n in range(60): print(n, flush=True); time.sleep(0.1)").await;
    site.wait_for(&api, &id, |seen| {
        seen["state"] == "running" && seen["stdout"]["preview"].as_str().is_some_and(|text| !text.is_empty())
    })
    .await;
    let second = site.worker("w2", &address);
    first.kill();
    let seen = site.wait_for(&api, &id, |seen| !seen["verdict"].is_null()).await;
    assert_eq!((&seen["verdict"], seen["attempts"].as_array().map(Vec::len)), (&json!("succeeded"), Some(1)));
    for process in [api, second, dispatcher] {
        assert!(process.stop().success());
    }
    let trace = collector.trace_of("agent.run");
    until("the run arrives", || collector.spans(&trace).iter().any(|span| span.name == "agent.run"));
    let spans = collector.spans(&trace);
    for (name, count) in [("place", 1), ("agent.run", 1), ("attempt", 1)] {
        let found = spans.iter().filter(|span| span.name == name).count();
        // The killed worker's own attempt died with it.
        assert_eq!(found, count, "{name} in {spans:?}");
    }
    let id_of = |name: &str| spans.iter().find(|span| span.name == name).map(|span| span.id.clone());
    let run = spans.iter().find(|span| span.name == "agent.run").map(|span| span.parent.clone());
    assert_eq!(run, id_of("place"));
}
