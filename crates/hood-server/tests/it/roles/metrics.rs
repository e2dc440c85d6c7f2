//! Black box: what each role's metrics are, beside the page that lists them, and what its health tells in
//! detail.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde_json::{Value, json};

use super::process::Process;
use super::receiver::Receiver;
use super::site::{Site, until};
use crate::support::server::shared_images;

const PAGE: &str = include_str!("../../../../../docs/metrics.md");

/// Beyond this something that is not bounded has become a label.
const SERIES_MAX: usize = 1500;

/// One metric, as the page or a process has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Metric {
    kind: String,
    labels: BTreeSet<String>,
    help: String,
}

type Metrics = BTreeMap<String, Metric>;

/// Those that the page lists for a role.
fn documented(role: &str) -> Metrics {
    let rows = PAGE.lines().filter_map(|line| line.strip_prefix("| `fumehood_"));
    let mut found = Metrics::new();
    for row in rows {
        let cells: Vec<&str> = row.trim_end_matches('|').split(" | ").map(str::trim).collect();
        let [name, kind, labels, of, help] = cells[..] else { panic!("not five cells: {row}") };
        if of.split(", ").any(|known| known == role) {
            let labels = labels.split(", ").filter(|label| !label.is_empty());
            let labels = labels.map(|label| label.trim_matches('`').to_owned()).collect();
            let metric = Metric { kind: kind.to_owned(), labels, help: help.to_owned() };
            found.insert(format!("fumehood_{}", name.trim_end_matches('`')), metric);
        }
    }
    found
}

/// Those that a process answers with.
fn served(text: &str) -> Metrics {
    let mut found = Metrics::new();
    for line in text.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            found.entry(name.to_owned()).or_default().help = help.to_owned();
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        {
            found.entry(name.to_owned()).or_default().kind = kind.to_owned();
        } else if let Some((series, _)) = line.rsplit_once(' ') {
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let is_histogram =
                |name: &&str| found.get(*name).is_some_and(|metric| metric.kind == "histogram");
            let parts = ["_bucket", "_sum", "_count"];
            let of_histogram = parts.iter().find_map(|part| name.strip_suffix(part)).filter(is_histogram);
            let metric = found.entry(of_histogram.unwrap_or(name).to_owned()).or_default();
            let names = labels.trim_end_matches('}').split("\",").filter_map(|label| label.split_once('='));
            metric.labels.extend(names.map(|(name, _)| name.to_owned()).filter(|name| name != "le"));
        }
    }
    found
}

async fn get(process: &Process, path: &str, token: &str) -> String {
    let url = format!("http://{}{path}", process.address("http://"));
    let answer = reqwest::Client::new().get(url).bearer_auth(token).send().await.expect("an answer");
    assert_eq!(answer.status(), 200, "{path}");
    answer.text().await.expect("text")
}

/// Asked until it has what is documented: what happened a moment ago may not be counted yet.
async fn holds_to_the_page(role: &str, process: &Process, token: &str) {
    let wanted = documented(role);
    let mut text = get(process, "/metrics", token).await;
    for _ in 0..50 {
        if served(&text) == wanted {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        text = get(process, "/metrics", token).await;
    }
    assert_eq!(served(&text), wanted, "{role}");
    let series = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).count();
    assert!(series <= SERIES_MAX, "{role} has {series} series");
    assert!(!text.contains("ev_") && !text.contains("/hook"), "an id or a URL is a label of {role}");
}

/// A series' value.
async fn value(process: &Process, series: &str, token: &str) -> f64 {
    let text = get(process, "/metrics", token).await;
    let found =
        text.lines().find_map(|line| line.strip_prefix(series).and_then(|rest| rest.strip_prefix(' ')));
    found.unwrap_or_else(|| panic!("{series} is not in\n{text}")).parse().expect("a number")
}

async fn detail(process: &Process) -> Value {
    serde_json::from_str(&get(process, "/health/detailed", "").await).expect("JSON")
}

/// When a check last went well, by name.
fn last_ok(detail: &Value) -> BTreeMap<&str, bool> {
    let checks = detail["checks"].as_array().expect("checks").iter();
    checks.map(|check| (check["name"].as_str().expect("a name"), check["last_ok_age_ms"].is_u64())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_role_serves_what_the_page_lists_and_tells_how_it_is() {
    let Some(site) = Site::new().await else { return };
    let receiver = Receiver::plain([127, 0, 0, 1]).await;
    let (api, dispatcher) = (site.api(), site.dispatcher("127.0.0.1:0"));
    let worker = site.worker("w1", &dispatcher.address("https://"));
    let notifier = site.notifier("n1", &[]);
    let submission = json!({ "code": "exit(3)", "priority": 7, "callback_url": receiver.url });
    let id = site.submit_as(&api, &submission).await;
    site.wait_for(&api, &id, |seen| !seen["verdict"].is_null()).await;
    until("a webhook", || (!receiver.requests().is_empty()).then_some(())).await;

    let token = fs::read_to_string(site.dir.path().join("api/token")).expect("a token");
    let token = token.trim();
    for (role, process) in
        [("api", &api), ("worker", &worker), ("dispatcher", &dispatcher), ("notifier", &notifier)]
    {
        holds_to_the_page(role, process, token).await;
    }
    for (process, series) in [
        (&api, r#"fumehood_submissions_total{outcome="accepted"}"#),
        (&worker, r#"fumehood_evaluations_finished_total{verdict="failed"}"#),
        (&worker, "fumehood_attempts_total"),
        (&worker, r#"fumehood_dispatchers{state="answering"}"#),
        (&dispatcher, r#"fumehood_places_opened_total{outcome="opened"}"#),
        (&notifier, r#"fumehood_webhook_tries_total{outcome="delivered"}"#),
    ] {
        assert_eq!(value(process, series, token).await, 1.0, "{series}");
    }
    // It runs, and it ends: that it was leased is the claim's own.
    assert_eq!(value(&worker, "fumehood_event_commit_seconds_count", token).await, 2.0);

    let (worker, dispatcher, notifier) =
        (detail(&worker).await, detail(&dispatcher).await, detail(&notifier).await);
    assert_eq!((&worker["leases_held"], &worker["queue"]["depth"]), (&json!(0), &json!([])), "{worker}");
    assert_eq!(worker["dispatchers"], json!({ "answering": 1, "away": 0 }));
    assert!(worker["last_finished_age_ms"].is_u64(), "{worker}");
    assert_eq!(dispatcher["places"], json!({ "live": 0, "most": 4 }), "{dispatcher}");
    assert_eq!(notifier["deliveries"], json!({ "pending": 0, "overdue_ms": 0 }), "{notifier}");
    let all_well =
        |names: &[&'static str]| names.iter().map(|name| (*name, true)).collect::<BTreeMap<_, _>>();
    let of_worker = ["store", "blobs", "dispatchers", "every_dispatcher", "worker"];
    assert_eq!(last_ok(&worker), all_well(&of_worker));
    assert_eq!(last_ok(&dispatcher), all_well(&["sandbox"]));
    assert_eq!(last_ok(&notifier), all_well(&["store", "notifier"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_is_told_by_class_also_by_a_worker_that_cannot_take_it() {
    let Some(site) = Site::new().await else { return };
    let (api, played) = (site.api(), site.worker_store().await);
    for priority in [9, 9, 2] {
        site.submit_as(&api, &json!({ "code": "", "priority": priority })).await;
    }
    // It has a dispatcher's address, and nobody is there.
    let worker = site.worker("w1", "127.0.0.1:1");
    let queued = |priority| format!(r#"fumehood_queue_depth{{state="queued",priority="{priority}"}}"#);
    let token = fs::read_to_string(site.dir.path().join("api/token")).expect("a token");
    for process in [&api, &worker] {
        for (priority, count) in [(9, 2.0), (2, 1.0), (5, 0.0)] {
            assert_eq!(value(process, &queued(priority), token.trim()).await, count, "{priority}");
        }
        let oldest = |priority| format!(r#"fumehood_queue_oldest_age_seconds{{priority="{priority}"}}"#);
        assert!(value(process, &oldest(2), token.trim()).await > 0.0);
        assert_eq!(value(process, &oldest(5), token.trim()).await, 0.0);
    }
    assert_eq!(value(&worker, r#"fumehood_dispatchers{state="away"}"#, "").await, 1.0);
    let told = detail(&worker).await;
    let depth = json!([
        { "state": "queued", "priority": 9, "count": 2 },
        { "state": "queued", "priority": 2, "count": 1 },
    ]);
    assert_eq!(told["queue"]["depth"], depth, "{told}");
    let oldest = told["queue"]["oldest"].as_array().expect("ages");
    assert!(oldest.len() == 2 && oldest.iter().all(|class| class["age_ms"].is_u64()), "{told}");
    assert!(!last_ok(&told)["dispatchers"], "it never answered: {told}");
    played.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn serve_serves_what_the_page_lists_for_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let settings = [
        ("server.listen", "127.0.0.1:0".to_owned()),
        ("environments.images_dir", shared_images().to_string_lossy().into_owned()),
    ];
    let process = Process::start("serve", dir.path(), &settings);
    let token = fs::read_to_string(dir.path().join("serve/token")).expect("a token");
    get(&process, "/v1/version", token.trim()).await;
    holds_to_the_page("serve", &process, token.trim()).await;
}
