//! A server that answers what a test wrote down, in that order, and remembers what it was asked.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use futures::{StreamExt as _, stream};
use hood_client::{Client, Retry, Token};

/// Pauses short enough for a test, and as many of them as it needs.
pub(crate) const RETRY: Retry = Retry {
    backoff_first: Duration::from_millis(1),
    backoff_cap: Duration::from_millis(4),
    unreachable: Duration::from_secs(5),
    busy: Duration::from_secs(5),
};

pub(crate) enum Answer {
    Json(u16, &'static str),
    Busy {
        status: u16,
        retry_after: &'static str,
    },
    Empty(u16),
    /// These chunks, and then the connection breaks.
    Breaks(Vec<&'static str>),
    /// These chunks, and then a proper end.
    Ends(Vec<&'static str>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) line: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

#[derive(Clone, Default)]
struct Script {
    answers: Arc<Mutex<VecDeque<Answer>>>,
    asked: Arc<Mutex<Vec<Asked>>>,
}

pub(crate) struct Fake {
    pub(crate) address: String,
    script: Script,
}

impl Fake {
    pub(crate) async fn new(answers: Vec<Answer>) -> Self {
        let script = Script { answers: Arc::new(Mutex::new(answers.into())), asked: Arc::default() };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = format!("http://{}", listener.local_addr().expect("bound"));
        let router = Router::new().fallback(answer).with_state(script.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { address, script }
    }

    pub(crate) fn client(&self) -> Client {
        Client::builder(&self.address)
            .token(Token::new("fh_secret\n"))
            .retry(RETRY)
            .build()
            .expect("a client")
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.script.asked.lock().expect("unpoisoned").clone()
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.asked().into_iter().map(|asked| asked.line).collect()
    }
}

async fn answer(State(script): State<Script>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap_or_default();
    let headers = head.headers.iter();
    script.asked.lock().expect("unpoisoned").push(Asked {
        line: format!("{} {}", head.method, head.uri),
        headers: headers.map(|(k, v)| (k.to_string(), v.to_str().unwrap_or_default().to_owned())).collect(),
        body: String::from_utf8_lossy(&body).into_owned(),
    });
    let next = script.answers.lock().expect("unpoisoned").pop_front();
    match next.unwrap_or(Answer::Empty(500)) {
        Answer::Json(status, text) => respond(status, &[("content-type", "application/json")], text.into()),
        Answer::Busy { status, retry_after } => respond(
            status,
            &[("content-type", "application/problem+json"), ("retry-after", retry_after)],
            r#"{"type":"/docs/errors#busy","title":"busy","status":503,"detail":"the queue is full",
                "code":"queue_full","request_id":"r1"}"#
                .into(),
        ),
        Answer::Empty(status) => respond(status, &[], Body::empty()),
        Answer::Breaks(chunks) => {
            let chunks = stream::iter(chunks).map(|chunk| Ok(Bytes::from(chunk)));
            let broken = stream::once(async {
                // While this waits, what came before goes out.
                tokio::task::yield_now().await;
                Err(std::io::Error::other("broken on purpose"))
            });
            respond(200, &[], Body::from_stream(chunks.chain(broken)))
        }
        Answer::Ends(chunks) => {
            let chunks = chunks.into_iter().map(|chunk| Ok::<_, std::io::Error>(Bytes::from(chunk)));
            respond(200, &[], Body::from_stream(stream::iter(chunks)))
        }
    }
}

fn respond(status: u16, headers: &[(&'static str, &'static str)], body: Body) -> Response {
    let status = axum::http::StatusCode::from_u16(status).expect("a status");
    let mut response = (status, body).into_response();
    for (name, value) in headers {
        response.headers_mut().insert(*name, axum::http::HeaderValue::from_static(value));
    }
    response
}
