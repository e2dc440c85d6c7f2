//! Black box: requests with a document for an answer.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use hood_client::api::{BatchSubmission, State, Submission};
use hood_client::{Client, Error, ListQuery, Retry};

use crate::fake::{Answer, Fake};

const BATCH: &str = r#"{"id":"ba_1","evaluations":["ev_1"]}"#;
const VERSION: &str = r#"{"name":"fumehood","version":"0.1.0","api":"v1"}"#;
const LIST: &str = r#"{"items":[],"next_cursor":null}"#;
const INVALID: &str = r#"{"type":"/docs/errors#invalid","title":"The submission is not valid","status":422,
    "detail":"1 field is wrong","code":"invalid","request_id":"r1",
    "errors":[{"path":"limits.wall_ms","message":"is 0, below the minimum of 10"}]}"#;

fn submission() -> Submission {
    Submission { code: Some("print(1)".into()), ..Submission::default() }
}

#[tokio::test]
async fn a_submission_is_sent_again_under_the_same_key_until_it_is_answered() {
    let fake = Fake::new(vec![
        Answer::Breaks(vec![r#"{"id":"#]),
        Answer::Busy { status: 503, retry_after: "0" },
        Answer::Busy { status: 429, retry_after: "0" },
        Answer::Json(201, BATCH),
    ])
    .await;
    let batch = BatchSubmission { evaluations: vec![submission()] };
    let created = fake.client().submit_batch(&batch, "key-1").await.expect("accepted");
    assert_eq!(created.id, "ba_1");
    let asked = fake.asked();
    assert_eq!(asked.len(), 4);
    for asked in &asked {
        assert_eq!(asked.line, "POST /v1/batches");
        assert_eq!(asked.header("idempotency-key"), Some("key-1"));
        assert_eq!(asked.header("authorization"), Some("Bearer fh_secret"));
        assert_eq!(asked.header("content-type"), Some("application/json"));
        assert_eq!(asked.body, r#"{"evaluations":[{"code":"print(1)"}]}"#);
    }
}

#[tokio::test]
async fn keys_made_for_a_caller_differ_between_submissions_and_not_between_tries() {
    let refuse = || Answer::Json(422, INVALID);
    let fake = Fake::new(vec![Answer::Busy { status: 503, retry_after: "0" }, refuse(), refuse()]).await;
    let client = fake.client();
    for _ in 0..2 {
        let error = client.submit(&submission(), Some(Duration::from_secs(10))).await.expect_err("refused");
        assert_eq!((error.status(), error.code()), (Some(422), Some("invalid")));
        assert!(error.to_string().contains("\n  limits.wall_ms: is 0, below the minimum of 10"), "{error}");
    }
    let asked = fake.asked();
    let keys: Vec<_> = asked.iter().map(|asked| asked.header("idempotency-key").expect("a key")).collect();
    assert_eq!(keys[0], keys[1]);
    assert_ne!(keys[1], keys[2]);
    assert_eq!(asked[0].line, "POST /v1/evaluations?wait=10000ms");
}

#[tokio::test]
async fn what_the_server_asks_to_wait_is_waited_and_told() {
    let fake =
        Fake::new(vec![Answer::Busy { status: 503, retry_after: "1" }, Answer::Json(200, VERSION)]).await;
    let pauses = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&pauses);
    let client = Client::builder(&fake.address)
        .on_pause(move |pause| told.lock().expect("unpoisoned").push(pause.clone()))
        .build()
        .expect("a client");
    tokio::time::timeout(Duration::from_secs(10), client.version())
        .await
        .expect("in time")
        .expect("a version");
    let pauses = pauses.lock().expect("unpoisoned");
    assert_eq!(pauses.len(), 1);
    assert!(pauses[0].delay >= Duration::from_secs(1));
    assert!(pauses[0].why.contains("the queue is full"));
}

#[tokio::test]
async fn without_patience_the_first_answer_counts() {
    let fake = Fake::new(vec![Answer::Busy { status: 503, retry_after: "7" }]).await;
    let error = fake.client().with_retry(Retry::NONE).version().await.expect_err("busy");
    let Error::Refused { problem, retry_after } = error else { panic!("{error:?}") };
    assert_eq!((problem.code.as_str(), retry_after), ("queue_full", Some(Duration::from_secs(7))));
    assert_eq!(fake.asked().len(), 1);
}

#[tokio::test]
async fn errors_of_the_request_are_not_tried_again() {
    for status in [400, 401, 404, 409, 413, 415, 421, 422, 500] {
        let fake = Fake::new(vec![Answer::Empty(status)]).await;
        let error = fake.client().version().await.expect_err("refused");
        assert!(matches!(error, Error::Unexplained { status: said, .. } if said == status), "{error:?}");
        assert_eq!(fake.asked().len(), 1);
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed_since_the_token_is_for_this_server() {
    let fake = Fake::new(vec![Answer::Empty(302)]).await;
    assert!(matches!(fake.client().version().await, Err(Error::Unexplained { status: 302, .. })));
}

#[tokio::test]
async fn a_document_that_is_none_is_said_to_be_none() {
    let fake = Fake::new(vec![Answer::Json(200, "<html>"), Answer::Json(200, VERSION)]).await;
    let error = fake.client().version().await.expect_err("no document");
    assert_eq!(error.to_string(), "cannot read the answer to GET /v1/version");
}

#[tokio::test]
async fn a_list_asks_for_everything_that_was_chosen() {
    let fake = Fake::new(vec![Answer::Json(200, LIST)]).await;
    let query = ListQuery {
        states: vec![State::Queued, State::Failed],
        labels: vec![("course".into(), "a&b=c".into()), ("run".into(), "1".into())],
        since: Some("2026-01-02T03:04:05Z".into()),
        batch: Some("ba_1".into()),
        cursor: Some("ev_9".into()),
        limit: Some(20),
    };
    fake.client().list(&query).await.expect("a page");
    assert_eq!(
        fake.lines(),
        ["GET /v1/evaluations?state=queued&state=failed&label=course%3Da%26b%3Dc&label=run%3D1\
          &since=2026-01-02T03%3A04%3A05Z&batch=ba_1&cursor=ev_9&limit=20"]
    );
}

#[tokio::test]
async fn an_id_can_name_no_other_path() {
    let fake = Fake::new(vec![Answer::Empty(404), Answer::Empty(404)]).await;
    let client = fake.client();
    assert!(client.get("../queue?x=1", None).await.expect_err("no such").is_not_found());
    assert_eq!(fake.lines(), ["GET /v1/evaluations/..%2Fqueue%3Fx=1"]);
    assert!(client.get("..", None).await.is_err());
    assert!(client.delete("").await.is_err());
    assert_eq!(fake.asked().len(), 1, "nothing was sent for what names nothing");
}
