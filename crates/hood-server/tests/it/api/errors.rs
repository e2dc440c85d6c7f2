//! Black box: every status that the API promises, each by one request, in one place.

use hood_core::Verdict;
use reqwest::Method;
use serde_json::json;

use crate::support::answer::Answer;
use crate::support::app::TestApp;

#[tokio::test]
async fn each_promised_status_is_met() {
    let app = TestApp::with(|settings| {
        settings.limits.body.bytes_max = 500;
        settings.limits.stream.streams_max = 0;
        settings.store.queue_max = 1;
    })
    .await;
    let id = app.submit(&json!({"code": ""})).await;
    let one = format!("/v1/evaluations/{id}");
    let post = |body: &str| {
        app.request(Method::POST, "/v1/evaluations")
            .header("content-type", "application/json")
            .body(body.to_owned())
    };
    Answer::of(post("{")).await.problem(400, "malformed_json");
    Answer::of(app.bare(Method::GET, &one)).await.problem(401, "unauthenticated");
    Answer::of(app.request(Method::GET, &one).header("origin", "http://evil.example"))
        .await
        .problem(403, "foreign_origin");
    app.get("/v1/evaluations/ev_00000000000000000000000000000000").await.problem(404, "evaluation_not_found");
    Answer::of(app.request(Method::PUT, &one)).await.problem(405, "method_not_allowed");
    app.delete(&one).await.problem(409, "not_terminal");
    Answer::of(post(&" ".repeat(501))).await.problem(413, "body_too_large");
    let text = app.request(Method::POST, "/v1/evaluations").header("content-type", "text/plain").body("{}");
    Answer::of(text).await.problem(415, "unsupported_media_type");
    Answer::of(app.request(Method::GET, &one).header("host", "evil.example"))
        .await
        .problem(421, "misdirected_request");
    Answer::of(post(r#"{"colour": 1}"#)).await.problem(422, "invalid_fields");
    app.get(&format!("{one}?wait=1s")).await.problem(429, "too_many_streams");
    Answer::of(post(r#"{"code": ""}"#)).await.problem(503, "queue_full");
    let mut attempt = app.worker().claim().await;
    attempt.start().await;
    attempt.finish(Verdict::Succeeded, Some(0)).await;
    let range = app.request(Method::GET, &format!("{one}/stdout")).header("range", "bytes=1-");
    Answer::of(range).await.problem(416, "range_not_satisfiable");
}
