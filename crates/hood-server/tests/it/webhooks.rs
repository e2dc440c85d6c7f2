//! Grey box: submissions over the API, ends through the store, and the shipped sender against real
//! receivers on this host, which the tests' rules allow.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use hood_core::Verdict;
use hood_server::clock::SystemClock;
use hood_server::notifier::{Notifier, NotifierConfig};
use hood_server::webhook::{Rules, Sender, Signer};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::support::app::{PATIENCE, TestApp};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// One request as it came.
struct Received {
    head: String,
    body: String,
}

impl Received {
    fn header(&self, name: &str) -> &str {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(known, _)| known.eq_ignore_ascii_case(name)).map_or("", |(_, value)| value)
    }
}

/// A receiver that answers each request with the next of its answers, and the last one ever after.
struct Receiver {
    url: String,
    received: mpsc::Receiver<Received>,
}

impl Receiver {
    fn start(answers: &[&str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}/hook", listener.local_addr().expect("an address"));
        let answers: Vec<String> = answers.iter().map(|answer| (*answer).to_owned()).collect();
        let (sender, received) = mpsc::channel();
        std::thread::spawn(move || {
            for (i, stream) in listener.incoming().enumerate() {
                let Ok(mut stream) = stream else { return };
                let Some(request) = read(&mut stream) else { continue };
                let answer = &answers[i.min(answers.len() - 1)];
                let _ = stream.write_all(answer.as_bytes());
                if sender.send(request).is_err() {
                    return;
                }
            }
        });
        Self { url, received }
    }

    async fn next(&self) -> Received {
        let waited = async {
            loop {
                match self.received.try_recv() {
                    Ok(received) => return received,
                    Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        };
        tokio::time::timeout(PATIENCE, waited).await.expect("a request")
    }
}

fn read(stream: &mut TcpStream) -> Option<Received> {
    let mut bytes = Vec::new();
    loop {
        let mut piece = [0; 4096];
        let read = stream.read(&mut piece).ok().filter(|read| *read > 0)?;
        bytes.extend_from_slice(&piece[..read]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let received = Received { head: head.to_owned(), body: body.to_owned() };
        if received.header("content-length").parse() == Ok(body.len()) {
            return Some(received);
        }
    }
}

const OK: &str = "HTTP/1.1 204 No Content\r\n\r\n";
const FAILS: &str = "HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n";

struct Installation {
    app: TestApp,
    stop: CancellationToken,
    sending: JoinHandle<()>,
}

fn allow(networks: &[&str]) -> Rules {
    let allow = networks.iter().map(|text| text.parse().expect("a network")).collect();
    Rules { allow, refuse: Vec::new() }
}

impl Installation {
    async fn start() -> Self {
        Self::with(allow(&["127.0.0.1"]), allow(&["127.0.0.1"])).await
    }

    /// What is accepted, and what is connected to.
    async fn with(accepted: Rules, sent: Rules) -> Self {
        let app = TestApp::with(|settings| settings.webhooks = accepted).await;
        let sender =
            Sender::new(Arc::new(sent), None, Signer::new(SECRET).expect("sound")).expect("a client");
        let clock = Arc::new(SystemClock);
        let config = NotifierConfig { name: "test".to_owned(), claim_time: PATIENCE };
        let notifier = Notifier::new(app.store.clone(), clock, sender, config);
        let stop = CancellationToken::new();
        let sending = tokio::spawn(notifier.run(stop.clone()));
        Self { app, stop, sending }
    }

    async fn ended(&self, url: &str) -> String {
        let id = self.app.submit(&json!({"code": "", "callback_url": url, "labels": {"a": "b"}})).await;
        let mut attempt = self.app.worker().claim().await;
        attempt.start().await;
        attempt.finish(Verdict::Failed, Some(7)).await;
        id
    }

    /// Waits until the delivery of an evaluation is in that state.
    async fn until(&self, id: &str, state: &str) -> Value {
        let waited = async {
            loop {
                let list = self.app.get(&format!("/v1/deliveries?evaluation={id}")).await.expect(200).json();
                if list["items"][0]["state"] == state {
                    return list["items"][0].clone();
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, waited).await.expect("comes to it")
    }

    async fn tried(&self, id: &str) -> Value {
        let waited = async {
            loop {
                let list = self.app.get(&format!("/v1/deliveries?evaluation={id}")).await.expect(200).json();
                if list["items"][0]["tries"].as_u64().is_some_and(|tries| tries > 0) {
                    return list["items"][0].clone();
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, waited).await.expect("is tried")
    }

    async fn stop(self) {
        self.stop.cancel();
        self.sending.await.expect("ends");
        self.app.shut_down().await;
    }
}

#[tokio::test]
async fn an_end_is_told_signed_and_with_everything_of_it() {
    let receiver = Receiver::start(&[OK]);
    let t = Installation::start().await;
    let id = t.ended(&receiver.url).await;
    let got = receiver.next().await;
    let (webhook, stamp) = (got.header("webhook-id"), got.header("webhook-timestamp"));
    let signer = Signer::new(SECRET).expect("sound");
    let expected = signer.sign(webhook, stamp.parse().expect("seconds"), got.body.as_bytes());
    assert_eq!(got.header("webhook-signature"), expected);
    assert_eq!(got.header("content-type"), "application/json");
    assert!(got.head.starts_with("POST /hook HTTP/1.1"), "{}", got.head);

    let message: Value = serde_json::from_str(&got.body).expect("JSON");
    let data = &message["data"];
    assert_eq!((&message["type"], &data["id"]), (&json!("evaluation.finished"), &json!(id)));
    assert_eq!(
        (&data["verdict"], &data["state"], &data["exit_code"]),
        (&json!("failed"), &json!("failed"), &json!(7))
    );
    assert_eq!(
        (&data["labels"], &data["attempts"], &data["event"]),
        (&json!({"a": "b"}), &json!(1), &json!(4))
    );
    assert!(data["hops"]["accepted_at"].is_string() && data["hops"]["committed_at"].is_string());

    let delivery = t.until(&id, "delivered").await;
    assert_eq!(
        (&delivery["id"], &delivery["tries"], &delivery["last_status"]),
        (&json!(webhook), &json!(1), &json!(204))
    );

    // Once more, under the same id, so that a receiver can tell.
    let again = t.app.post(&format!("/v1/deliveries/{webhook}/redeliver"), &json!({})).await;
    again.expect(202);
    assert_eq!(receiver.next().await.header("webhook-id"), webhook);
    t.app.post("/v1/deliveries/wh_x/redeliver", &json!({})).await.problem(404, "delivery_not_found");
    t.stop().await;
}

#[tokio::test]
async fn an_answer_that_is_no_yes_is_tried_again_later() {
    let receiver = Receiver::start(&[FAILS]);
    let t = Installation::start().await;
    let id = t.ended(&receiver.url).await;
    receiver.next().await;
    let delivery = t.tried(&id).await;
    assert_eq!((&delivery["state"], &delivery["last_status"]), (&json!("pending"), &json!(500)));
    assert!(delivery["due_at"].is_string(), "{delivery}");
    t.stop().await;
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = Receiver::start(&[OK]);
    let answer =
        format!("HTTP/1.1 307 Elsewhere\r\nlocation: {}\r\ncontent-length: 0\r\n\r\n", elsewhere.url);
    let receiver = Receiver::start(&[&answer]);
    let t = Installation::start().await;
    let id = t.ended(&receiver.url).await;
    receiver.next().await;
    let delivery = t.tried(&id).await;
    assert_eq!((&delivery["state"], &delivery["last_status"]), (&json!("pending"), &json!(307)));
    assert!(elsewhere.received.try_recv().is_err());
    t.stop().await;
}

#[tokio::test]
async fn a_target_that_is_gone_is_given_up_at_once() {
    let receiver = Receiver::start(&["HTTP/1.1 410 Gone\r\ncontent-length: 0\r\n\r\n"]);
    let t = Installation::start().await;
    let id = t.ended(&receiver.url).await;
    let delivery = t.until(&id, "dead").await;
    assert_eq!(delivery["last_status"], 410);
    t.stop().await;
}

#[tokio::test]
async fn an_endless_answer_is_dropped_after_its_beginning() {
    let long = format!("HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n{}", "x".repeat(100_000));
    let receiver = Receiver::start(&[&long]);
    let t = Installation::start().await;
    let id = t.ended(&receiver.url).await;
    t.until(&id, "delivered").await;
    t.stop().await;
}

#[tokio::test]
async fn what_may_not_be_connected_to_is_refused_when_it_is_submitted() {
    let app = TestApp::start().await;
    for url in [
        "http://127.0.0.1:9/",
        "http://2130706433/",
        "http://[::ffff:10.0.0.1]/",
        "http://u:p@example.com/",
        "ftp://a/",
    ] {
        let refused = app.post("/v1/evaluations", &json!({"code": "", "callback_url": url})).await;
        assert_eq!(refused.wrong_paths(422, "invalid_fields"), ["callback_url"], "{url}");
    }
}

#[tokio::test]
async fn what_a_name_stands_for_is_checked_when_it_is_sent() {
    let receiver = Receiver::start(&[OK]);
    // The name is taken; what it stands for is this host, which nothing may be sent to.
    let t = Installation::with(Rules::default(), Rules::default()).await;
    let id = t.ended(&receiver.url.replace("127.0.0.1", "localhost")).await;
    let inside = t.tried(&id).await["last_reason"].as_str().expect("a reason").to_owned();
    assert!(inside.starts_with("its name stands for no address that may be called"), "{inside}");
    assert!(receiver.received.try_recv().is_err(), "nothing was sent");
    // Neither the address nor whether the name is there at all is told to whoever submits.
    let id = t.ended("http://no-such-name.invalid/hook").await;
    assert_eq!(t.tried(&id).await["last_reason"], json!(inside));
    assert!(!inside.contains("127.0.0.1") && !inside.contains("::1"), "{inside}");
    t.stop().await;
}

#[tokio::test]
async fn what_is_no_longer_allowed_is_given_up() {
    let receiver = Receiver::start(&[OK]);
    let t = Installation::with(allow(&["127.0.0.1"]), Rules::default()).await;
    let id = t.ended(&receiver.url).await;
    let delivery = t.until(&id, "dead").await;
    assert!(delivery["last_reason"].as_str().is_some_and(|why| why.contains("loopback")), "{delivery}");
    assert!(receiver.received.try_recv().is_err());
    t.stop().await;
}
