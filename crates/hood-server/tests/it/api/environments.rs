//! Grey box: the API from outside, the worker's report through the store.

use serde_json::json;

use crate::support::app::TestApp;

#[tokio::test]
async fn environments_are_those_that_the_worker_reported() {
    let app = TestApp::start().await;
    let list = app.get("/v1/environments").await.expect(200).json();
    assert_eq!(list["items"].as_array().expect("a list").len(), 2);
    assert_eq!(list["next_cursor"], json!(null));
    let minimal = app.get("/v1/environments/minimal").await.expect(200).json();
    assert_eq!(minimal, list["items"][0]);
    assert_eq!((&minimal["default"], &minimal["state"]), (&json!(true), &json!("ready")));
    assert_eq!(minimal["default_limits"]["wall_ms"], 30_000);
    app.get("/v1/environments/moon").await.problem(404, "environment_not_found");
}

#[tokio::test]
async fn before_the_worker_reports_there_are_none() {
    let app = TestApp::with(|settings| settings.catalogue = None).await;
    assert_eq!(app.get("/v1/environments").await.expect(200).json()["items"], json!([]));
    app.get("/v1/environments/minimal").await.problem(404, "environment_not_found");
}
