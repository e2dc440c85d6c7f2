//! Grey box: the API from outside, the worker's side through the store.

use hood_core::Verdict;
use serde_json::json;

use crate::support::app::TestApp;

#[tokio::test]
async fn only_a_finished_one_can_be_deleted_and_then_it_is_gone() {
    let app = TestApp::start().await;
    let id = app.submit(&json!({"code": ""})).await;
    let path = format!("/v1/evaluations/{id}");
    app.delete(&path).await.problem(409, "not_terminal");
    let mut attempt = app.worker().claim().await;
    app.delete(&path).await.problem(409, "not_terminal");
    attempt.start().await;
    app.delete(&path).await.problem(409, "not_terminal");
    attempt.finish(Verdict::Succeeded, Some(0)).await;
    let deleted = app.delete(&path).await.expect(204);
    assert!(deleted.body.is_empty());
    for under in ["", "/events", "/stdout", "/stderr?follow=true"] {
        app.get(&format!("{path}{under}")).await.problem(404, "evaluation_not_found");
    }
    app.delete(&path).await.problem(404, "evaluation_not_found");
    assert_eq!(app.get("/v1/evaluations").await.json()["items"], json!([]));
}
