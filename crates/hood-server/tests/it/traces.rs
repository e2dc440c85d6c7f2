//! Black box: the binary beside a real OpenTelemetry collector, which writes down what it was sent.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

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

    fn text(&self) -> String {
        std::fs::read_to_string(&self.written).unwrap_or_default()
    }

    /// The spans of a trace by name: id and parent.
    fn spans(&self, trace: &str) -> BTreeMap<String, (String, String)> {
        let mut spans = BTreeMap::new();
        let mut fields = BTreeMap::new();
        for line in self.text().lines() {
            let Some((key, value)) = line.trim().split_once(':') else { continue };
            let (key, value) = (key.trim(), value.trim().to_owned());
            if matches!(key, "Trace ID" | "Parent ID" | "ID" | "Name") {
                fields.insert(key.to_owned(), value);
            } else if key == "Kind" && fields.get("Trace ID").is_some_and(|id| id == trace) {
                let take = |key: &str| fields.get(key).cloned().unwrap_or_default();
                spans.insert(take("Name"), (take("ID"), take("Parent ID")));
            }
        }
        spans
    }
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

async fn evaluate(shell: &Shell, address: &str) -> Value {
    let token = std::fs::read_to_string(shell.path("data").join("token")).expect("a token");
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
    let evaluation = evaluate(&shell, &address).await;
    assert_eq!(evaluation["verdict"], "succeeded", "{evaluation}");
    let pid = i32::try_from(server.0.id()).ok().and_then(Pid::from_raw).expect("a pid");
    kill_process(pid, Signal::TERM).expect("it is there");
    assert!(server.0.wait().expect("it ends").success());

    let request = "POST /v1/evaluations";
    let wanted = [
        (request, ""),
        ("queue", request),
        ("attempt", request),
        ("place", "attempt"),
        ("agent.run", "place"),
    ];
    until("every span arrives", || collector.spans(TRACE).len() >= wanted.len());
    let spans = collector.spans(TRACE);
    for (name, parent) in wanted {
        let (_, found) = spans.get(name).unwrap_or_else(|| panic!("{name} is in {spans:?}"));
        let parent = if parent.is_empty() { "00f067aa0ba902b7" } else { &spans[parent].0 };
        assert_eq!(found, parent, "the parent of {name} in {spans:?}");
    }
    let text = collector.text();
    assert!(text.contains("service.name: Str(fumehood-serve)"));
    assert!(text.contains(evaluation["id"].as_str().expect("an id")));
    assert!(!text.contains(PRIVATE), "code or output in a trace");
}
