//! Grey box: the API from outside, the worker's side through the store.

use std::time::Duration;

use hood_core::Verdict;
use hood_core::outcome::Stream;
use hood_server::clock::{Clock as _, SystemClock};
use hood_server::document::to_json;
use hood_wire::api::{BuildProgress, Building, Environment, EnvironmentState, Event};
use reqwest::{Method, Response};
use serde_json::json;

use crate::support::answer::Answer;
use crate::support::app::{PATIENCE, TestApp, catalogue};

/// Reads an event stream message by message.
pub(crate) struct Listening {
    response: Response,
    text: String,
}

impl Listening {
    pub(crate) async fn open(app: &TestApp, id: &str, last: Option<u64>) -> Self {
        let request = app.request(Method::GET, &format!("/v1/evaluations/{id}/events"));
        let request = request.header("accept", "text/event-stream");
        let request =
            last.iter().fold(request, |request, last| request.header("last-event-id", last.to_string()));
        let response = request.send().await.expect("an answer");
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { response, text: String::new() }
    }

    /// The next message's lines; `None` at the stream's end.
    async fn message(&mut self) -> Option<String> {
        loop {
            if let Some((message, rest)) = self.text.split_once("\n\n") {
                let message = message.to_owned();
                self.text = rest.to_owned();
                return Some(message);
            }
            let chunk = tokio::time::timeout(PATIENCE, self.response.chunk()).await.expect("in time");
            self.text += std::str::from_utf8(&chunk.expect("no break")?).expect("text");
        }
    }

    /// The next event, whose `id` and `event` lines agree with its data.
    pub(crate) async fn event(&mut self) -> Option<Event> {
        loop {
            let message = self.message().await?;
            let field =
                |name: &str| message.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
            let Some(data) = field("data: ") else { continue };
            let event: Event = serde_json::from_str(&data).expect("an event");
            assert_eq!(field("id: "), Some(event.number.to_string()));
            assert_eq!(
                field("event: "),
                serde_json::to_value(event.kind).expect("a word").as_str().map(str::to_owned)
            );
            return Some(event);
        }
    }

    pub(crate) async fn remaining(mut self) -> Vec<u64> {
        let mut numbers = Vec::new();
        while let Some(event) = self.event().await {
            numbers.push(event.number);
        }
        numbers
    }
}

/// What is on offer while `minimal` is built, as far as that is.
async fn offer(app: &TestApp, version: u64, percent: Option<u8>) {
    let progress = percent.map(|percent| BuildProgress {
        stage: "downloading".to_owned(),
        percent: Some(percent),
        files_done: 1,
        files_total: 2,
        bytes_done: u64::from(percent),
        bytes_total: 100,
    });
    let state = if percent.is_some() { EnvironmentState::Building } else { EnvironmentState::Ready };
    let mut offered = catalogue();
    offered.environments[0] = Environment { state, progress, ..offered.environments[0].clone() };
    app.store.put_capacity(version, SystemClock.now(), &to_json(&offered)).await.expect("a catalogue");
}

#[tokio::test]
async fn a_listener_hears_how_far_the_build_is_that_it_waits_for() {
    let app = TestApp::with(|settings| settings.limits.stream.poll_every = Duration::from_millis(20)).await;
    offer(&app, 2, Some(10)).await;
    let id = app.submit(&json!({"code": "", "environment": "minimal"})).await;
    let elsewhere = app.submit(&json!({"code": "", "environment": "spare"})).await;
    let mut listening = Listening::open(&app, &id, None).await;
    let mut other = Listening::open(&app, &elsewhere, None).await;
    assert_eq!(listening.event().await.expect("submitted").number, 1);
    // It waits in the queue still, whatever is built: nothing is said until an attempt begins.
    let worker = app.worker();
    let (mut first, mut second) = (worker.claim().await, worker.claim().await);
    assert_eq!(listening.event().await.expect("leased").number, 2);
    let building = |message: String| {
        assert!(!message.contains("id:") && message.contains("event: building"), "{message}");
        let data = message.lines().find_map(|line| line.strip_prefix("data: ")).expect("data");
        serde_json::from_str::<Building>(data).expect("news")
    };
    let news = building(listening.message().await.expect("news"));
    assert_eq!((news.environment.as_str(), news.progress.percent), ("minimal", Some(10)));
    offer(&app, 3, Some(60)).await;
    assert_eq!(building(listening.message().await.expect("news")).progress.percent, Some(60));
    // Who connects again is told where it stands, and misses no event.
    let mut again = Listening::open(&app, &id, Some(2)).await;
    assert_eq!(building(again.message().await.expect("news")).progress.percent, Some(60));
    offer(&app, 4, None).await;
    first.start().await;
    second.start().await;
    assert_eq!(listening.event().await.expect("started").number, 3);
    assert_eq!(again.event().await.expect("started").number, 3);
    first.finish(Verdict::Succeeded, Some(0)).await;
    second.finish(Verdict::Succeeded, Some(0)).await;
    assert!(listening.message().await.expect("finished").contains("event: finished"));
    let mut said = String::new();
    while let Some(message) = other.message().await {
        said += &message;
    }
    assert!(!said.contains("building"), "it waits for nothing: {said}");
    // What is kept has transitions alone.
    let all = app.get(&format!("/v1/evaluations/{id}/events")).await.expect(200).json();
    assert_eq!(all["items"].as_array().map(Vec::len), Some(4));
}

#[tokio::test]
async fn events_are_listed_in_pages() {
    let app = TestApp::start().await;
    let id = app.submit(&json!({"code": ""})).await;
    let mut attempt = app.worker().claim().await;
    attempt.start().await;
    attempt.finish(Verdict::Failed, Some(1)).await;
    let path = format!("/v1/evaluations/{id}/events");
    let all = app.get(&path).await.expect(200).json();
    let kinds: Vec<&str> = all["items"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|e| e["type"].as_str().expect("a word"))
        .collect();
    assert_eq!(kinds, ["submitted", "attempt_started", "started", "finished"]);
    assert_eq!(
        (&all["items"][3]["verdict"], &all["items"][3]["state"]),
        (&json!("failed"), &json!("failed"))
    );
    assert_eq!((&all["items"][1]["attempt"], &all["next_cursor"]), (&json!(1), &json!(null)));
    let page = app.get(&format!("{path}?limit=3")).await.json();
    let cursor = page["next_cursor"].as_str().expect("another page");
    let rest = app.get(&format!("{path}?limit=3&cursor={cursor}")).await.json();
    assert_eq!((&rest["items"][0]["number"], &rest["next_cursor"]), (&json!(4), &json!(null)));
    assert_eq!(
        app.get(&format!("{path}?follow=true")).await.wrong_paths(400, "invalid_parameter"),
        ["follow"]
    );
}

#[tokio::test]
async fn a_listener_gets_each_event_when_it_happens_and_the_stream_ends_with_the_last() {
    let app = TestApp::start().await;
    let id = app.submit(&json!({"code": ""})).await;
    let mut listening = Listening::open(&app, &id, None).await;
    assert_eq!(listening.event().await.expect("submitted").number, 1);
    let lost = app.worker().claim().await;
    assert_eq!(listening.event().await.expect("leased").attempt, Some(1));
    lost.lose("x").await;
    let retry = listening.event().await.expect("lost");
    assert!(retry.not_before.is_some());
    let mut attempt = app.worker().claim().await;
    assert_eq!(listening.event().await.expect("leased again").attempt, Some(2));
    attempt.start().await;
    assert_eq!(listening.event().await.expect("started").number, 5);
    // Output is no event.
    attempt.write(Stream::Stdout, b"x").await;
    attempt.finish(Verdict::Succeeded, Some(0)).await;
    assert_eq!(listening.event().await.expect("finished").verdict, Some(hood_wire::api::Verdict::Succeeded));
    assert_eq!(listening.event().await, None);
}

#[tokio::test]
async fn whoever_connects_again_misses_nothing_and_gets_nothing_twice() {
    let app = TestApp::start().await;
    let id = app.submit(&json!({"code": ""})).await;
    let mut attempt = app.worker().claim().await;
    let mut first = Listening::open(&app, &id, None).await;
    assert_eq!(first.event().await.expect("submitted").number, 1);
    drop(first);
    attempt.start().await;
    let again = Listening::open(&app, &id, Some(1)).await;
    attempt.finish(Verdict::Succeeded, Some(0)).await;
    assert_eq!(again.remaining().await, [2, 3, 4]);
    assert_eq!(Listening::open(&app, &id, Some(3)).await.remaining().await, [4]);
    assert_eq!(Listening::open(&app, &id, Some(0)).await.remaining().await, [1, 2, 3, 4]);

    let with = async |last: &str| {
        let request = app.request(Method::GET, &format!("/v1/evaluations/{id}/events"));
        Answer::of(
            request.header("accept", "text/html, text/event-stream;q=0.9").header("last-event-id", last),
        )
        .await
    };
    assert!(with("4").await.expect(204).body.is_empty(), "nothing comes after the last");
    for wrong in ["5", "x", "-1"] {
        assert_eq!(with(wrong).await.wrong_paths(400, "invalid_parameter"), ["Last-Event-ID"]);
    }
    with("").await.expect(200);
}

#[tokio::test]
async fn many_listeners_get_the_same() {
    let app = TestApp::start().await;
    let id = app.submit(&json!({"code": ""})).await;
    let mut listening = Vec::new();
    for _ in 0..50 {
        listening.push(Listening::open(&app, &id, None).await);
    }
    let mut attempt = app.worker().claim().await;
    attempt.start().await;
    attempt.finish(Verdict::Succeeded, Some(0)).await;
    for numbers in futures::future::join_all(listening.into_iter().map(Listening::remaining)).await {
        assert_eq!(numbers, [1, 2, 3, 4]);
    }
}

#[tokio::test]
async fn a_quiet_stream_is_kept_alive_and_ends_when_the_server_does() {
    let app = TestApp::with(|settings| settings.limits.stream.keep_alive = Duration::from_millis(20)).await;
    let id = app.submit(&json!({"code": ""})).await;
    let mut listening = Listening::open(&app, &id, Some(1)).await;
    let comment = listening.message().await.expect("a comment");
    assert!(comment.starts_with(':'), "{comment}");
    app.begin_shutdown();
    assert_eq!(listening.event().await, None);
    app.shut_down().await;
}

#[tokio::test]
async fn listeners_are_bounded_for_each_key() {
    let app = TestApp::with(|settings| settings.limits.stream.streams_max = 2).await;
    let id = app.submit(&json!({"code": ""})).await;
    let first = Listening::open(&app, &id, None).await;
    let _second = Listening::open(&app, &id, None).await;
    let more = || {
        let request = app.request(Method::GET, &format!("/v1/evaluations/{id}/events"));
        Answer::of(request.header("accept", "text/event-stream"))
    };
    let refused = more().await;
    refused.problem(429, "too_many_streams");
    assert_eq!(refused.header("retry-after"), "1");
    app.get(&format!("/v1/evaluations/{id}?wait=1s")).await.problem(429, "too_many_streams");
    app.get(&format!("/v1/evaluations/{id}/stdout?follow=true")).await.problem(429, "too_many_streams");
    app.post("/v1/evaluations?wait=1s", &json!({"code": ""})).await.problem(429, "too_many_streams");
    assert_eq!(app.get("/v1/queue").await.json()["states"]["queued"], 1, "what was refused was not stored");
    drop(first);
    // The place is free once the server has noticed.
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while app.get(&format!("/v1/evaluations/{id}?wait=1ms")).await.status != 200 {
        assert!(tokio::time::Instant::now() < deadline, "the place was not given back");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn each_event_tells_the_hops_up_to_it_in_order() {
    let app = TestApp::start().await;
    let id = app.submit(&json!({"code": ""})).await;
    app.worker().claim().await.lose("no place").await;
    let mut attempt = app.worker().claim().await;
    attempt.start().await;
    attempt.finish(Verdict::Failed, Some(7)).await;
    let listed = app.get(&format!("/v1/evaluations/{id}/events")).await.expect(200).json();
    let details: Vec<&serde_json::Value> =
        listed["items"].as_array().expect("events").iter().map(|event| &event["detail"]).collect();
    assert_eq!(details.len(), 6);
    const HOPS: [&str; 7] =
        ["accepted_at", "queued_at", "leased_at", "ready_at", "started_at", "ended_at", "committed_at"];
    let expected: [&[&str]; 6] = [
        &["accepted_at", "queued_at", "committed_at"],
        &["accepted_at", "queued_at", "leased_at", "committed_at"],
        &["accepted_at", "queued_at", "leased_at", "ended_at", "committed_at"],
        &["accepted_at", "queued_at", "leased_at", "committed_at"],
        &["accepted_at", "queued_at", "leased_at", "ready_at", "committed_at"],
        // The played worker keeps no moments of its own.
        &["accepted_at", "queued_at", "leased_at", "ready_at", "committed_at"],
    ];
    for (detail, expected) in details.iter().zip(expected) {
        let hops = detail["hops"].as_object().expect("hops");
        let told: Vec<&str> = HOPS.into_iter().filter(|hop| hops.contains_key(*hop)).collect();
        assert_eq!(told, expected, "{detail}");
        let times: Vec<jiff::Timestamp> =
            told.iter().map(|hop| hops[*hop].as_str().expect("a time").parse().expect("RFC 3339")).collect();
        assert!(times.is_sorted(), "{detail}");
    }
    assert_eq!(details[2]["lost"], json!({"kind": "infrastructure", "reason": "no place"}));
    assert_eq!(details[1].get("lost"), None, "what came later is not told before");
    assert_eq!((&details[3]["attempt"], &details[5]["attempt"]), (&json!(2), &json!(2)));
    assert_eq!((&details[5]["exit_code"], &details[5]["usage"]["wall_ms"]), (&json!(7), &json!(1.5)));

    let mut events = Listening::open(&app, &id, None).await;
    for detail in details {
        let event = events.event().await.expect("an event");
        assert_eq!(&serde_json::to_value(event.detail).expect("JSON"), detail, "live as listed");
    }
}
