//! Grey box: the API from outside, the worker's side through the store.

use std::time::Duration;

use hood_server::clock::{Clock as _, SystemClock};
use serde_json::{Value, json};

use crate::support::app::TestApp;

/// One that infrastructure failed as often as it may.
async fn dead(app: &TestApp, suite: &str) -> String {
    let id = app.submit(&json!({"code": "print(1)", "labels": {"suite": suite}, "priority": 7})).await;
    for attempt in 1..=5 {
        app.worker().claim().await.lose_for_good_if(attempt == 5, "no place").await;
    }
    assert_eq!(app.get(&format!("/v1/evaluations/{id}")).await.json()["verdict"], "infrastructure_error");
    id
}

#[tokio::test]
async fn what_is_archived_is_in_no_list_and_is_given_no_other_life() {
    let app = TestApp::start().await;
    let id = dead(&app, "a").await;
    let now = SystemClock.now().after(Duration::from_secs(1));
    assert_eq!(app.store.archive(now, now).await.expect("archives"), 1);
    assert!(ids(&app, "").await.is_empty());
    for dry_run in [true, false] {
        let asked = json!({"ids": [id], "dry_run": dry_run});
        let report = app.post("/v1/dead/requeue", &asked).await.expect(200).json();
        assert_eq!(report["items"][0]["outcome"], "archived", "{report}");
    }
}

async fn ids(app: &TestApp, query: &str) -> Vec<Value> {
    let list = app.get(&format!("/v1/dead{query}")).await.expect(200).json();
    list["items"].as_array().expect("items").iter().map(|item| item["id"].clone()).collect()
}

#[tokio::test]
async fn the_dead_are_shown_with_every_attempt() {
    let app = TestApp::start().await;
    let id = dead(&app, "a").await;
    app.submit(&json!({"code": ""})).await;
    let list = app.get("/v1/dead").await.expect(200).json();
    let [one] = list["items"].as_array().expect("items").as_slice() else { panic!("{list}") };
    assert_eq!((&one["id"], &one["requeued_as"], &one["priority"]), (&json!(id), &json!(null), &json!(7)));
    let attempts = one["attempts"].as_array().expect("attempts");
    assert_eq!(attempts.len(), 5);
    assert!(attempts.iter().all(|attempt| attempt["lost"]["reason"] == "no place"), "{one}");
    assert!(ids(&app, "?label=suite=b").await.is_empty());
    app.get("/v1/dead?limit=101").await.problem(400, "invalid_parameter");
}

#[tokio::test]
async fn one_is_requeued_once_and_leads_to_its_next_life() {
    let app = TestApp::start().await;
    let (id, other) = (dead(&app, "a").await, app.submit(&json!({"code": ""})).await);
    let unknown = format!("ev_{}", "0".repeat(32));
    let asked = json!({"ids": [id, other, unknown]});
    let dry = json!({"ids": [id, other, unknown], "dry_run": true});
    let outcomes = |report: &Value| -> Vec<Value> {
        report["items"].as_array().expect("items").iter().map(|item| item["outcome"].clone()).collect()
    };
    let would = app.post("/v1/dead/requeue", &dry).await.expect(200).json();
    assert_eq!(outcomes(&would), ["would_requeue", "not_dead", "not_found"]);
    assert_eq!(ids(&app, "").await, [json!(id)], "nothing was done");
    let report = app.post("/v1/dead/requeue", &asked).await.expect(200).json();
    assert_eq!(outcomes(&report), ["requeued", "not_dead", "not_found"]);
    let again = report["items"][0]["requeued_as"].as_str().expect("an id").to_owned();
    let twice = app.post("/v1/dead/requeue", &asked).await.expect(200).json();
    assert_eq!(
        (&outcomes(&twice)[0], &twice["items"][0]["requeued_as"]),
        (&json!("already_requeued"), &json!(again))
    );

    let life = app.get(&format!("/v1/evaluations/{again}")).await.expect(200).json();
    assert_eq!(
        (&life["state"], &life["labels"]["suite"], &life["priority"]),
        (&json!("queued"), &json!("a"), &json!(7))
    );
    assert!(ids(&app, "").await.is_empty());
    let all = app.get("/v1/dead?all=true").await.json();
    assert_eq!((&all["items"][0]["id"], &all["items"][0]["requeued_as"]), (&json!(id), &json!(again)));
}

#[tokio::test]
async fn a_filter_requeues_as_many_as_were_expected_or_none() {
    let app = TestApp::start().await;
    for suite in ["a", "b", "a"] {
        dead(&app, suite).await;
    }
    let ask = async |more: Value| {
        let mut body = json!({"filter": {"labels": {"suite": "a"}}});
        body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        app.post("/v1/dead/requeue", &body).await
    };
    assert_eq!(ask(json!({})).await.wrong_paths(422, "invalid_fields"), ["expect"]);
    assert_eq!(ask(json!({"dry_run": true})).await.expect(200).json()["matched"], 2);
    ask(json!({"expect": 3})).await.problem(409, "count_mismatch");
    assert_eq!(ids(&app, "").await.len(), 3, "nothing was done");
    let report = ask(json!({"expect": 2})).await.expect(200).json();
    assert!(report["items"].as_array().expect("items").iter().all(|item| item["outcome"] == "requeued"));
    assert_eq!(ids(&app, "").await.len(), 1);
    let many: serde_json::Map<_, _> = (0..17).map(|n| (format!("l{n}"), json!("x"))).collect();
    for labels in [json!({"a\u{0}": "b"}), json!({"a": "\u{0}"}), many.into()] {
        let body = json!({"filter": {"labels": labels}, "dry_run": true});
        let answer = app.post("/v1/dead/requeue", &body).await;
        assert_eq!(answer.wrong_paths(422, "invalid_fields"), ["filter.labels"]);
    }
    for wrong in [json!({}), json!({"ids": ["x"]}), json!({"ids": [], "filter": {"since": "x"}, "expect": 0})]
    {
        assert_eq!(app.post("/v1/dead/requeue", &wrong).await.status, 422, "{wrong}");
    }
}
