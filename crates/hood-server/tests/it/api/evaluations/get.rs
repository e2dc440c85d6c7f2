//! Grey box: the API from outside, the worker's side through the store.

use std::time::{Duration, Instant};

use hood_core::Verdict;
use hood_core::outcome::Stream;
use serde_json::{Value, json};

use crate::support::app::TestApp;

#[tokio::test]
async fn the_resource_tells_each_stage() {
    let app = TestApp::start().await;
    let id = app.submit(&json!({"code": ""})).await;
    let path = format!("/v1/evaluations/{id}");
    let mut attempt = app.worker().claim().await;
    let leased = app.get(&path).await.expect(200).json();
    assert_eq!(leased["state"], "provisioning");
    assert!(leased["leased_at"].is_string() && leased["started_at"].is_null());
    assert!(leased["timings"]["queued_ms"].is_number() && leased["timings"]["total_ms"].is_null());
    attempt.start().await;
    attempt.write(Stream::Stdout, b"half").await;
    let running = app.get(&path).await.expect(200).json();
    assert_eq!((&running["state"], &running["stdout"]["preview"]), (&json!("running"), &json!("half")));
    assert_eq!((&running["stdout"]["bytes"], &running["stdout"]["complete"]), (&json!(4), &json!(false)));
    attempt.write(Stream::Stderr, b"err").await;
    attempt.finish(Verdict::Succeeded, Some(0)).await;
    let ended = app.get(&path).await.expect(200).json();
    assert_eq!(
        (&ended["state"], &ended["verdict"], &ended["exit_code"]),
        (&json!("succeeded"), &json!("succeeded"), &json!(0))
    );
    assert_eq!((&ended["signal"], &ended["evidence"]["decided_by"]), (&Value::Null, &json!("wait_status")));
    assert_eq!((&ended["stderr"]["preview"], &ended["stderr"]["complete"]), (&json!("err"), &json!(true)));
    assert_eq!((&ended["usage"]["wall_ms"], &ended["limits"]["wall_ms"]), (&json!(1.5), &json!(30_000)));
    assert_eq!(ended["attempts"].as_array().expect("a list").len(), 1);
    assert!(ended["finished_at"].is_string() && ended["timings"]["total_ms"].is_number());
}

#[tokio::test]
async fn lost_attempts_are_told_with_their_reason() {
    let app = TestApp::start().await;
    let id = app.submit(&json!({"code": ""})).await;
    app.worker().claim().await.lose("the place could not be made").await;
    let mut second = app.worker().claim().await;
    second.start().await;
    second.finish(Verdict::Succeeded, Some(0)).await;
    let body = app.get(&format!("/v1/evaluations/{id}")).await.expect(200).json();
    let attempts = body["attempts"].as_array().expect("a list");
    assert_eq!(attempts.len(), 2);
    assert_eq!(
        attempts[0]["lost"],
        json!({"kind": "infrastructure", "reason": "the place could not be made"})
    );
    assert_eq!((&attempts[1]["number"], &attempts[1]["lost"]), (&json!(2), &Value::Null));
}

#[tokio::test]
async fn the_preview_is_bounded_and_safe_to_show() {
    let app = TestApp::with(|settings| settings.limits.page.preview_bytes = 16).await;
    let id = app.submit(&json!({"code": ""})).await;
    let mut attempt = app.worker().claim().await;
    attempt.start().await;
    attempt.write(Stream::Stdout, "0123456789\u{1b}[1m\u{202e}é…and more".as_bytes()).await;
    attempt.write(Stream::Stderr, b"\xff\0ok").await;
    attempt.finish(Verdict::Succeeded, Some(0)).await;
    let body = app.get(&format!("/v1/evaluations/{id}")).await.expect(200).json();
    assert_eq!(body["stdout"]["preview"], "0123456789\u{fffd}[1m", "the character at the cut is left out");
    assert_eq!(
        (&body["stdout"]["preview_truncated"], &body["stdout"]["truncated"]),
        (&json!(true), &json!(false))
    );
    assert_eq!(body["stderr"]["preview"], "\u{fffd}\u{fffd}ok");
    assert_eq!(body["stderr"]["preview_truncated"], false);
}

#[tokio::test]
async fn an_unknown_id_and_what_is_no_id_are_not_found() {
    let app = TestApp::start().await;
    for id in
        ["ev_00000000000000000000000000000000", "ev_0", "ba_00000000000000000000000000000000", "%00", "x"]
    {
        for path in ["", "/events", "/stdout", "/stderr"] {
            app.get(&format!("/v1/evaluations/{id}{path}")).await.problem(404, "evaluation_not_found");
        }
        app.post(&format!("/v1/evaluations/{id}/cancel"), &json!({}))
            .await
            .problem(404, "evaluation_not_found");
        app.delete(&format!("/v1/evaluations/{id}")).await.problem(404, "evaluation_not_found");
    }
    app.get("/v1/evaluations/ev_00000000000000000000000000000000?wait=1s")
        .await
        .problem(404, "evaluation_not_found");
}

#[tokio::test]
async fn wait_on_what_has_ended_answers_at_once() {
    let app = TestApp::start().await;
    let id = app.submit(&json!({"code": ""})).await;
    let mut attempt = app.worker().claim().await;
    attempt.start().await;
    attempt.finish(Verdict::Succeeded, Some(0)).await;
    let began = Instant::now();
    let body = app.get(&format!("/v1/evaluations/{id}?wait=20s")).await.expect(200).json();
    assert_eq!(body["state"], "succeeded");
    assert!(began.elapsed() < Duration::from_secs(10));
    let unknown = app.get(&format!("/v1/evaluations/{id}?wait=1s&wait=2s&x=1")).await;
    assert_eq!(unknown.wrong_paths(400, "invalid_parameter"), ["wait", "x"]);
}
