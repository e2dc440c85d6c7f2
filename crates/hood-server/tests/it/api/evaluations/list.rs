//! Grey box: the API from outside, the worker's side through the store.

use hood_core::{Tenant, Verdict};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::answer::Answer;
use crate::support::app::TestApp;

fn ids(page: &Value) -> Vec<String> {
    let items = page["items"].as_array().expect("a list");
    items.iter().map(|item| item["id"].as_str().expect("an id").to_owned()).collect()
}

#[tokio::test]
async fn pages_go_newest_first_and_are_stable_under_inserts() {
    let app = TestApp::start().await;
    let mut submitted = Vec::new();
    for i in 0..7 {
        submitted.push(app.submit(&json!({"code": format!("{i}")})).await);
    }
    submitted.sort();
    submitted.reverse();
    let mut seen = Vec::new();
    let mut path = "/v1/evaluations?limit=3".to_owned();
    loop {
        let page = app.get(&path).await.expect(200).json();
        assert!(page["items"].as_array().expect("a list").len() <= 3);
        seen.extend(ids(&page));
        // What comes meanwhile is on none of the pages that follow.
        app.submit(&json!({"code": "new"})).await;
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("/v1/evaluations?limit=3&cursor={cursor}");
    }
    assert_eq!(seen, submitted);
}

#[tokio::test]
async fn filters_hold_all_together() {
    let app = TestApp::start().await;
    let label = |a: &str, b: &str| json!({"code": "", "labels": {"a": a, "b": b}});
    let first = app.submit(&label("1", "x=y")).await;
    let mut attempt = app.worker().claim().await;
    attempt.start().await;
    attempt.finish(Verdict::Failed, Some(1)).await;
    let second = app.submit(&label("1", "z")).await;
    let third = app.submit(&label("2", "x=y")).await;
    let list =
        async |query: &str| ids(&app.get(&format!("/v1/evaluations?{query}")).await.expect(200).json());
    assert_eq!(list("label=a%3D1").await.len(), 2);
    assert_eq!(list("label=a%3D1&label=b%3Dx%3Dy").await, std::slice::from_ref(&first));
    assert_eq!(list("label=a%3D1&state=queued").await, std::slice::from_ref(&second));
    assert_eq!(list("state=failed,cancelled").await, std::slice::from_ref(&first));
    assert_eq!(list("state=failed&state=queued").await.len(), 3);
    assert_eq!(list("label=a%3D3").await, [] as [String; 0]);
    assert_eq!(list("since=2020-01-01T00:00:00Z&label=a%3D2").await, [third]);
    assert_eq!(list("since=2100-01-01T00:00:00Z").await, [] as [String; 0]);
    let summary = &app.get("/v1/evaluations?state=failed").await.json()["items"][0];
    assert_eq!(
        (&summary["exit_code"], &summary["verdict"], &summary["attempts"]),
        (&json!(1), &json!("failed"), &json!(1))
    );
}

#[tokio::test]
async fn wrong_parameters_are_all_named() {
    let app = TestApp::with(|settings| settings.limits.page.max = 5).await;
    let paths =
        app.get("/v1/evaluations?limit=6&cursor=%21&state=odd&label=x&since=now&batch=ba_1&colour=red").await;
    let expected = ["state", "label", "since", "batch", "cursor", "limit", "colour"];
    assert_eq!(paths.wrong_paths(400, "invalid_parameter"), expected);
    app.get("/v1/evaluations?limit=5").await.expect(200);
    for wrong in ["limit=0", "limit=-1", "limit=x", "cursor=", "cursor=ZXZfMA"] {
        app.get(&format!("/v1/evaluations?{wrong}")).await.problem(400, "invalid_parameter");
    }
}

#[tokio::test]
async fn one_tenant_sees_nothing_of_another() {
    let app = TestApp::start().await;
    let id = app.submit(&json!({"code": ""})).await;
    let token = app.add_key("other", &Tenant::new("other")).await;
    let as_other =
        async |method: Method, path: &str| Answer::of(app.bare(method, path).bearer_auth(&token)).await;
    assert_eq!(ids(&as_other(Method::GET, "/v1/evaluations").await.expect(200).json()), [] as [String; 0]);
    let path = format!("/v1/evaluations/{id}");
    for under in ["", "/events", "/stdout"] {
        as_other(Method::GET, &format!("{path}{under}")).await.problem(404, "evaluation_not_found");
    }
    as_other(Method::DELETE, &path).await.problem(404, "evaluation_not_found");
    as_other(Method::POST, &format!("{path}/cancel")).await.problem(404, "evaluation_not_found");
    assert_eq!(app.get(&path).await.json()["cancel_requested"], false);
}
