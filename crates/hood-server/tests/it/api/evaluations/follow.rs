//! Grey box: the API from outside, the worker's side through the store.

use std::time::{Duration, Instant};

use hood_core::Verdict;
use hood_core::outcome::Stream;
use reqwest::{Method, Response};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::app::{PATIENCE, TestApp};

pub(crate) struct Following {
    response: Response,
    bytes: Vec<u8>,
}

impl Following {
    pub(crate) async fn open(app: &TestApp, id: &str, query: &str) -> Self {
        let path = format!("/v1/evaluations/{id}/stdout?follow=true{query}");
        let response = app.request(Method::GET, &path).send().await.expect("an answer");
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-disposition"], "attachment; filename=\"stdout.bin\"");
        Self { response, bytes: Vec::new() }
    }

    fn attempt(&self) -> &str {
        self.response.headers()["fumehood-attempt"].to_str().expect("a number")
    }

    /// Reads until that many bytes are there.
    pub(crate) async fn until(&mut self, length: usize) -> &[u8] {
        while self.bytes.len() < length {
            let chunk = tokio::time::timeout(PATIENCE, self.response.chunk()).await.expect("in time");
            self.bytes.extend(chunk.expect("no break").expect("more to come"));
        }
        &self.bytes
    }

    pub(crate) async fn finish(mut self) -> Result<Vec<u8>, reqwest::Error> {
        while let Some(chunk) =
            tokio::time::timeout(PATIENCE, self.response.chunk()).await.expect("in time")?
        {
            self.bytes.extend(chunk);
        }
        Ok(self.bytes)
    }
}

#[tokio::test]
async fn bytes_come_as_they_are_written_and_the_answer_ends_with_the_attempt() {
    let app = TestApp::start().await;
    let id = app.submit(&json!({"code": ""})).await;
    let mut following = Following::open(&app, &id, "").await;
    assert_eq!(following.attempt(), "1", "queued: the coming attempt");
    let mut attempt = app.worker().claim().await;
    attempt.start().await;
    attempt.write(Stream::Stdout, b"one").await;
    assert_eq!(following.until(3).await, b"one");
    attempt.write(Stream::Stderr, b"elsewhere").await;
    attempt.write(Stream::Stdout, b"\0two\xff").await;
    assert_eq!(following.until(8).await, b"one\0two\xff");
    attempt.finish(Verdict::Succeeded, Some(0)).await;
    assert_eq!(following.finish().await.expect("a whole answer"), b"one\0two\xff");
}

#[tokio::test]
async fn an_interrupted_follower_goes_on_where_it_was() {
    let app = TestApp::start().await;
    let id = app.submit(&json!({"code": ""})).await;
    let mut attempt = app.worker().claim().await;
    attempt.start().await;
    attempt.write(Stream::Stdout, b"0123").await;
    let mut first = Following::open(&app, &id, "").await;
    first.until(4).await;
    drop(first);
    attempt.write(Stream::Stdout, b"456").await;
    let again = Following::open(&app, &id, "&offset=4&attempt=1").await;
    attempt.write(Stream::Stdout, b"789").await;
    attempt.finish(Verdict::Succeeded, Some(0)).await;
    assert_eq!(again.finish().await.expect("a whole answer"), b"456789");
    assert_eq!(Following::open(&app, &id, "&offset=8").await.finish().await.expect("whole"), b"89");
    assert_eq!(Following::open(&app, &id, "&offset=99").await.finish().await.expect("whole"), b"");
}

#[tokio::test]
async fn a_follower_ends_with_its_attempt_and_not_with_the_evaluation() {
    let app = TestApp::start().await;
    let id = app.submit(&json!({"code": ""})).await;
    let first = app.worker().claim().await;
    let following = Following::open(&app, &id, "").await;
    first.lose("gone").await;
    assert_eq!(following.finish().await.expect("whole"), b"");
    let next = Following::open(&app, &id, "").await;
    assert_eq!(next.attempt(), "2");
    let mut second = app.worker().claim().await;
    second.start().await;
    second.write(Stream::Stdout, b"second").await;
    second.finish(Verdict::Succeeded, Some(0)).await;
    assert_eq!(next.finish().await.expect("whole"), b"second");
}

#[tokio::test]
async fn following_what_is_cancelled_in_the_queue_ends() {
    let app = TestApp::start().await;
    let id = app.submit(&json!({"code": ""})).await;
    let following = Following::open(&app, &id, "").await;
    app.post(&format!("/v1/evaluations/{id}/cancel"), &json!({})).await.expect(202);
    assert_eq!(following.finish().await.expect("whole"), b"");
}

#[tokio::test]
async fn the_servers_end_breaks_a_follower_off_and_never_looks_like_the_programs() {
    let app = TestApp::start().await;
    let id = app.submit(&json!({"code": ""})).await;
    let mut attempt = app.worker().claim().await;
    attempt.start().await;
    attempt.write(Stream::Stdout, b"half").await;
    let mut following = Following::open(&app, &id, "").await;
    following.until(4).await;
    app.begin_shutdown();
    following.finish().await.expect_err("a broken transfer");
    app.shut_down().await;
}

#[tokio::test]
async fn a_follower_that_does_not_read_holds_nobody_up() {
    let app = TestApp::start().await;
    let id = app.submit(&json!({"code": ""})).await;
    let mut attempt = app.worker().claim().await;
    attempt.start().await;
    let mut stuck = TcpStream::connect(app.address).await.expect("a connection");
    let head = format!(
        "GET /v1/evaluations/{id}/stdout?follow=true HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {}\r\n\r\n",
        app.address, app.token
    );
    stuck.write_all(head.as_bytes()).await.expect("sent");
    let quick = Following::open(&app, &id, "").await;
    let reading = tokio::spawn(quick.finish());
    let piece = vec![7_u8; 256 * 1024];
    let began = Instant::now();
    // More than any socket buffer takes.
    for _ in 0..64 {
        attempt.write(Stream::Stdout, &piece).await;
    }
    attempt.finish(Verdict::Succeeded, Some(0)).await;
    let read = reading.await.expect("no panic").expect("whole");
    assert_eq!(read.len(), 64 * piece.len());
    assert!(began.elapsed() < PATIENCE);
    // And it may still read everything, late.
    let mut late = Vec::new();
    let mut buffer = vec![0; 1 << 16];
    while !late.ends_with(b"\r\n0\r\n\r\n") {
        let length = tokio::time::timeout(PATIENCE, stuck.read(&mut buffer))
            .await
            .expect("in time")
            .expect("no break");
        assert!(length > 0, "the answer ended early");
        late.extend(&buffer[..length]);
    }
    assert!(late.iter().filter(|&&byte| byte == 7).count() >= read.len());
}

#[tokio::test]
async fn a_write_reaches_a_follower_soon() {
    let app = TestApp::start().await;
    let id = app.submit(&json!({"code": ""})).await;
    let mut attempt = app.worker().claim().await;
    attempt.start().await;
    let mut following = Following::open(&app, &id, "").await;
    let mut fastest = Duration::MAX;
    for n in 1..=20 {
        let began = Instant::now();
        attempt.write(Stream::Stdout, b"x").await;
        following.until(n).await;
        fastest = fastest.min(began.elapsed());
    }
    assert!(fastest < Duration::from_millis(50), "{fastest:?}: wake-ups do not arrive");
}
