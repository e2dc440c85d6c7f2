//! Black box: what stands before every handler.

use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::answer::Answer;
use crate::support::app::{PATIENCE, TestApp};

/// Everything that needs a key.
const KEYED: [(&str, &str); 15] = [
    ("GET", "/v1/evaluations"),
    ("POST", "/v1/evaluations"),
    ("GET", "/v1/evaluations/ev_00000000000000000000000000000000"),
    ("DELETE", "/v1/evaluations/ev_00000000000000000000000000000000"),
    ("GET", "/v1/evaluations/ev_00000000000000000000000000000000/events"),
    ("GET", "/v1/evaluations/ev_00000000000000000000000000000000/stdout"),
    ("GET", "/v1/evaluations/ev_00000000000000000000000000000000/stderr"),
    ("POST", "/v1/evaluations/ev_00000000000000000000000000000000/cancel"),
    ("POST", "/v1/batches"),
    ("GET", "/v1/batches/ba_00000000000000000000000000000000"),
    ("GET", "/v1/environments"),
    ("GET", "/v1/queue"),
    ("GET", "/v1/version"),
    ("GET", "/health/detailed"),
    ("GET", "/metrics"),
];

#[tokio::test]
async fn without_a_key_everything_but_health_and_documentation_is_closed() {
    let app = TestApp::start().await;
    for (method, path) in KEYED {
        let method: Method = method.parse().expect("a method");
        let answer = Answer::of(app.bare(method.clone(), path)).await;
        answer.problem(401, "unauthenticated");
        assert_eq!(answer.header("www-authenticate"), r#"Bearer realm="fumehood""#, "{path}");
        for wrong in ["Bearer wrong", "Bearer ", "Bearer", "Basic eDp5", "", &app.token] {
            let request = app.bare(method.clone(), path).header("authorization", wrong);
            Answer::of(request).await.problem(401, "unauthenticated");
        }
    }
    let lower = app.bare(Method::GET, "/v1/version").header("authorization", format!("bearer {}", app.token));
    Answer::of(lower).await.expect(200);
    for path in ["/healthz", "/readyz", "/docs/", "/docs/errors", "/openapi/v1.json"] {
        Answer::of(app.bare(Method::GET, path)).await.expect(200);
    }
}

/// Sends a request as it is written and returns what comes back until the connection is closed.
async fn raw(app: &TestApp, request: &str) -> String {
    let mut stream = TcpStream::connect(app.address).await.expect("a connection");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    let reading = stream.read_to_end(&mut answer);
    tokio::time::timeout(PATIENCE, reading).await.expect("in time").expect("read");
    String::from_utf8_lossy(&answer).into_owned()
}

async fn with_host(app: &TestApp, host: &str) -> String {
    raw(app, &format!("GET /healthz HTTP/1.1\r\n{host}connection: close\r\n\r\n")).await
}

#[tokio::test]
async fn only_our_own_names_are_answered() {
    let app = TestApp::with(|settings| settings.allowed_hosts = vec!["hood.example".to_owned()]).await;
    let port = app.address.port();
    for ours in [
        format!("127.0.0.1:{port}"),
        format!("localhost:{port}"),
        format!("[::1]:{port}"),
        "hood.example".to_owned(),
    ] {
        let answer = with_host(&app, &format!("host: {ours}\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{ours}: {answer}");
    }
    for foreign in [
        format!("evil.example:{port}"),
        "localhost".to_owned(),
        format!("localhost:{}", port ^ 1),
        String::new(),
    ] {
        let answer = with_host(&app, &format!("host: {foreign}\r\n")).await;
        assert!(
            answer.starts_with("HTTP/1.1 421 ") && answer.contains("misdirected_request"),
            "{foreign}: {answer}"
        );
    }
    let answer = raw(
        &app,
        &format!(
            "GET http://evil.example/healthz HTTP/1.1\r\nhost: localhost:{port}\r\nconnection: close\r\n\r\n"
        ),
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 421 "), "{answer}");
    for none_or_two in ["", "host: localhost\r\nhost: evil.example\r\n"] {
        let answer = with_host(&app, none_or_two).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    }
}

#[tokio::test]
async fn pages_of_other_origins_get_nothing() {
    let app = TestApp::start().await;
    for (name, value) in [
        ("origin", "http://evil.example"),
        ("origin", "null"),
        ("origin", "http://localhost:1"),
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
    ] {
        for path in ["/v1/version", "/healthz", "/docs/"] {
            let answer = Answer::of(app.request(Method::GET, path).header(name, value)).await;
            answer.problem(403, "foreign_origin");
        }
    }
    let own = app
        .request(Method::GET, "/v1/version")
        .header("origin", app.url(""))
        .header("sec-fetch-site", "same-origin");
    let answer = Answer::of(own).await.expect(200);
    assert!(answer.headers.keys().all(|name| !name.as_str().starts_with("access-control-")));
    let preflight = app.bare(Method::OPTIONS, "/v1/evaluations").header("origin", app.url(""));
    let answer = Answer::of(preflight.header("access-control-request-method", "POST")).await;
    assert!(
        answer.status >= 400
            && answer.headers.keys().all(|name| !name.as_str().starts_with("access-control-"))
    );
}

#[tokio::test]
async fn every_answer_has_an_id_and_says_that_it_is_no_page() {
    let app = TestApp::start().await;
    let given = Answer::of(app.request(Method::GET, "/v1/version").header("x-request-id", "my-id_1.2")).await;
    assert_eq!(given.header("x-request-id"), "my-id_1.2");
    for odd in ["a b", "<script>", &"x".repeat(65)] {
        let answer = Answer::of(app.request(Method::GET, "/v1/version").header("x-request-id", odd)).await;
        assert_eq!(answer.header("x-request-id").len(), 32, "{odd}");
    }
    for path in ["/v1/version", "/nowhere", "/v1/evaluations/x"] {
        let answer = app.get(path).await;
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        assert_eq!(answer.header("cache-control"), "no-store");
        assert!(answer.header("content-security-policy").contains("default-src 'none'"));
    }
}

#[tokio::test]
async fn unknown_paths_and_methods_are_problems_too() {
    let app = TestApp::start().await;
    for path in ["/nowhere", "/v1", "/v1/", "/v1/evaluations/", "/v2/evaluations", "/docs/nothing.js"] {
        app.get(path).await.problem(404, "not_found");
    }
    app.get("/v1/evaluations/%ff").await.problem(404, "not_found");
    for (method, path, allowed) in [
        (Method::PUT, "/v1/evaluations", "POST"),
        (Method::PATCH, "/v1/evaluations/ev_00000000000000000000000000000000", "DELETE"),
        (Method::GET, "/v1/batches", "POST"),
        (Method::POST, "/healthz", "GET"),
    ] {
        let answer = Answer::of(app.request(method, path)).await;
        answer.problem(405, "method_not_allowed");
        assert!(answer.header("allow").contains(allowed), "{path}: {}", answer.header("allow"));
    }
}

#[tokio::test]
async fn a_key_has_a_rate() {
    let app = TestApp::with(|settings| {
        settings.limits.rate.requests_per_second = 1;
        settings.limits.rate.burst = 3;
    })
    .await;
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(app.get("/v1/version").await.status);
    }
    assert_eq!(statuses, [200, 200, 200, 429]);
    let answer = app.get("/v1/version").await;
    answer.problem(429, "rate_limited");
    assert_eq!(answer.header("retry-after"), "1");
    Answer::of(app.bare(Method::GET, "/healthz")).await.expect(200);
    let other = app.add_key("other", &hood_core::Tenant::default()).await;
    Answer::of(app.bare(Method::GET, "/v1/version").bearer_auth(other)).await.expect(200);
}

#[tokio::test]
async fn a_head_is_bounded_in_size_number_and_time() {
    let app = TestApp::with(|settings| {
        settings.limits.connection.head_bytes_max = 8192;
        settings.limits.connection.headers_max = 20;
        settings.limits.connection.head_timeout = Duration::from_millis(100);
    })
    .await;
    let host = format!("host: {}\r\nconnection: close\r\n", app.address);
    let long = format!("x-long: {}\r\n", "a".repeat(9000));
    let answer = raw(&app, &format!("GET /healthz HTTP/1.1\r\n{host}{long}\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    let many: String = (0..30).map(|i| format!("x-{i}: 1\r\n")).collect();
    let answer = raw(&app, &format!("GET /healthz HTTP/1.1\r\n{host}{many}\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    // A head that never ends: the connection is closed, and others are served meanwhile.
    let slow = raw(&app, "GET /healthz HTTP/1.1\r\n");
    let other = Answer::of(app.bare(Method::GET, "/healthz"));
    let (_, other) = tokio::join!(slow, other);
    other.expect(200);
}

#[tokio::test]
async fn a_body_that_trickles_is_given_up() {
    let app = TestApp::with(|settings| settings.limits.body.timeout = Duration::from_millis(100)).await;
    let head = format!(
        "POST /v1/evaluations HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\n\
         content-length: 100\r\nconnection: close\r\n\r\n{{",
        app.address, app.token
    );
    let answer = raw(&app, &head).await;
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("body_timeout"), "{answer}");
}

#[tokio::test]
async fn memory_for_bodies_is_bounded_over_all_requests() {
    let app = TestApp::with(|settings| {
        settings.limits.body.bytes_max = 8192;
        settings.limits.body.all_bytes_max = 8192;
        settings.limits.body.share_timeout = Duration::from_millis(50);
    })
    .await;
    let mut holder = TcpStream::connect(app.address).await.expect("a connection");
    let head = format!(
        "POST /v1/evaluations HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\n\
         content-length: 8000\r\nexpect: 100-continue\r\n\r\n",
        app.address, app.token
    );
    holder.write_all(head.as_bytes()).await.expect("sent");
    let mut buffer = [0; 64];
    let length = holder.read(&mut buffer).await.expect("read");
    assert!(buffer[..length].starts_with(b"HTTP/1.1 100"), "its share is taken");
    let answer = app.post("/v1/evaluations", &json!({"code": ""})).await;
    answer.problem(503, "overloaded");
    assert_eq!(answer.header("retry-after"), "1");
    drop(holder);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while app.post("/v1/evaluations", &json!({"code": ""})).await.status != 201 {
        assert!(tokio::time::Instant::now() < deadline, "the share was not given back");
    }
}

#[tokio::test]
async fn connections_beyond_the_bound_wait_for_a_place() {
    let app = TestApp::with(|settings| settings.limits.connection.connections_max = 2).await;
    let first = TcpStream::connect(app.address).await.expect("a connection");
    let _second = TcpStream::connect(app.address).await.expect("a connection");
    let request = format!("GET /healthz HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", app.address);
    let third = raw(&app, &request);
    tokio::pin!(third);
    let early = tokio::time::timeout(Duration::from_millis(100), &mut third).await;
    assert!(early.is_err(), "the third was answered while two were open");
    drop(first);
    assert!(third.await.starts_with("HTTP/1.1 200 "));
}
