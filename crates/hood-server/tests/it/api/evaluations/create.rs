//! Grey box: the API from outside, the worker's side through the store.

use std::time::{Duration, Instant};

use hood_core::{Tenant, Verdict};
use hood_server::clock::{Clock, SystemClock};
use hood_server::document::{AcceptedDocument, to_json};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::answer::Answer;
use crate::support::app::{TestApp, catalogue, environment};

#[tokio::test]
async fn a_submission_is_answered_with_its_place_and_the_resource() {
    let app = TestApp::start().await;
    let answer =
        app.post("/v1/evaluations", &json!({"code": "print(1)", "labels": {"a": "b"}})).await.expect(201);
    let body = answer.json();
    let id = body["id"].as_str().expect("an id");
    assert!(id.starts_with("ev_") && id.len() == 35);
    assert_eq!(answer.header("location"), format!("/v1/evaluations/{id}"));
    assert_eq!((&body["state"], &body["verdict"]), (&json!("queued"), &Value::Null));
    assert_eq!(body["environment"], json!({"name": "minimal", "digest": null}));
    assert_eq!(
        (&body["priority"], &body["grace_ms"], &body["risk_level"]),
        (&json!(5), &json!(5000), &json!("high"))
    );
    assert_eq!(body["labels"], json!({"a": "b"}));
    assert_eq!(body["limits"]["wall_ms"], 30_000);
    assert_eq!(
        body["stdout"],
        json!({"preview": "", "preview_truncated": false, "bytes": 0, "kept_bytes": 0, "truncated": false, "complete": false})
    );
    assert!(body["created_at"].as_str().expect("a time").ends_with('Z'));
    assert_eq!((&body["attempts"], &body["batch"]), (&json!([]), &Value::Null));
    assert_eq!(app.get(answer.header("location")).await.expect(200).json(), body);
}

#[tokio::test]
async fn every_field_of_a_submission_reaches_the_worker() {
    let app = TestApp::start().await;
    let submission = json!({
        "code": "pass",
        "files": [{"path": "a/b.txt", "content": "x"}, {"path": "c", "content_base64": "AP8=", "executable": true}],
        "command": ["./c"], "args": ["1"], "stdin_base64": "AA==", "env": {"K": "V"}, "environment": "spare",
        "limits": {"wall_ms": 1000, "memory_bytes": 67_108_864, "output_bytes": 0},
        "network": "none", "priority": 9, "labels": {"suite": "x"}, "risk_level": "low", "grace_ms": 0,
        "on_output_limit": "fail",
    });
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let request = app.request(Method::POST, "/v1/evaluations").header("traceparent", trace).json(&submission);
    let body = Answer::of(request).await.expect(201).json();
    assert_eq!((&body["limits"]["wall_ms"], &body["grace_ms"]), (&json!(1000), &json!(0)));
    let attempt = app.worker().claim().await;
    let stored: Value = serde_json::from_str(attempt.request()).expect("JSON");
    for (field, value) in submission.as_object().expect("an object") {
        if field != "limits" && field != "network" && field != "files" {
            assert_eq!(&stored["submission"][field], value, "{field}");
        }
    }
    assert_eq!(stored["submission"]["files"][1]["content_base64"], "AP8=");
    assert_eq!(stored["traceparent"], trace);
    assert_eq!(stored["limits"]["disk_bytes"], 67_108_864, "disk follows memory");
}

#[tokio::test]
async fn wrong_bodies_are_told_apart() {
    let app = TestApp::start().await;
    let path = "/v1/evaluations";
    let send = async |kind: &str, body: &str| {
        let request = app.request(Method::POST, path).header("content-type", kind).body(body.to_owned());
        Answer::of(request).await
    };
    send("application/json", "{").await.problem(400, "malformed_json");
    send("application/json", "").await.problem(400, "malformed_json");
    send("application/json", &"[".repeat(33)).await.problem(400, "malformed_json");
    send("text/plain", "{}").await.problem(415, "unsupported_media_type");
    send("application/x-www-form-urlencoded", "code=1").await.problem(415, "unsupported_media_type");
    let request =
        app.request(Method::POST, path).header("content-encoding", "gzip").json(&json!({"code": ""}));
    Answer::of(request).await.problem(415, "unsupported_media_type");
    let unknown = send("application/json", r#"{"code": "", "limits": {"wall_seconds": 1}}"#).await;
    assert_eq!(unknown.wrong_paths(422, "invalid_fields"), ["limits.wall_seconds"]);
    let several =
        json!({"code": "", "priority": 10, "stdin": "", "stdin_base64": "", "limits": {"wall_ms": 0}});
    let mut paths = app.post(path, &several).await.wrong_paths(422, "invalid_fields");
    paths.sort();
    assert_eq!(paths, ["limits.wall_ms", "priority", "stdin_base64"]);
    let unknown =
        app.post(path, &json!({"code": "", "environment": "moon"})).await.problem(422, "invalid_fields");
    assert!(unknown.detail.contains("minimal, spare"), "{}", unknown.detail);
}

#[tokio::test]
async fn a_body_is_taken_at_its_bound_and_refused_past_it() {
    let app = TestApp::with(|settings| settings.limits.body.bytes_max = 1000).await;
    let padded = |length: usize| {
        let empty = json!({"code": ""}).to_string();
        json!({"code": "#".repeat(length - empty.len())}).to_string()
    };
    let send = |body: reqwest::Body| {
        let request = app.request(Method::POST, "/v1/evaluations").header("content-type", "application/json");
        Answer::of(request.body(body))
    };
    assert_eq!(padded(1000).len(), 1000);
    send(padded(1000).into()).await.expect(201);
    send(padded(1001).into()).await.problem(413, "body_too_large");
    // Chunked, so that only reading tells.
    let chunked = |length: usize| {
        let pieces = padded(length)
            .into_bytes()
            .chunks(100)
            .map(|c| Ok::<_, std::io::Error>(c.to_vec()))
            .collect::<Vec<_>>();
        reqwest::Body::wrap_stream(futures::stream::iter(pieces))
    };
    send(chunked(1000)).await.expect(201);
    send(chunked(1001)).await.problem(413, "body_too_large");
}

#[tokio::test]
async fn what_no_place_can_take_is_refused_for_good_and_what_none_can_now_for_now() {
    let app = TestApp::start().await;
    let large = json!({"code": "", "limits": {"memory_bytes": 4096_u64 << 20}});
    app.post("/v1/evaluations", &large).await.problem(422, "refused");

    let app = TestApp::with(|settings| settings.catalogue = None).await;
    let answer = app.post("/v1/evaluations", &json!({"code": ""})).await;
    answer.problem(503, "not_ready");
    assert_eq!(answer.header("retry-after"), "1");

    let mut unproven = catalogue();
    unproven.executors[0].proven.clear();
    let app = TestApp::with(|settings| settings.catalogue = Some(unproven)).await;
    let answer = app.post("/v1/evaluations", &json!({"code": ""})).await;
    assert!(answer.problem(422, "refused").detail.contains("not proven"), "waiting does not help");

    let mut closed = catalogue();
    closed.executors[0].places = 0;
    let app = TestApp::with(|settings| settings.catalogue = Some(closed)).await;
    let answer = app.post("/v1/evaluations", &json!({"code": ""})).await;
    assert!(answer.problem(503, "refused_for_now").detail.contains("no place"));
    assert_eq!(answer.header("retry-after"), "10");

    let mut failed = environment("minimal");
    failed.state = hood_wire::api::EnvironmentState::Failed;
    failed.error = Some("no python3 on PATH".to_owned());
    let app = TestApp::with(|settings| {
        settings.catalogue =
            Some(hood_server::document::CatalogueDocument { environments: vec![failed], ..catalogue() });
    })
    .await;
    let answer = app.post("/v1/evaluations", &json!({"code": ""})).await;
    assert!(answer.problem(503, "refused_for_now").detail.contains("no python3 on PATH"));
}

#[tokio::test]
async fn a_full_queue_and_a_full_storage_say_when_to_come_again() {
    let app = TestApp::with(|settings| settings.store.queue_max = 1).await;
    app.submit(&json!({"code": ""})).await;
    let answer = app.post("/v1/evaluations", &json!({"code": ""})).await;
    answer.problem(503, "queue_full");
    assert_eq!(answer.header("retry-after"), "1");

    let app =
        TestApp::with(|settings| settings.store.storage_bytes = settings.store.storage_reserve_bytes).await;
    let answer = app.post("/v1/evaluations", &json!({"code": ""})).await;
    answer.problem(503, "storage_full");
    assert_eq!(answer.header("retry-after"), "30");
}

async fn with_key(app: &TestApp, key: &str, body: &str) -> Answer {
    let request = app.request(Method::POST, "/v1/evaluations").header("content-type", "application/json");
    Answer::of(request.header("Idempotency-Key", key).body(body.to_owned())).await
}

#[tokio::test]
async fn the_same_key_and_body_give_the_same_evaluation() {
    let app = TestApp::start().await;
    let first = with_key(&app, "k1", r#"{"code": "1", "labels": {"a": "b"}}"#).await.expect(201).json();
    let again = with_key(&app, "k1", r#"{ "labels":{"a":"b"}, "code":"\u0031" }"#).await.expect(200);
    assert_eq!(again.json()["id"], first["id"], "spacing, order and escapes are no other body");
    assert_eq!(again.header("location"), format!("/v1/evaluations/{}", first["id"].as_str().expect("an id")));
    with_key(&app, "k1", r#"{"code": "2"}"#).await.problem(409, "idempotency_conflict");
    let other = with_key(&app, "k2", r#"{"code": "1"}"#).await.expect(201).json();
    assert_ne!(other["id"], first["id"]);
    for wrong in ["", "a b", &"k".repeat(256)] {
        assert_eq!(
            with_key(&app, wrong, "{}").await.wrong_paths(400, "invalid_parameter"),
            ["Idempotency-Key"]
        );
    }
    with_key(&app, &"k".repeat(255), r#"{"code": "1"}"#).await.expect(201);
}

#[tokio::test]
async fn what_was_accepted_is_found_again_though_it_would_be_refused_today() {
    let app = TestApp::start().await;
    let first = with_key(&app, "k", r#"{"code": "1"}"#).await.expect(201).json();
    let mut unproven = catalogue();
    unproven.executors[0].proven.clear();
    app.store.put_capacity(2, SystemClock.now(), &to_json(&unproven)).await.expect("a catalogue");
    let again = with_key(&app, "k", r#"{"code": "1"}"#).await.expect(200).json();
    assert_eq!(again["id"], first["id"]);
    with_key(&app, "k", r#"{"code": "2"}"#).await.problem(409, "idempotency_conflict");
    with_key(&app, "other", r#"{"code": "1"}"#).await.problem(422, "refused");
}

#[tokio::test]
async fn many_at_once_with_one_key_make_one_evaluation() {
    let app = TestApp::start().await;
    let answers = futures::future::join_all((0..20).map(|_| with_key(&app, "k", r#"{"code": "1"}"#))).await;
    let created = answers.iter().filter(|answer| answer.status == 201).count();
    assert_eq!(created, 1);
    let ids: std::collections::HashSet<String> =
        answers.iter().map(|answer| answer.json()["id"].to_string()).collect();
    assert_eq!(ids.len(), 1);
}

#[tokio::test]
async fn wait_answers_when_it_has_ended_or_when_the_time_is_over() {
    let app = TestApp::start().await;
    let began = Instant::now();
    let answer = app.post("/v1/evaluations?wait=100ms", &json!({"code": ""})).await.expect(201);
    assert_eq!(answer.json()["state"], "queued");
    assert!(began.elapsed() >= Duration::from_millis(100));
    let mut stale = app.worker().claim().await;
    stale.start().await;
    stale.finish(Verdict::Succeeded, Some(0)).await;

    let body = json!({"code": ""});
    let waiting = app.post("/v1/evaluations?wait=20s", &body);
    let working = async {
        let mut attempt = loop {
            if app.get("/v1/queue").await.json()["states"]["queued"] == 1 {
                break app.worker().claim().await;
            }
            tokio::task::yield_now().await;
        };
        attempt.start().await;
        attempt.finish(Verdict::Failed, Some(3)).await;
    };
    let began = Instant::now();
    let (answer, ()) = tokio::join!(waiting, working);
    assert!(began.elapsed() < Duration::from_secs(10), "it did not wait for the whole time");
    let body = answer.expect(201).json();
    assert_eq!(
        (&body["state"], &body["verdict"], &body["exit_code"]),
        (&json!("failed"), &json!("failed"), &json!(3))
    );

    for wrong in ["10", "61s", "-1s", "soon"] {
        let path = format!("/v1/evaluations?wait={wrong}");
        assert_eq!(
            app.post(&path, &json!({"code": ""})).await.wrong_paths(400, "invalid_parameter"),
            ["wait"]
        );
    }
    let unknown = app.post("/v1/evaluations?priority=1", &json!({"code": ""})).await;
    assert_eq!(unknown.wrong_paths(400, "invalid_parameter"), ["priority"]);
}

/// The stored document of a submission with so much code.
async fn stored(app: &TestApp, code: usize) -> (String, bool) {
    let files = json!([{"path": "b", "content_base64": "AP+A"}]);
    let submission = json!({"code": "#".repeat(code), "files": files, "stdin_base64": "/wA=", "risk_level": "low",
        "limits": {"wall_ms": 1000}, "grace_ms": 7});
    let shown = app.post("/v1/evaluations", &submission).await.expect(201).json();
    let path = format!("/v1/evaluations/{}", shown["id"].as_str().expect("an id"));
    let (stored, apart) = app.worker().claim_request().await;
    let document: AcceptedDocument = serde_json::from_str(&stored).expect("is whole");
    assert_eq!(document.submission.code, Some("#".repeat(code)));
    assert_eq!(document.submission.files[0].content_base64.as_deref(), Some("AP+A"));
    assert_eq!(document.submission.stdin_base64.as_deref(), Some("/wA="));
    let seen = app.get(&path).await.expect(200).json();
    assert_eq!((&seen["risk_level"], &seen["limits"]["wall_ms"]), (&json!("low"), &json!(1000)));
    assert_eq!((&seen["grace_ms"], &seen["limits"]), (&json!(7), &shown["limits"]));
    let record =
        app.store.get(&Tenant::default(), path[16..].parse().expect("an id")).await.expect("is there");
    // Nobody who does not know of blobs takes what is shown for what is to be run.
    assert_eq!(
        serde_json::from_str::<AcceptedDocument>(&record.request).is_err(),
        apart,
        "{}",
        record.request
    );
    assert_eq!(record.request == stored, !apart);
    (stored, apart)
}

#[tokio::test]
async fn what_is_longer_than_the_bound_is_kept_apart_and_shown_the_same() {
    const BOUND: usize = 10_000;
    let app = TestApp::with(|settings| settings.request_bytes_in_rows_max = BOUND).await;
    let beside = stored(&app, 0).await.0.len();
    for (len, is_apart) in [(BOUND - 1, false), (BOUND, false), (BOUND + 1, true), (40 * BOUND, true)] {
        let (stored, apart) = stored(&app, len - beside).await;
        assert_eq!((stored.len(), apart), (len, is_apart));
    }
    let never = TestApp::with(|settings| settings.request_bytes_in_rows_max = usize::MAX).await;
    assert!(!stored(&never, 1_000_000).await.1);
}

#[tokio::test]
async fn where_blobs_cannot_be_written_a_large_submission_is_refused_and_nothing_of_it_kept() {
    let app = TestApp::start().await;
    let blocked = app.settings.store.dir.join("blobs/inputs");
    std::fs::write(&blocked, "").expect("a file where a directory is to be");
    let large = json!({"code": "#".repeat(100_000)});
    let send = async || {
        let request =
            app.request(Method::POST, "/v1/evaluations").header("Idempotency-Key", "k").json(&large);
        Answer::of(request).await
    };
    let refused = send().await;
    assert!(refused.header("retry-after").parse::<u64>().is_ok());
    let problem = refused.problem(503, "blobs_away");
    assert!(problem.detail.contains("blob store"), "{problem:?}");
    app.post("/v1/evaluations", &json!({"code": "pass"})).await.expect(201);
    assert_eq!(
        app.get("/v1/evaluations").await.expect(200).json()["items"].as_array().map(Vec::len),
        Some(1)
    );
    std::fs::remove_file(blocked).expect("is removed");
    send().await.expect(201);
    send().await.expect(200);
    app.worker().claim().await;
    assert!(app.worker().claim_request().await.1);
}
