//! Black box: the same ways to end in environments of every kind. One program in Python and one in C
//! know them all by name; what is said of an end must not depend on what it ran in.

use std::io::Write as _;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{MIB, expect};
use crate::images::foreign;
use crate::support::server::{Server, shared_images};

const IN_PYTHON: &str = include_str!("ways.py");
const IN_C: &str = include_str!("ways.c");

/// What runs the ways.
#[derive(Clone, Copy)]
enum Kind {
    /// Source text, run as the environment says: built first or not.
    Code(&'static str),
    /// An image's own entrypoint.
    Entrypoint,
}

struct Way {
    name: &'static str,
    limits: Value,
    verdict: &'static str,
    /// What must stand in the result, by its JSON pointer.
    proves: Vec<(&'static str, Value)>,
    needs_groups: bool,
}

fn way(name: &'static str, limits: Value, verdict: &'static str, proves: &[(&'static str, Value)]) -> Way {
    Way { name, limits, verdict, proves: proves.to_vec(), needs_groups: false }
}

fn ways() -> Vec<Way> {
    let limit = |name: &str, allowed: u64| json!({ "name": name, "allowed": allowed });
    let memory = json!({ "memory_bytes": 64 * MIB, "wall_ms": 60_000 });
    let out_of_memory = [("/evidence/limit", limit("memory_bytes", 64 * MIB))];
    let grouped = |way: Way| Way { needs_groups: true, ..way };
    vec![
        way(
            "succeed",
            json!({}),
            "succeeded",
            &[("/exit_code", json!(0)), ("/stdout/preview", json!("fine\n"))],
        ),
        way("exit", json!({}), "failed", &[("/exit_code", json!(3)), ("/signal", Value::Null)]),
        way("signal", json!({}), "failed", &[("/exit_code", Value::Null), ("/signal", json!(11))]),
        way("sigsys", json!({}), "failed", &[("/signal", json!(31)), ("/evidence/violation", Value::Null)]),
        way(
            "sleep",
            json!({ "wall_ms": 400 }),
            "timed_out",
            &[("/evidence/limit", limit("wall_ms", 400)), ("/signal", json!(15))],
        ),
        way(
            "stubborn",
            json!({ "wall_ms": 400 }),
            "timed_out",
            &[("/evidence/limit", limit("wall_ms", 400)), ("/signal", json!(9))],
        ),
        grouped(way(
            "spin",
            json!({ "cpu_ms": 300 }),
            "timed_out",
            &[("/evidence/limit", limit("cpu_ms", 300)), ("/evidence/kill/cause", json!("cpu_time"))],
        )),
        grouped(way("memory", memory.clone(), "out_of_memory", &out_of_memory)),
        grouped(way("memory of a child", memory, "out_of_memory", &out_of_memory)),
        way(
            "flood",
            json!({ "output_bytes": 1000 }),
            "output_limit",
            &[("/evidence/limit", limit("output_bytes", 1000)), ("/stdout/kept_bytes", json!(1000))],
        ),
        grouped(way("bomb", json!({ "processes": 16, "wall_ms": 700 }), "timed_out", &[])),
        way(
            "disk",
            json!({ "disk_bytes": 8 * MIB, "file_bytes": 64 * MIB }),
            "succeeded",
            &[("/stdout/preview", json!("28\n"))],
        ),
        way("leave", json!({}), "succeeded", &[("/stdout/preview", json!("done\n"))]),
        way("foreign", json!({}), "policy_violation", &[("/stdout/bytes", json!(0))]),
        way("echo", json!({}), "succeeded", &[("/stdout/preview", json!("what was sent"))]),
    ]
}

impl Kind {
    fn submission(self, environment: &str, way: &Way) -> Value {
        let mut submission = json!({
            "environment": environment, "args": [way.name], "limits": way.limits, "on_output_limit": "fail",
            "grace_ms": 200, "stdin": "what was sent",
        });
        if let Self::Code(code) = self {
            submission["code"] = json!(code);
        }
        submission
    }
}

async fn every_way_in(server: &Server, environment: &str, kind: Kind) {
    let has_groups = server.has_groups().await;
    for way in ways().iter().filter(|way| has_groups || !way.needs_groups) {
        let began = Instant::now();
        let ended = server.run(&kind.submission(environment, way)).await;
        let about = format!("{environment}: {}", way.name);
        assert_eq!(ended["verdict"], way.verdict, "{about}: {ended:#}");
        expect(&ended, way.verdict);
        for (pointer, wanted) in &way.proves {
            assert_eq!(ended.pointer(pointer), Some(wanted), "{about}: {pointer} in {ended:#}");
        }
        assert_eq!(ended["environment"]["name"], environment);
        match way.name {
            "memory" | "memory of a child" => {
                assert!(ended["evidence"]["oom_kills"].as_u64() >= Some(1), "{about}")
            }
            "bomb" => assert!(ended["evidence"]["forks_refused"].as_u64() > Some(0), "{about}: {ended:#}"),
            "foreign" => assert!(ended["evidence"]["violation"].is_string(), "{about}: {ended:#}"),
            "leave" => {
                assert!(began.elapsed() < Duration::from_secs(30), "{about}: waited for the grandchild")
            }
            _ => {}
        }
    }
    cancelled(server, environment, kind).await;
    let missing = json!({ "environment": environment, "command": ["no-such-program"] });
    let ended = server.run(&missing).await;
    expect(&ended, "failed");
    assert_eq!((&ended["exit_code"], &ended["evidence"]["decided_by"]), (&json!(127), &json!("exec_error")));
}

async fn cancelled(server: &Server, environment: &str, kind: Kind) {
    let sleeper = way("sleep", json!({ "wall_ms": 60_000 }), "cancelled", &[]);
    let id = server.submit(&kind.submission(environment, &sleeper)).await;
    while server.get(&format!("/v1/evaluations/{id}")).await["state"] != "running" {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let path = format!("/v1/evaluations/{id}/cancel");
    let (status, _) = server.request(reqwest::Method::POST, &path, Some(&json!({}))).await;
    assert_eq!(status, 202);
    let ended = server.end(&id).await;
    expect(&ended, "cancelled");
}

/// What is made of packages needs them once; all tests share the image. False where they cannot be had.
fn is_built(environment: &str) -> bool {
    let data = tempfile::tempdir().expect("a directory");
    let output = Command::new(env!("CARGO_BIN_EXE_fumehood"))
        .args(["env", "build", environment])
        .env("FUMEHOOD_DATA_DIR", data.path())
        .env("FUMEHOOD_ENVIRONMENTS_IMAGES_DIR", shared_images())
        .output()
        .expect("it runs");
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let why = said.trim().lines().last().unwrap_or("no reason was given").to_owned();
        let _ = writeln!(std::io::stderr(), "\nSKIPPED: verdicts-environments: {environment}: {why}");
    }
    output.status.success()
}

#[tokio::test(flavor = "multi_thread")]
async fn minimal() {
    let server = Server::start().await;
    every_way_in(&server, "minimal", Kind::Code(IN_PYTHON)).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn packages_of_data_science() {
    if !is_built("data") {
        return;
    }
    let server = Server::start().await;
    every_way_in(&server, "data", Kind::Code(IN_PYTHON)).await;
    let code = "import numpy, pandas\nprint(pandas.DataFrame({'a': numpy.arange(4)}).a.sum())";
    let ended = server
        .run(&json!({ "environment": "data", "code": code, "limits": { "memory_bytes": 512 * MIB } }))
        .await;
    expect(&ended, "succeeded");
    assert_eq!(ended["stdout"]["preview"], "6\n", "{ended:#}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compiled_program() {
    if !is_built("c") {
        return;
    }
    let server = Server::start().await;
    every_way_in(&server, "c", Kind::Code(IN_C)).await;
    // What the compiler says is kept, and the program that there is not does not run.
    let broken = json!({ "environment": "c", "code": "int main(void) { return missing; }" });
    let ended = server.run(&broken).await;
    expect(&ended, "build_failed");
    assert_eq!((&ended["exit_code"], &ended["build"]["verdict"]), (&json!(1), &json!("failed")));
    let said = String::from_utf8_lossy(&server.bytes(&ended, "build").await).into_owned();
    assert!(said.contains("main.c:1") && said.contains("missing"), "{said}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_from_elsewhere() {
    let images = tempfile::tempdir().expect("a directory");
    let archive = foreign::of_one_program(IN_C, &images.path().join("ways.tar"));
    let output = Command::new(env!("CARGO_BIN_EXE_fumehood"))
        .args(["env", "import", archive.to_str().expect("text"), "--name", "ways"])
        .env("FUMEHOOD_DATA_DIR", images.path().join("data"))
        .env("FUMEHOOD_ENVIRONMENTS_IMAGES_DIR", images.path().join("images"))
        .output()
        .expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let server = Server::with(|config| config.environments.images_dir = images.path().join("images")).await;
    every_way_in(&server, "ways", Kind::Entrypoint).await;
    server.stop().await;
}
