//! Grey box: the API from outside, the worker's side through the store.

use hood_core::Verdict;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::answer::Answer;
use crate::support::app::TestApp;

fn batch(count: usize) -> Value {
    json!({"evaluations": (0..count).map(|i| json!({"code": format!("{i}")})).collect::<Vec<_>>()})
}

#[tokio::test]
async fn a_batch_is_accepted_whole_and_counted_by_state() {
    let app = TestApp::start().await;
    let answer = app.post("/v1/batches", &batch(3)).await.expect(201);
    let created = answer.json();
    let id = created["id"].as_str().expect("an id");
    assert!(id.starts_with("ba_") && created["evaluations"].as_array().expect("a list").len() == 3);
    assert_eq!(answer.header("location"), format!("/v1/batches/{id}"));
    let mut attempt = app.worker().claim().await;
    attempt.start().await;
    attempt.finish(Verdict::Failed, Some(1)).await;
    let state = app.get(&format!("/v1/batches/{id}")).await.expect(200).json();
    let counts =
        json!({"queued": 2, "provisioning": 0, "running": 0, "succeeded": 0, "failed": 1, "cancelled": 0});
    assert_eq!((&state["counts"], &state["total"], &state["done"]), (&counts, &json!(3), &json!(false)));
    let evaluations = created["evaluations"].as_array().expect("a list");
    for (i, evaluation) in evaluations.iter().enumerate() {
        let path = format!("/v1/evaluations/{}", evaluation.as_str().expect("an id"));
        assert_eq!(app.get(&path).await.json()["batch"], id, "{i}");
        app.post(&format!("{path}/cancel"), &json!({})).await.expect(202);
    }
    let state = app.get(&format!("/v1/batches/{id}")).await.json();
    assert_eq!((&state["done"], &state["counts"]["cancelled"]), (&json!(true), &json!(2)));
    app.submit(&json!({"code": "apart"})).await;
    let listed = app.get(&format!("/v1/evaluations?batch={id}")).await.json();
    assert_eq!(listed["items"].as_array().expect("a list").len(), 3);
    let mut newest_first = evaluations.clone();
    newest_first.reverse();
    let ids: Vec<&Value> =
        listed["items"].as_array().expect("a list").iter().map(|item| &item["id"]).collect();
    assert_eq!(ids, newest_first.iter().collect::<Vec<_>>(), "a batch keeps its order");
}

#[tokio::test]
async fn one_wrong_evaluation_refuses_all() {
    let app = TestApp::with(|settings| settings.limits.submission.batch_max = 3).await;
    let wrong =
        json!({"evaluations": [{"code": ""}, {"priority": 10}, {"code": "", "limits": {"wall_ms": 0}}]});
    let mut paths = app.post("/v1/batches", &wrong).await.wrong_paths(422, "invalid_fields");
    paths.sort();
    assert_eq!(paths, ["evaluations[1].code", "evaluations[1].priority", "evaluations[2].limits.wall_ms"]);
    let unknown = json!({"evaluations": [{"code": ""}, {"cod": ""}]});
    assert_eq!(
        app.post("/v1/batches", &unknown).await.wrong_paths(422, "invalid_fields"),
        ["evaluations[1].cod"]
    );
    let large =
        json!({"evaluations": [{"code": ""}, {"code": "", "limits": {"memory_bytes": 4096_u64 << 20}}]});
    assert_eq!(app.post("/v1/batches", &large).await.wrong_paths(422, "refused"), ["evaluations[1]"]);
    assert_eq!(app.get("/v1/evaluations").await.json()["items"], json!([]));
    for count in [0, 4] {
        let paths = app.post("/v1/batches", &batch(count)).await.wrong_paths(422, "invalid_fields");
        assert_eq!(paths, ["evaluations"], "{count}");
    }
    app.post("/v1/batches", &batch(3)).await.expect(201);
    app.post("/v1/batches?wait=1s", &batch(1)).await.problem(400, "invalid_parameter");
}

#[tokio::test]
async fn a_batch_that_the_queue_cannot_hold_is_refused_whole() {
    let app = TestApp::with(|settings| settings.store.queue_max = 2).await;
    app.post("/v1/batches", &batch(3)).await.problem(503, "queue_full");
    assert_eq!(app.get("/v1/queue").await.json()["states"]["queued"], 0);
    app.post("/v1/batches", &batch(2)).await.expect(201);
}

#[tokio::test]
async fn a_batch_is_safe_to_send_again() {
    let app = TestApp::start().await;
    let send = async |path: &str, body: Value| {
        Answer::of(app.request(Method::POST, path).header("Idempotency-Key", "b1").json(&body)).await
    };
    let first = send("/v1/batches", batch(2)).await.expect(201).json();
    assert_eq!(send("/v1/batches", batch(2)).await.expect(200).json(), first);
    send("/v1/batches", batch(1)).await.problem(409, "idempotency_conflict");
    send("/v1/evaluations", json!({"code": "0"})).await.problem(409, "idempotency_conflict");
}

#[tokio::test]
async fn an_unknown_batch_is_not_found() {
    let app = TestApp::start().await;
    for id in ["ba_00000000000000000000000000000000", "ev_00000000000000000000000000000000", "x"] {
        app.get(&format!("/v1/batches/{id}")).await.problem(404, "batch_not_found");
    }
}
