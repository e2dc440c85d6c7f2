//! Black box: a private registry as the large ones are. It speaks TLS with a certificate of an authority of
//! its own, wants a token that is had for a password at an address beside it, and keeps its layers at
//! another host. Behind it is a real registry.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Response, StatusCode, header};
use serde_json::Value;

use super::encrypted::Identity;
use super::registry::{Kind, PASSWORD, Registry, skip};
use super::{foreign, run};
use crate::support::shell::Shell;

const TOKEN: &str = "t0ken";
/// Of user `ci` with [`PASSWORD`].
const BASIC: &str = "Basic Y2k6aHVudGVyMg==";
const BODY_BYTES_MAX: usize = 64 << 20;

/// Paths, each with the key that came along.
type Asked = Arc<Mutex<Vec<(String, Option<String>)>>>;

/// A server that speaks TLS and remembers what it was asked.
struct Host {
    address: String,
    asked: Asked,
}

#[derive(Clone)]
struct Shared {
    /// `None`: the host that keeps the layers, and wants no key.
    guards: Option<Guards>,
    upstream: String,
    asked: Asked,
    http: reqwest::Client,
}

#[derive(Clone)]
struct Guards {
    address: String,
    /// Where layers are given.
    layers: String,
}

impl Host {
    /// `layers` is where it sends those who want layers, once they have shown a token.
    async fn start(identity: &Identity, upstream: &str, layers: Option<&Self>) -> Self {
        let listener = identity.listen().await;
        let address = axum::serve::Listener::local_addr(&listener).expect("bound").to_string();
        let asked = Asked::default();
        let layers = layers.map(|layers| layers.address.clone());
        let shared = Shared {
            guards: layers.map(|layers| Guards { address: address.clone(), layers }),
            upstream: upstream.to_owned(),
            asked: Arc::clone(&asked),
            http: reqwest::Client::new(),
        };
        let router = Router::new().fallback(handle).with_state(shared);
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { address, asked }
    }

    /// What it was asked since the last time.
    fn asked(&self) -> Vec<(String, Option<String>)> {
        std::mem::take(&mut *self.asked.lock().expect("whole"))
    }
}

async fn handle(State(shared): State<Shared>, request: Request) -> Response<Body> {
    let path = request.uri().path_and_query().map(ToString::to_string).unwrap_or_default();
    let key = key(request.headers());
    shared.asked.lock().expect("whole").push((path.clone(), key.clone()));
    let Some(Guards { address, layers }) = &shared.guards else { return pass(&shared, &path, request).await };
    if path.starts_with("/token") {
        return match key.as_deref() {
            Some(BASIC) => answer(StatusCode::OK, None, format!(r#"{{"token": "{TOKEN}"}}"#)),
            _ => answer(StatusCode::UNAUTHORIZED, None, String::new()),
        };
    }
    if key.as_deref() != Some(&format!("Bearer {TOKEN}")) {
        let scope = if request.method() == "GET" { "pull" } else { "pull,push" };
        let challenge = format!(
            "Bearer realm=\"https://{address}/token\",service=\"reg\",scope=\"repository:app:{scope}\""
        );
        return answer(StatusCode::UNAUTHORIZED, Some(("www-authenticate", challenge)), String::new());
    }
    if request.method() == "GET" && path.contains("/blobs/sha256:") {
        let to = format!("https://{layers}{path}");
        return answer(StatusCode::TEMPORARY_REDIRECT, Some(("location", to)), String::new());
    }
    pass(&shared, &path, request).await
}

fn key(headers: &HeaderMap) -> Option<String> {
    headers.get(header::AUTHORIZATION).and_then(|key| key.to_str().ok()).map(str::to_owned)
}

fn answer(status: StatusCode, more: Option<(&str, String)>, body: String) -> Response<Body> {
    let response = Response::builder().status(status);
    let response = more.into_iter().fold(response, |response, (name, value)| response.header(name, value));
    response.body(body.into()).expect("a response")
}

/// Asks the real registry, without any key.
async fn pass(shared: &Shared, path: &str, request: Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let mut headers = parts.headers;
    headers.remove(header::AUTHORIZATION);
    // So that it names this host in what it answers.
    headers.insert("x-forwarded-proto", "https".parse().expect("a value"));
    let body = axum::body::to_bytes(body, BODY_BYTES_MAX).await.expect("whole");
    let url = format!("http://{}{path}", shared.upstream);
    let request = shared.http.request(parts.method, url).headers(headers).body(body);
    let answer = request.send().await.expect("the real registry answers");
    let mut response = Response::builder().status(answer.status());
    for name in [header::CONTENT_TYPE, header::LOCATION] {
        if let Some(value) = answer.headers().get(&name) {
            response = response.header(name, value);
        }
    }
    response.body(answer.bytes().await.expect("whole").into()).expect("a response")
}

/// Runs one command and gives its result, or what it said.
fn said(shell: &Shell, arguments: &[&str]) -> Result<Value, (i32, String)> {
    let (status, stdout, stderr) =
        tokio::task::block_in_place(|| run(shell, &[arguments, &["-o", "json"]].concat()));
    if status != 0 {
        return Err((status, stderr));
    }
    Ok(serde_json::from_str(&stdout).expect("one JSON document"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_gives_tokens_over_tls_takes_and_gives_images() {
    let real = match tokio::task::block_in_place(|| Registry::start(Kind::Open)) {
        Ok(registry) => registry,
        Err(reason) => return skip(&reason),
    };
    let identity = Identity::new();
    let layers = Host::start(&identity, &real.address, None).await;
    let registry = Host::start(&identity, &real.address, Some(&layers)).await;
    let shell = Shell::new();
    let archive = foreign::distroless(&shell.path("app.tar"));
    let made = tokio::task::block_in_place(|| super::import(&shell, &archive, "app"));
    shell.file("ca.pem", &identity.authority);
    shell.file("good", PASSWORD);
    shell.file("bad", "hunter3");
    shell.file("token", &format!("{TOKEN}\n"));
    let reference = format!("{}/app", registry.address);
    let push = ["env", "push", "app", &reference, "--ca-file", "ca.pem"];
    let pull = ["env", "pull", &reference, "--ca-file", "ca.pem", "--name"];
    let with = |file: &'static str| ["--username", "ci", "--password-file", file];

    let (status, text) = said(&shell, &[&push[..], &with("bad")].concat()).expect_err("a wrong password");
    assert!(
        status == 126 && text.contains("these credentials") && !text.contains("hunter3"),
        "{status}: {text}"
    );
    registry.asked();
    let pushed = said(&shell, &[&push[..], &with("good")].concat()).expect("it is taken");
    let asked = registry.asked();
    // The password is for the token, and the token for everything else.
    for (path, key) in &asked {
        let expected = if path.starts_with("/token?") { BASIC } else { "Bearer t0ken" };
        assert!(key.as_deref().is_none_or(|key| key == expected), "{path}: {key:?}");
    }
    let scopes: Vec<&str> = asked.iter().filter_map(|(path, _)| path.strip_prefix("/token?")).collect();
    assert_eq!(scopes, ["service=reg&scope=repository%3Aapp%3Apull%2Cpush"], "asked for once");

    let pulled = said(&shell, &[&pull[..], &["back"], &with("good")].concat()).expect("it is given");
    assert_eq!((&pulled["digest"], &pulled["source_digest"]), (&made["digest"], &pushed["image_digest"]));
    let fetched = layers.asked();
    assert!(fetched.len() == 3, "two layers and a configuration: {fetched:?}");
    assert!(fetched.iter().all(|(_, key)| key.is_none()), "no key goes to another host: {fetched:?}");
    assert!(registry.asked().iter().any(|(path, _)| path.contains("scope=repository%3Aapp%3Apull")));

    // A token that one has already is exchanged for none, and stays with the registry too.
    let token = ["--registry-token-file", "token"];
    let pulled = said(&shell, &[&pull[..], &["again"], &token].concat()).expect("it is given");
    assert_eq!(pulled["digest"], made["digest"]);
    let (asked, fetched) = (registry.asked(), layers.asked());
    assert!(!asked.iter().any(|(path, _)| path.starts_with("/token")), "{asked:?}");
    assert!(fetched.len() == 3 && fetched.iter().all(|(_, key)| key.is_none()), "{fetched:?}");

    let (status, text) = said(&shell, &[&pull[..], &["none"]].concat()).expect_err("nobody asks");
    assert!(status == 126 && text.contains("without credentials"), "{status}: {text}");
}
