//! Black box: notifiers as processes beside the other roles, and receivers on this host.

use std::collections::BTreeSet;
use std::fs;

use hood_server::webhook::Signer;
use rustix::process::Signal;
use serde_json::{Value, json};

use super::process::Process;
use super::receiver::Receiver;
use super::site::{SECRET, Site, until};

/// One that has ended and is to be told there.
async fn ended(site: &Site, api: &Process, url: &str) -> String {
    let id = site.submit_as(api, &json!({ "code": "", "callback_url": url })).await;
    let (status, body) = site.call(api, &format!("/v1/evaluations/{id}/cancel"), Some(&json!({}))).await;
    assert_eq!(status, 202, "{body}");
    id
}

async fn delivery(site: &Site, api: &Process, id: &str) -> Value {
    let (status, list) = site.call(api, &format!("/v1/deliveries?evaluation={id}"), None).await;
    assert_eq!(status, 200, "{list}");
    list["items"][0].clone()
}

async fn delivery_that(site: &Site, api: &Process, id: &str, is: impl Fn(&Value) -> bool) -> Value {
    let began = std::time::Instant::now();
    loop {
        let found = delivery(site, api, id).await;
        if is(&found) {
            return found;
        }
        assert!(began.elapsed() < super::site::PATIENCE, "{found}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

fn is_delivered(delivery: &Value) -> bool {
    delivery["state"] == "delivered"
}

/// A series of the process's metrics; 0 where it is not there.
async fn metric(process: &Process, series: &str) -> f64 {
    let url = format!("http://{}/metrics", process.address("http://"));
    let text = reqwest::get(url).await.expect("an answer").text().await.expect("text");
    let line = text.lines().find_map(|line| line.strip_prefix(series));
    line.map_or(0.0, |value| value.trim().parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ended_is_told_over_https_by_a_process_that_does_nothing_else() {
    let Some(site) = Site::new().await else { return };
    let receiver = Receiver::tls(&site.authority).await;
    let (api, dispatcher) = (site.api(), site.dispatcher("127.0.0.1:0"));
    let _worker = site.worker("w1", &dispatcher.address("https://"));
    let submission = json!({ "code": "exit(7)", "callback_url": receiver.url });
    let id = site.submit_as(&api, &submission).await;
    // Who answers there is nobody that this one believes.
    let doubting = site.notifier("doubting", &[]);
    let tried = delivery_that(&site, &api, &id, |found| found["tries"].as_u64() > Some(0)).await;
    assert!(tried["last_reason"].as_str().is_some_and(|why| why.contains("certificate")), "{tried}");
    assert!(receiver.requests().is_empty(), "nothing was said to a stranger");
    assert!(doubting.stop().success());

    let ca = site.authority.path().join("ca.crt").to_string_lossy().into_owned();
    let notifier = site.notifier("n1", &[("webhooks.ca", ca)]);
    let again = format!("/v1/deliveries/{}/redeliver", tried["id"].as_str().expect("an id"));
    assert_eq!(site.call(&api, &again, Some(&json!({}))).await.0, 202);
    delivery_that(&site, &api, &id, is_delivered).await;
    let [request] = receiver.requests().try_into().expect("one");
    let (webhook, stamp) = (request.header("webhook-id"), request.header("webhook-timestamp"));
    let signer = Signer::new(SECRET).expect("sound");
    let expected = signer.sign(webhook, stamp.parse().expect("seconds"), request.body.as_bytes());
    assert_eq!(request.header("webhook-signature"), expected);
    let message: Value = serde_json::from_str(&request.body).expect("JSON");
    assert_eq!((&message["data"]["id"], &message["data"]["exit_code"]), (&json!(id), &json!(7)));

    let ready = reqwest::get(format!("http://{}/readyz", notifier.address("http://"))).await;
    let ready = ready.expect("an answer").text().await.expect("text");
    let ready: Value = serde_json::from_str(&ready).expect("JSON");
    let checks = ready["checks"].as_array().expect("checks");
    let names: BTreeSet<&str> = checks.iter().filter_map(|check| check["name"].as_str()).collect();
    assert_eq!((&ready["status"], names), (&json!("ok"), BTreeSet::from(["store", "notifier"])), "{ready}");
    assert!(!site.dir.path().join("notifier-n1").exists(), "it keeps nothing");
    assert!(notifier.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn however_many_are_due_to_one_host_all_are_sent_and_no_other_waits_for_them() {
    let Some(site) = Site::new().await else { return };
    let (api, worker) = (site.api(), site.worker_store().await);
    let (popular, other) = (Receiver::plain([127, 0, 0, 1]).await, Receiver::plain([127, 0, 0, 2]).await);
    let mut ids = Vec::new();
    for _ in 0..60 {
        ids.push(ended(&site, &api, &popular.url).await);
    }
    ids.push(ended(&site, &api, &other.url).await);
    let (notifier, began) = (site.notifier("n1", &[]), std::time::Instant::now());
    delivery_that(&site, &api, ids.last().expect("the other's"), is_delivered).await;
    let before = popular.requests().len();
    for id in &ids {
        let told = delivery_that(&site, &api, id, is_delivered).await;
        assert_eq!(told["tries"], 1, "{told}");
    }
    assert_eq!((popular.requests().len(), other.requests().len()), (60, 1), "each once");
    assert!(before < 60, "the other one waited for all of them");
    // Six seconds at ten a second; whoever looks for them once a second only needs sixty.
    assert!(began.elapsed().as_secs() < 45, "{:?}", began.elapsed());
    assert!(notifier.stop().success());
    worker.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_notifiers_share_the_work_and_send_each_message_once() {
    let Some(site) = Site::new().await else { return };
    let (api, worker) = (site.api(), site.worker_store().await);
    let notifiers = [site.notifier("n1", &[]), site.notifier("n2", &[])];
    // More than one target, since each gets only so much of a sender.
    let mut receivers = Vec::new();
    for last in 1..=6 {
        receivers.push(Receiver::plain([127, 0, 0, last]).await);
    }
    let mut ids = BTreeSet::new();
    for receiver in receivers.iter().cycle().take(120) {
        ids.insert(ended(&site, &api, &receiver.url).await);
    }
    for id in &ids {
        let told = delivery_that(&site, &api, id, is_delivered).await;
        assert_eq!(told["tries"], 1, "{told}");
    }
    let overlapped: Vec<String> = receivers.iter().flat_map(Receiver::overlapped).collect();
    assert!(overlapped.is_empty(), "on their way twice at once: {overlapped:?}");
    let received = receivers.iter().flat_map(Receiver::requests).count();
    assert_eq!(received, ids.len(), "each once");
    for notifier in notifiers {
        let sent = metric(&notifier, "fumehood_webhook_tries_total{outcome=\"delivered\"}").await;
        assert!(sent > 0.0, "{} had nothing to do", notifier.greeting);
        assert!(notifier.stop().success());
    }
    worker.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_notifier_had_when_it_was_killed_or_froze_another_sends() {
    let Some(site) = Site::new().await else { return };
    let (api, worker) = (site.api(), site.worker_store().await);
    let claim = [("webhooks.claim_ms", "15000".to_owned())];
    let receivers = [Receiver::plain([127, 0, 0, 1]).await, Receiver::plain([127, 0, 0, 2]).await];
    receivers.iter().for_each(|receiver| receiver.answer(false));
    let came = async |which: usize, times: usize| {
        until("a request", || (receivers[which].requests().len() >= times).then_some(())).await;
    };
    let killed = site.notifier("killed", &claim);
    let first = ended(&site, &api, &receivers[0].url).await;
    came(0, 1).await;
    killed.kill();
    let frozen = site.notifier("frozen", &claim);
    let second = ended(&site, &api, &receivers[1].url).await;
    came(1, 1).await;
    frozen.signal(Signal::STOP);
    let successor = site.notifier("successor", &claim);
    came(0, 2).await;
    came(1, 2).await;
    receivers.iter().for_each(|receiver| receiver.answer(true));
    for id in [&first, &second] {
        let told = delivery_that(&site, &api, id, is_delivered).await;
        assert_eq!(told["tries"], 1, "{told}");
    }
    // The one that thaws has an answer as well, and finds that it is not asked for any more.
    frozen.signal(Signal::CONT);
    let told = delivery(&site, &api, &second).await;
    until("a word of it", || frozen.said().contains("sent by two at once").then_some(())).await;
    assert_eq!(delivery(&site, &api, &second).await, told);
    for receiver in &receivers {
        let [one, other] = receiver.requests().try_into().expect("two");
        assert_eq!(one.header("webhook-id"), other.header("webhook-id"), "the receiver can tell");
    }
    for process in [frozen, successor] {
        assert!(process.stop().success());
    }
    worker.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notifier_that_is_told_to_stop_ends_what_it_began_and_begins_nothing() {
    let Some(site) = Site::new().await else { return };
    let (api, worker) = (site.api(), site.worker_store().await);
    let receiver = Receiver::plain([127, 0, 0, 1]).await;
    receiver.answer(false);
    let notifier = site.notifier("n1", &[]);
    let begun = ended(&site, &api, &receiver.url).await;
    until("a request", || (!receiver.requests().is_empty()).then_some(())).await;
    notifier.signal(Signal::TERM);
    until("a word of it", || notifier.said().contains("stopping").then_some(())).await;
    let later = ended(&site, &api, &receiver.url).await;
    receiver.answer(true);
    let log = notifier.log.clone();
    let mut notifier = notifier;
    assert!(notifier.wait().success(), "{}", fs::read_to_string(log).unwrap_or_default());
    assert!(is_delivered(&delivery(&site, &api, &begun).await));
    let left = delivery(&site, &api, &later).await;
    assert_eq!((&left["state"], &left["tries"]), (&json!("pending"), &json!(0)), "{left}");
    assert_eq!(receiver.requests().len(), 1);
    worker.close().await;
}
