//! Black box, but for the checks that the tests register.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::answer::Answer;
use crate::support::app::TestApp;

/// Asks over a connection that is meant to stay, and gives what came until the other side closed it.
async fn ask_and_stay(app: &TestApp, path: &str) -> String {
    let mut stream = TcpStream::connect(app.address).await.expect("connects");
    let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: keep-alive\r\n\r\n", app.address);
    stream.write_all(request.as_bytes()).await.expect("asks");
    let mut said = String::new();
    let whole = tokio::time::timeout(Duration::from_secs(20), stream.read_to_string(&mut said)).await;
    whole.expect("the connection was closed").expect("readable");
    said
}

#[tokio::test]
async fn one_that_leaves_still_answers_is_not_ready_and_each_answer_is_its_connections_last() {
    let app = TestApp::with(|settings| settings.leave = Duration::from_secs(60)).await;
    app.begin_shutdown();
    let began = Instant::now();
    // The word to stop has arrived when it is not ready any more.
    let not_ready = loop {
        let said = ask_and_stay(&app, "/readyz").await;
        if said.starts_with("HTTP/1.1 503") {
            break said;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "{said}");
    };
    assert!(not_ready.contains("connection: close") && not_ready.contains("leaving"), "{not_ready}");
    let answered = ask_and_stay(&app, "/healthz").await;
    assert!(answered.starts_with("HTTP/1.1 200") && answered.contains("connection: close"), "{answered}");
}

#[tokio::test]
async fn alive_and_ready_need_no_key() {
    let app = TestApp::start().await;
    let alive = Answer::of(app.bare(Method::GET, "/healthz")).await.expect(200);
    assert_eq!(alive.body, b"ok\n");
    app.health.register("store", || async { Ok(()) });
    let ready = Answer::of(app.bare(Method::GET, "/readyz")).await.expect(200).json();
    assert_eq!((&ready["status"], &ready["checks"][0]["name"]), (&json!("ok"), &json!("store")));
    app.health.register("sandbox", || async { Err("no user namespaces; see fumehood doctor".to_owned()) });
    app.health.register("worker", std::future::pending::<Result<(), String>>);
    let began = Instant::now();
    let not_ready = Answer::of(app.bare(Method::GET, "/readyz")).await.expect(503).json();
    assert!(began.elapsed() < Duration::from_secs(5), "a check that hangs has a timeout");
    assert_eq!((&not_ready["status"], &not_ready["checks"][0]["status"]), (&json!("failed"), &json!("ok")));
    assert_eq!(not_ready["checks"][1]["detail"], "no user namespaces; see fumehood doctor");
    assert_eq!(not_ready["checks"][2]["detail"], "no answer within 500 ms");
    Answer::of(app.bare(Method::GET, "/healthz")).await.expect(200);
}

#[tokio::test]
async fn health_in_detail_explains_itself() {
    let app = TestApp::start().await;
    app.submit(&json!({"code": ""})).await;
    app.health.vitals().set_leases_held(3);
    let health = app.get("/health/detailed").await.expect(200).json();
    assert_eq!((&health["status"], &health["leases_held"]), (&json!("ok"), &json!(3)));
    assert_eq!(health["queue"]["states"]["queued"], 1);
    assert_eq!((&health["capacity"]["places"], &health["last_finished_age_ms"]), (&json!(2), &json!(null)));
    assert!(health["storage"]["limit_bytes"].as_u64().expect("a number") > 0);
    assert_eq!(
        health["durability"],
        json!({"journal_mode": "wal", "synchronous": "2"}),
        "flushed at each commit"
    );
}

#[tokio::test]
async fn the_queue_is_shown_by_state_and_priority() {
    let app = TestApp::start().await;
    let empty = app.get("/v1/queue").await.expect(200).json();
    assert_eq!((&empty["oldest"], &empty["depth"]), (&json!(null), &json!([])));
    let oldest = app.submit(&json!({"code": "", "priority": 1})).await;
    for priority in [9, 9, 5] {
        app.submit(&json!({"code": "", "priority": priority})).await;
    }
    let queue = app.get("/v1/queue").await.json();
    assert_eq!(queue["states"], json!({"queued": 4, "provisioning": 0, "running": 0}));
    let expected = json!([
        {"state": "queued", "priority": 9, "count": 2},
        {"state": "queued", "priority": 5, "count": 1},
        {"state": "queued", "priority": 1, "count": 1},
    ]);
    assert_eq!((&queue["depth"], &queue["oldest"]["id"]), (&expected, &json!(oldest)));
    assert!(queue["queue_max"].as_u64().expect("a number") > 0);
}

#[tokio::test]
async fn version_and_metrics() {
    let app = TestApp::start().await;
    let version = app.get("/v1/version").await.expect(200).json();
    assert_eq!(version, json!({"name": "fumehood", "version": env!("CARGO_PKG_VERSION"), "api": "v1"}));
    app.submit(&json!({"code": "", "priority": 7})).await;
    let answer = app.get("/metrics").await.expect(200);
    assert!(answer.header("content-type").starts_with("text/plain; version=0.0.4"));
    let text = String::from_utf8(answer.body).expect("text");
    for line in [
        r#"fumehood_submissions_total{outcome="accepted"}"#,
        r#"fumehood_queue_depth{state="queued",priority="7"}"#,
        r#"fumehood_http_requests_total{method="POST",route="/v1/evaluations",status="201"}"#,
        r#"fumehood_http_request_duration_seconds_bucket{method="GET",route="/v1/version""#,
        r#"fumehood_storage_bytes{what="used"}"#,
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    assert!(!text.contains("ev_"), "no id is a label");
}
