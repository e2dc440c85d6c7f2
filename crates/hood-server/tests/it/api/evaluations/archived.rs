//! Grey box: the API from outside, the archive through the store.

use std::time::Duration;

use hood_core::Verdict;
use hood_core::outcome::Stream;
use hood_server::clock::{Clock as _, SystemClock};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::answer::Answer;
use crate::support::app::TestApp;

/// Every kind of look, with and without what only the living need.
async fn looks(app: &TestApp, id: &str) -> Vec<(u16, Vec<u8>)> {
    let path = format!("/v1/evaluations/{id}");
    let mut seen = Vec::new();
    for rest in [
        "/stdout",
        "/stdout?attempt=1",
        "/stderr?attempt=2",
        "/stdout?attempt=3",
        "/stdout?follow=true&offset=2",
        "/stderr?follow=true",
        "/events",
        "/events?limit=2",
    ] {
        let answer = app.get(&format!("{path}{rest}")).await;
        // What is refused is refused in other words to each request.
        let body = if answer.status == 200 { answer.body } else { Vec::new() };
        seen.push((answer.status, body));
    }
    let range = app.request(Method::GET, &format!("{path}/stdout")).header("range", "bytes=-3");
    let range = Answer::of(range).await;
    seen.push((range.status, range.body));
    for last in ["1", "5"] {
        let stream = app.request(Method::GET, &format!("{path}/events")).header("last-event-id", last);
        let stream = Answer::of(stream.header("accept", "text/event-stream")).await;
        seen.push((stream.status, stream.body));
    }
    seen
}

async fn resource(app: &TestApp, id: &str, query: &str) -> Value {
    app.get(&format!("/v1/evaluations/{id}{query}")).await.expect(200).json()
}

#[tokio::test]
async fn what_is_archived_is_found_by_its_id_and_says_so() {
    let app = TestApp::start().await;
    let id = app.submit(&json!({"code": "", "labels": {"a": "b"}})).await;
    let mut first = app.worker().claim().await;
    first.write(Stream::Stdout, b"first").await;
    first.lose("gone").await;
    let mut second = app.worker().claim().await;
    second.start().await;
    second.write(Stream::Stdout, b"second").await;
    second.finish(Verdict::Succeeded, Some(0)).await;
    let before = (resource(&app, &id, "").await, looks(&app, &id).await);
    assert_eq!(before.0["archived"], false);

    let now = SystemClock.now().after(Duration::from_secs(1));
    assert_eq!(app.store.archive(now, now).await.expect("archives"), 1);
    let mut after = (resource(&app, &id, "?wait=30s").await, looks(&app, &id).await);
    assert_eq!(after.0["archived"].take(), true);
    after.0["archived"] = json!(false);
    assert_eq!(after, before);
    let list = app.get("/v1/evaluations").await.expect(200).json();
    assert_eq!(list["items"], json!([]));

    let would = json!({"ids": [id], "dry_run": true});
    let would = app.post("/v1/dead/requeue", &would).await.expect(200).json();
    assert_eq!(would["items"][0]["outcome"], "not_dead");
    let path = format!("/v1/evaluations/{id}");
    app.post(&format!("{path}/cancel"), &json!({})).await.expect(202);
    app.delete(&path).await.expect(204);
    app.get(&path).await.problem(404, "evaluation_not_found");
    app.get(&format!("{path}/stdout")).await.problem(404, "evaluation_not_found");
}
