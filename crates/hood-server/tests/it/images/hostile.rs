//! Black box: registries that mean no good. Each is a small HTTP server of the test's own; whatever it
//! answers ends in an error that says what is wrong, and nothing of it stays.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Response, StatusCode, Uri, header};
use axum::serve::Listener;
use hood_image::Digest;
use serde_json::json;
use tokio::net::TcpListener;

use super::encrypted::Identity;
use super::{foreign, import, run};
use crate::support::shell::Shell;

/// Paths, with the key that came along.
type Asked = Arc<Mutex<Vec<(String, Option<String>)>>>;
type Answer = dyn Fn(&str, &HeaderMap) -> Response<Body> + Send + Sync;

/// A server that answers every request as it is told, and remembers what it was asked.
struct Fake {
    address: String,
    asked: Asked,
}

#[derive(Clone)]
struct Shared {
    answer: Arc<Answer>,
    asked: Asked,
}

impl Fake {
    async fn start(answer: impl Fn(&str, &HeaderMap) -> Response<Body> + Send + Sync + 'static) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").await.expect("a port"), answer)
    }

    /// Likewise, where whoever asks has connected by `listener`.
    fn on<L: Listener<Addr = SocketAddr>>(
        listener: L,
        answer: impl Fn(&str, &HeaderMap) -> Response<Body> + Send + Sync + 'static,
    ) -> Self {
        let address = listener.local_addr().expect("bound").to_string();
        let asked = Arc::default();
        let shared = Shared { answer: Arc::new(answer), asked: Arc::clone(&asked) };
        let router = Router::new().fallback(handle).with_state(shared);
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { address, asked }
    }

    fn asked(&self) -> Vec<(String, Option<String>)> {
        self.asked.lock().expect("whole").clone()
    }
}

async fn handle(State(shared): State<Shared>, uri: Uri, headers: HeaderMap) -> Response<Body> {
    let path = uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    let key = headers.get(header::AUTHORIZATION).and_then(|key| key.to_str().ok()).map(str::to_owned);
    shared.asked.lock().expect("whole").push((path.clone(), key));
    (shared.answer)(&path, &headers)
}

fn answer(status: u16, headers: &[(&str, &str)], body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::builder().status(StatusCode::from_u16(status).expect("a status"));
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(body.into()).expect("a response")
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A manifest of one layer that is said to have so many bytes.
fn manifest(layer: Digest, size: u64) -> String {
    let layer = json!({
        "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer.to_string(), "size": size,
    });
    let config = json!({
        "mediaType": "application/vnd.oci.image.config.v1+json",
        "digest": Digest::of(b"{}").to_string(), "size": 2,
    });
    json!({ "schemaVersion": 2, "config": config, "layers": [layer] }).to_string()
}

fn endless() -> Body {
    Body::from_stream(futures::stream::repeat_with(|| {
        Ok::<_, std::io::Error>(Bytes::from(vec![b' '; 65536]))
    }))
}

/// Pulls, and gives what was said. Nothing may be left.
async fn pull(fake: &Fake, reference: &str, more: &[&str]) -> String {
    let (shell, reference) = (Shell::new(), format!("{}/{reference}", fake.address));
    shell.file("password", "hunter2");
    let arguments = [&["env", "pull", &reference, "--name", "x"], more].concat();
    let (status, stdout, said) = tokio::task::block_in_place(|| run(&shell, &arguments));
    assert!(status != 0, "it was taken: {stdout}");
    for dir in ["staging", "images", "imported", "building"] {
        let mut left = std::fs::read_dir(shell.path("images").join(dir)).expect("there");
        assert!(left.next().is_none(), "{dir} is not empty after: {said}");
    }
    said
}

/// What is wrong, what must be said of it, and the answer.
type Lie = (&'static str, &'static str, Box<Answer>);

fn manifests_that_lie() -> Vec<Lie> {
    let wrong_digest = Digest::of(b"other").to_string();
    let nested =
        json!({ "manifests": [{ "mediaType": INDEX, "digest": wrong_digest, "size": 1 }] }).to_string();
    vec![
        (
            "a manifest that never ends",
            "longer than",
            Box::new(|_, _| answer(200, &[("content-type", MANIFEST)], endless())),
        ),
        (
            "no manifest at all",
            "cannot be read",
            Box::new(|_, _| answer(200, &[("content-type", MANIFEST)], "<html>")),
        ),
        ("a web page", "text/html", Box::new(|_, _| answer(200, &[("content-type", "text/html")], "<html>"))),
        ("another manifest than the index names", "not what its digest says", {
            let nested = nested.clone();
            Box::new(move |_, _| answer(200, &[("content-type", INDEX)], nested.clone()))
        }),
    ]
}

fn layers_that_lie() -> Vec<Lie> {
    let layer = Digest::of(b"layer");
    vec![
        (
            "a layer of other bytes",
            "not what its digest says",
            Box::new(move |path, _| match path {
                path if path.contains("/manifests/") => {
                    answer(200, &[("content-type", MANIFEST)], manifest(layer, 5))
                }
                _ => answer(200, &[], "lay0r"),
            }),
        ),
        (
            "a layer that never ends",
            "gives more than the 5 bytes",
            Box::new(move |path, _| match path {
                path if path.contains("/manifests/") => {
                    answer(200, &[("content-type", MANIFEST)], manifest(layer, 5))
                }
                _ => answer(200, &[], endless()),
            }),
        ),
        (
            "a layer that is cut short",
            "before the end",
            Box::new(move |path, _| match path {
                path if path.contains("/manifests/") => {
                    answer(200, &[("content-type", MANIFEST)], manifest(layer, 5))
                }
                _ => answer(200, &[], "lay"),
            }),
        ),
        (
            "a layer too large for anything",
            "bytes in its archive",
            Box::new(move |_, _| answer(200, &[("content-type", MANIFEST)], manifest(layer, 1 << 50))),
        ),
        (
            "an error with a message for terminals",
            "status 500",
            Box::new(|_, _| answer(500, &[], "\x1b[2Jpwned")),
        ),
        (
            "a redirect in a ring",
            "leads on and on",
            Box::new(|path, _| answer(307, &[("location", path)], "")),
        ),
        (
            "a redirect to a file",
            "leads to no address",
            Box::new(|_, _| answer(307, &[("location", "file:///etc/passwd")], "")),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_lie_are_refused() {
    for (what, word, lie) in manifests_that_lie().into_iter().chain(layers_that_lie()) {
        let fake = Fake::start(lie).await;
        let said = pull(&fake, "app", &[]).await;
        assert!(said.contains(word) && !said.contains('\x1b'), "{what}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_goes_to_the_registry_alone() {
    let elsewhere = Fake::start(|_, _| answer(200, &[], "layer")).await;
    let to = format!("http://{}/blob", elsewhere.address);
    let layer = Digest::of(b"layer");
    let registry = Fake::start(move |path, headers| {
        if headers.get(header::AUTHORIZATION).is_none() {
            return answer(401, &[("www-authenticate", "Basic realm=\"x\"")], "");
        }
        if path.contains("/manifests/") {
            return answer(200, &[("content-type", MANIFEST)], manifest(layer, 5));
        }
        answer(307, &[("location", &to)], "")
    })
    .await;
    pull(&registry, "app", &["--username", "ci", "--password-file", "password"]).await;
    assert!(
        registry.asked().iter().any(|(_, key)| key.as_deref().is_some_and(|key| key.starts_with("Basic ")))
    );
    let asked = elsewhere.asked();
    assert!(!asked.is_empty() && asked.iter().all(|(_, key)| key.is_none()), "{asked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_got_where_the_registry_says_and_used() {
    let tokens = Fake::start(|_, headers| match headers.get(header::AUTHORIZATION) {
        Some(_) => answer(200, &[], r#"{"token": "t0ken"}"#),
        None => answer(401, &[], ""),
    })
    .await;
    let realm = format!(
        "Bearer realm=\"http://{}/token\",service=\"reg\",scope=\"repository:app:pull\"",
        tokens.address
    );
    let registry = Fake::start(move |_, headers| {
        let key = headers.get(header::AUTHORIZATION).and_then(|key| key.to_str().ok());
        match key {
            Some("Bearer t0ken") => answer(404, &[], ""),
            _ => answer(401, &[("www-authenticate", &realm)], ""),
        }
    })
    .await;
    let said = pull(&registry, "app", &["--username", "ci", "--password-file", "password"]).await;
    assert!(said.contains("has no "), "{said}");
    let (path, key) = tokens.asked().pop().expect("asked");
    assert_eq!(path, "/token?service=reg&scope=repository%3Aapp%3Apull");
    assert_eq!(key.as_deref(), Some("Basic Y2k6aHVudGVyMg=="));
    // Without a name and password it is asked for all the same: many give tokens to anybody.
    let said = pull(&registry, "app", &[]).await;
    assert!(said.contains("without credentials"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_follows_no_token_server_that_leads_elsewhere() {
    let elsewhere = Fake::start(|_, _| answer(200, &[], r#"{"token": "t0ken"}"#)).await;
    let to = format!("http://{}/token", elsewhere.address);
    let tokens = Fake::start(move |_, _| answer(307, &[("location", &to)], "")).await;
    let realm = format!("Bearer realm=\"http://{}/token\"", tokens.address);
    let registry = Fake::start(move |_, _| answer(401, &[("www-authenticate", &realm)], "")).await;
    let said = pull(&registry, "app", &["--username", "ci", "--password-file", "password"]).await;
    assert!(said.contains("get a token") && said.contains("status 307"), "{said}");
    assert_eq!((tokens.asked().len(), elsewhere.asked()), (1, Vec::new()), "it was not followed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_goes_to_no_other_host_without_tls() {
    let tokens = Fake::start(|_, _| answer(200, &[], r#"{"token": "t0ken"}"#)).await;
    let realm = format!(
        "Bearer realm=\"http://localhost:{}/token\"",
        tokens.address.rsplit(':').next().expect("a port")
    );
    let registry = Fake::start(move |_, _| answer(401, &[("www-authenticate", &realm)], "")).await;
    let said = pull(&registry, "app", &["--username", "ci", "--password-file", "password"]).await;
    assert!(said.contains("an address without TLS"), "{said}");
    assert_eq!(tokens.asked(), Vec::new(), "it is not even asked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_goes_to_no_address_without_tls_where_the_registry_has_it() {
    let tokens = Fake::start(|_, _| answer(200, &[], r#"{"token": "t0ken"}"#)).await;
    let realm = format!("Bearer realm=\"http://{}/token\"", tokens.address);
    let identity = Identity::new();
    let encrypted = identity.listen().await;
    let registry = Fake::on(encrypted, move |_, _| answer(401, &[("www-authenticate", &realm)], ""));
    let ca = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(ca.path(), &identity.authority).expect("written");
    let ca = ca.path().to_str().expect("text");
    let login = ["--username", "ci", "--password-file", "password", "--ca-file", ca];
    let said = pull(&registry, "app", &login).await;
    assert!(said.contains("an address without TLS"), "{said}");
    assert_eq!((registry.asked().len(), tokens.asked()), (1, Vec::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_and_keys_are_sent_nowhere_but_to_the_registry() {
    let elsewhere = Fake::start(|_, _| answer(201, &[], "")).await;
    let to = format!("http://{}/upload", elsewhere.address);
    let registry = Fake::start(move |path, headers| match path {
        _ if headers.get(header::AUTHORIZATION).is_none() => {
            answer(401, &[("www-authenticate", "Basic realm=\"x\"")], "")
        }
        path if path.ends_with("/uploads/") => answer(202, &[("location", &to)], ""),
        _ => answer(404, &[], ""),
    })
    .await;
    let (shell, reference) = (Shell::new(), format!("{}/app", registry.address));
    shell.file("password", "hunter2");
    let archive = foreign::distroless(&shell.path("app.tar"));
    let push = ["env", "push", "app", &reference, "--username", "ci", "--password-file", "password"];
    let (status, _, said) = tokio::task::block_in_place(|| {
        import(&shell, &archive, "app");
        run(&shell, &push)
    });
    assert!(status == 125 && said.contains("wants layers sent elsewhere"), "{status}: {said}");
    assert_eq!(elsewhere.asked(), Vec::new());
}
