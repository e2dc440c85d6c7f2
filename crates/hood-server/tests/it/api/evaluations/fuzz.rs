//! Black box: whatever is sent, the answer is a problem or an evaluation, never a fault of ours.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::answer::Answer;
use crate::support::app::TestApp;

const CASES: u32 = 300;

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,20}".prop_map(Value::from),
        prop::sample::select(vec!["", "a", "../x", "AAA=", "none", "low", "minimal", "\0"])
            .prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(field(), inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Names that mean something, mostly.
fn field() -> impl Strategy<Value = String> {
    let known = [
        "code",
        "files",
        "command",
        "args",
        "stdin",
        "stdin_base64",
        "env",
        "environment",
        "limits",
        "network",
        "priority",
        "labels",
        "risk_level",
        "grace_ms",
        "on_output_limit",
        "path",
        "content",
        "content_base64",
        "executable",
        "wall_ms",
        "memory_bytes",
        "evaluations",
    ];
    prop_oneof![9 => prop::sample::select(known.to_vec()).prop_map(str::to_owned), 1 => ".{0,8}"]
}

/// An object of a submission's fields, each sound or not.
fn submission() -> impl Strategy<Value = Value> {
    prop::collection::btree_map(field(), any_json(), 0..8)
        .prop_map(|map| Value::Object(map.into_iter().collect()))
}

fn sound(answer: &Answer) {
    assert!(answer.status < 500, "{} {}", answer.status, String::from_utf8_lossy(&answer.body));
    let body = answer.json();
    assert!(body["id"].is_string() || body["code"].is_string(), "{body}");
}

#[test]
fn no_body_is_a_fault_of_ours() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let app = runtime.block_on(TestApp::start());
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::with_cases(CASES) });
    let strategy = (submission(), any_json(), prop::collection::vec(any::<u8>(), 0..200));
    let outcome = runner.run(&strategy, |(submission, other, bytes)| {
        runtime.block_on(async {
            sound(&app.post("/v1/evaluations", &submission).await);
            sound(&app.post("/v1/batches", &json!({"evaluations": [submission]})).await);
            sound(&app.post("/v1/batches", &other).await);
            for path in ["/v1/evaluations", "/v1/evaluations/ev_00000000000000000000000000000000/cancel"] {
                let request = app.request(Method::POST, path).header("content-type", "application/json");
                sound(&Answer::of(request.body(bytes.clone())).await);
            }
        });
        Ok(())
    });
    outcome.expect("no counterexample");
}

#[test]
fn no_query_or_header_is_a_fault_of_ours() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let app = runtime.block_on(TestApp::start());
    let id = runtime.block_on(app.submit(&json!({"code": ""})));
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::with_cases(CASES) });
    let name = prop::sample::select(vec![
        "state", "label", "since", "batch", "cursor", "limit", "attempt", "offset", "x",
    ]);
    let pairs = prop::collection::vec((name, "[ -~]{0,12}"), 0..4);
    let outcome = runner.run(&(pairs, "[!-~]{0,20}"), |(pairs, header)| {
        runtime.block_on(async {
            for path in [
                "/v1/evaluations".to_owned(),
                format!("/v1/evaluations/{id}/stdout"),
                format!("/v1/evaluations/{id}/events"),
            ] {
                let request = app.request(Method::GET, &path).query(&pairs);
                let answer = Answer::of(request.header("range", &header).header("accept", &header)).await;
                assert!(answer.status < 500, "{}", String::from_utf8_lossy(&answer.body));
            }
        });
        Ok(())
    });
    outcome.expect("no counterexample");
}
