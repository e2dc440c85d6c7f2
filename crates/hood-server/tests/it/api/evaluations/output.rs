//! Grey box: the API from outside, the worker's side through the store.

use hood_core::Verdict;
use hood_core::outcome::Stream;
use hood_server::clock::{Clock as _, SystemClock};
use reqwest::Method;
use serde_json::json;

use crate::support::answer::Answer;
use crate::support::app::TestApp;

/// Every byte there is, and more than one piece of the store's.
fn long() -> Vec<u8> {
    (0..300_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

async fn finished(app: &TestApp, stdout: &[u8]) -> String {
    let id = app.submit(&json!({"code": ""})).await;
    let mut attempt = app.worker().claim().await;
    attempt.start().await;
    for chunk in stdout.chunks(50_000) {
        attempt.write(Stream::Stdout, chunk).await;
    }
    attempt.finish(Verdict::Succeeded, Some(0)).await;
    id
}

#[tokio::test]
async fn the_bytes_come_back_exactly_and_nobody_may_take_them_for_a_page() {
    let app = TestApp::start().await;
    let id = finished(&app, &long()).await;
    let answer = app.get(&format!("/v1/evaluations/{id}/stdout")).await.expect(200);
    assert!(answer.body == long(), "the bytes differ");
    for (name, value) in [
        ("content-type", "application/octet-stream"),
        ("content-length", "300000"),
        ("x-content-type-options", "nosniff"),
        ("content-disposition", "attachment; filename=\"stdout.bin\""),
        ("content-security-policy", "sandbox; default-src 'none'"),
        ("accept-ranges", "bytes"),
        ("cache-control", "no-store"),
        ("fumehood-attempt", "1"),
    ] {
        assert_eq!(answer.header(name), value, "{name}");
    }
    let empty = app.get(&format!("/v1/evaluations/{id}/stderr")).await.expect(200);
    assert!(empty.body.is_empty());
    assert_eq!(empty.header("content-length"), "0");
    let head =
        Answer::of(app.request(Method::HEAD, &format!("/v1/evaluations/{id}/stdout"))).await.expect(200);
    assert_eq!((head.header("content-length"), head.body.len()), ("300000", 0));
}

#[tokio::test]
async fn one_range_is_answered_once_it_has_ended() {
    let app = TestApp::start().await;
    let bytes = long();
    let path = format!("/v1/evaluations/{}/stdout", finished(&app, &bytes).await);
    ranges_are_answered(&app, &path, &bytes).await;
    assert_eq!(app.store.move_outputs(SystemClock.now()).await.expect("moves"), 1);
    ranges_are_answered(&app, &path, &bytes).await;
    assert!(app.get(&path).await.expect(200).body == bytes, "whole, from its blob");
}

async fn ranges_are_answered(app: &TestApp, path: &str, bytes: &[u8]) {
    let range = async |range: &str| Answer::of(app.request(Method::GET, path).header("range", range)).await;
    for (asked, expected) in [
        ("bytes=0-0", 0..1),
        ("bytes=10-99", 10..100),
        ("bytes=65530-65545", 65530..65546),
        ("bytes=1-", 1..300_000),
        ("bytes=299999-", 299_999..300_000),
        ("bytes=-5", 299_995..300_000),
        ("bytes=100-999999", 100..300_000),
    ] {
        let part = range(asked).await.expect(206);
        assert!(part.body == bytes[expected.clone()], "{asked}");
        let content = format!("bytes {}-{}/300000", expected.start, expected.end - 1);
        assert_eq!(part.header("content-range"), content);
        assert_eq!(part.header("content-length"), expected.len().to_string());
        assert_eq!(part.header("x-content-type-options"), "nosniff");
    }
    for wrong in ["bytes=300000-", "bytes=5-4", "bytes=0-1,5-6", "bytes=x"] {
        let answer = range(wrong).await;
        answer.problem(416, "range_not_satisfiable");
        assert_eq!(answer.header("content-range"), "bytes */300000", "{wrong}");
    }
    range("lines=1-2").await.expect(200);
    let etag = app.get(path).await.header("etag").to_owned();
    let if_range = async |tag: &str| {
        let request = app.request(Method::GET, path).header("range", "bytes=0-1").header("if-range", tag);
        Answer::of(request).await.status
    };
    assert_eq!((if_range(&etag).await, if_range("\"other\"").await), (206, 200));
}

#[tokio::test]
async fn while_it_runs_what_is_stored_comes_whole() {
    let app = TestApp::start().await;
    let id = app.submit(&json!({"code": ""})).await;
    let path = format!("/v1/evaluations/{id}/stdout");
    assert!(app.get(&path).await.expect(200).body.is_empty(), "queued: nothing yet");
    let mut attempt = app.worker().claim().await;
    attempt.start().await;
    attempt.write(Stream::Stdout, b"hello").await;
    let request = app.request(Method::GET, &path).header("range", "bytes=1-2");
    let answer = Answer::of(request).await.expect(200);
    assert_eq!((answer.body.as_slice(), answer.header("accept-ranges")), (&b"hello"[..], "none"));
}

#[tokio::test]
async fn earlier_attempts_stay_readable_by_their_number() {
    let app = TestApp::start().await;
    let id = app.submit(&json!({"code": ""})).await;
    let mut first = app.worker().claim().await;
    first.write(Stream::Stdout, b"first").await;
    first.lose("gone").await;
    let mut second = app.worker().claim().await;
    second.start().await;
    second.write(Stream::Stdout, b"second").await;
    second.finish(Verdict::Succeeded, Some(0)).await;
    let read = async |query: &str| app.get(&format!("/v1/evaluations/{id}/stdout{query}")).await;
    assert_eq!(read("").await.expect(200).body, b"second");
    assert_eq!(read("?attempt=1").await.expect(200).body, b"first");
    assert_eq!(read("?attempt=2").await.expect(200).body, b"second");
    read("?attempt=3").await.problem(404, "attempt_not_found");
    read("?attempt=3&follow=true").await.problem(404, "attempt_not_found");
    for wrong in ["?attempt=0", "?attempt=x", "?offset=1", "?follow=yes", "?lines=1"] {
        read(wrong).await.problem(400, "invalid_parameter");
    }
}
