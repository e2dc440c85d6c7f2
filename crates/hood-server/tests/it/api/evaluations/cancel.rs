//! Grey box: the API from outside, the worker's side through the store.

use hood_core::Verdict;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::answer::Answer;
use crate::support::app::TestApp;

#[tokio::test]
async fn a_queued_one_ends_at_once_and_cancelling_is_idempotent() {
    let app = TestApp::start().await;
    let id = app.submit(&json!({"code": ""})).await;
    let path = format!("/v1/evaluations/{id}/cancel");
    // No body at all.
    let first = Answer::of(app.request(Method::POST, &path)).await.expect(202).json();
    assert_eq!((&first["state"], &first["verdict"]), (&json!("cancelled"), &json!("cancelled")));
    assert_eq!(first["evidence"]["decided_by"], "cancelled_in_queue");
    assert_eq!((&first["limits"]["wall_ms"], &first["stdout"]["complete"]), (&json!(30_000), &json!(true)));
    assert_eq!((&first["exit_code"], &first["signal"]), (&Value::Null, &Value::Null));
    let again = app.post(&path, &json!({"grace_ms": 1})).await.expect(202).json();
    assert_eq!(again, first);
}

#[tokio::test]
async fn a_live_one_is_asked_to_end_and_a_finished_one_stays_as_it_is() {
    let app = TestApp::start().await;
    let id = app.submit(&json!({"code": ""})).await;
    let path = format!("/v1/evaluations/{id}/cancel");
    let mut attempt = app.worker().claim().await;
    let body = app.post(&path, &json!({})).await.expect(202).json();
    assert_eq!((&body["state"], &body["cancel_requested"]), (&json!("provisioning"), &json!(true)));
    attempt.start().await;
    let body = app.post(&path, &json!({"grace_ms": 0})).await.expect(202).json();
    assert_eq!((&body["state"], &body["cancel_requested"]), (&json!("running"), &json!(true)));
    // The program was faster than the cancel.
    attempt.finish(Verdict::Succeeded, Some(0)).await;
    let body = app.post(&path, &json!({"grace_ms": 5})).await.expect(202).json();
    assert_eq!((&body["state"], &body["verdict"]), (&json!("succeeded"), &json!("succeeded")));
}

#[tokio::test]
async fn wrong_bodies_are_refused_and_cancel_nothing() {
    let app = TestApp::start().await;
    let id = app.submit(&json!({"code": ""})).await;
    let path = format!("/v1/evaluations/{id}/cancel");
    assert_eq!(app.post(&path, &json!({"grace": 1})).await.wrong_paths(422, "invalid_fields"), ["grace"]);
    assert_eq!(
        app.post(&path, &json!({"grace_ms": 60_001})).await.wrong_paths(422, "invalid_fields"),
        ["grace_ms"]
    );
    let send = async |kind: &str, body: String| {
        Answer::of(app.request(Method::POST, &path).header("content-type", kind).body(body)).await
    };
    send("text/plain", "{}".to_owned()).await.problem(415, "unsupported_media_type");
    send("application/json", "{".to_owned()).await.problem(400, "malformed_json");
    send("application/json", " ".repeat(5000)).await.problem(413, "body_too_large");
    assert_eq!(app.get(&format!("/v1/evaluations/{id}")).await.json()["state"], "queued");
    app.post(&path, &json!({"grace_ms": 60_000})).await.expect(202);
}
