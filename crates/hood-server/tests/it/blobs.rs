//! Black box. The whole role over a bucket on a real S3 server.

use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hood_server::config::{Config, Host, Sources};
use hood_testkit::S3;
use serde_json::json;

use crate::support::server::Server;

/// Between two looks at something that is about to happen.
const POLL: Duration = Duration::from_millis(20);

fn bucket() -> Option<S3> {
    if let Some(why) = S3::missing() {
        let _ = writeln!(std::io::stderr(), "\nSKIPPED: s3: {why}");
        return None;
    }
    Some(S3::start().expect("starts"))
}

fn configure(config: &mut Config, s3: &S3) {
    let mut sources = Sources::default();
    for (key, value) in [
        ("data_dir", config.data_dir.to_string_lossy().into_owned()),
        ("blobs.url", format!("s3://{}/some/prefix/", S3::BUCKET)),
        ("blobs.endpoint", s3.endpoint()),
        ("blobs.region", S3::REGION.to_owned()),
        ("blobs.access_key_id", S3::ACCESS_KEY.to_owned()),
        ("blobs.secret_access_key", S3::SECRET_KEY.to_owned()),
    ] {
        sources.set(key, &value, key);
    }
    let loaded = Config::load(&sources, &Host::detect()).expect("is sound");
    let shown = format!("{:?}", loaded.config);
    assert!(!shown.contains(S3::SECRET_KEY), "{shown}");
    config.blobs = loaded.config.blobs;
}

fn files(dir: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let count = |path: std::path::PathBuf| if path.is_dir() { files(&path) } else { 1 };
    entries.map(|entry| count(entry.expect("is there").path())).sum()
}

async fn until(mut is_so: impl AsyncFnMut() -> bool) {
    while !is_so().await {
        tokio::time::sleep(POLL).await;
    }
}

#[tokio::test]
async fn large_output_ends_in_the_bucket_and_readiness_says_when_it_is_away() {
    let Some(s3) = bucket() else { return };
    let server = Server::with(|config| configure(config, &s3)).await;
    let code = "import sys\nsys.stdout.write('0123456789' * 30000)";
    let ended = server.run(&json!({ "code": code })).await;
    assert_eq!(ended["verdict"], "succeeded", "{ended}");
    let outputs = s3.bucket_dir().join("some/prefix/outputs");
    until(async || files(&outputs) == 1).await;
    assert!(server.bytes(&ended, "stdout").await == b"0123456789".repeat(30_000));
    assert_eq!(server.request(reqwest::Method::GET, "/readyz", None).await.0, 200);

    s3.kill9().expect("dies");
    let mut answer = json!(null);
    until(async || {
        let (status, body) = server.request(reqwest::Method::GET, "/readyz", None).await;
        answer = body;
        status == 503
    })
    .await;
    assert!(answer.to_string().contains("blobs"), "{answer}");
    let ended = server.run(&json!({ "code": code })).await;
    assert_eq!(ended["verdict"], "succeeded", "nothing waits for the bucket: {ended}");
    assert!(server.bytes(&ended, "stdout").await == b"0123456789".repeat(30_000));

    s3.restart().expect("starts");
    until(async || files(&outputs) == 2).await;
    assert!(server.bytes(&ended, "stdout").await == b"0123456789".repeat(30_000));
    let path = format!("/v1/evaluations/{}", ended["id"].as_str().expect("an id"));
    assert_eq!(server.request(reqwest::Method::DELETE, &path, None).await.0, 204);
    until(async || files(&outputs) == 1).await;
    server.stop().await;
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i.wrapping_mul(31) ^ (i >> 8)) as u8).collect()
}

/// The only place is taken until it is cancelled.
async fn occupied(server: &Server) -> String {
    let id = server.submit(&json!({"code": "import time\ntime.sleep(100)"})).await;
    until(async || server.get(&format!("/v1/evaluations/{id}")).await["state"] == "running").await;
    id
}

async fn cancel(server: &Server, id: &str) {
    let path = format!("/v1/evaluations/{id}/cancel");
    assert_eq!(server.request(reqwest::Method::POST, &path, Some(&json!({"grace_ms": 0}))).await.0, 202);
}

#[tokio::test]
async fn a_large_submission_waits_in_the_bucket_and_runs_byte_for_byte_or_says_why_not() {
    let Some(s3) = bucket() else { return };
    let server = Server::with(|config| {
        configure(config, &s3);
        config.worker.places = 1;
    })
    .await;
    let inputs = s3.bucket_dir().join("some/prefix/inputs");
    let (stdin, file) = (pattern(300_001), pattern(200_003));
    let code = "import sys\nsys.stdout.buffer.write(sys.stdin.buffer.read() + open('f.bin', 'rb').read())";
    let large = json!({
        "code": code,
        "stdin_base64": STANDARD.encode(&stdin),
        "files": [{"path": "f.bin", "content_base64": STANDARD.encode(&file)}],
    });
    let sleeper = occupied(&server).await;
    let waiting = server.submit(&large).await;
    assert_eq!(files(&inputs), 1, "it is there before it is answered for");
    s3.kill9().expect("dies");
    let (status, problem) = server.request(reqwest::Method::POST, "/v1/evaluations", Some(&large)).await;
    assert_eq!((status, &problem["code"]), (503, &json!("blobs_away")), "{problem}");
    cancel(&server, &sleeper).await;
    until(async || server.get(&format!("/v1/evaluations/{waiting}")).await["state"] == "provisioning").await;
    s3.restart().expect("starts");
    let ended = server.end(&waiting).await;
    assert_eq!(ended["verdict"], "succeeded", "{ended}");
    assert!(server.bytes(&ended, "stdout").await == [stdin, file].concat());

    let sleeper = occupied(&server).await;
    let lost = server.submit(&large).await;
    let hex = &lost["ev_".len()..];
    let object = inputs.join(&hex[30..]).join(hex);
    std::fs::remove_file(object).expect("is taken away behind its back");
    cancel(&server, &sleeper).await;
    let ended = server.end(&lost).await;
    assert_eq!(ended["verdict"], "infrastructure_error", "never an empty program: {ended}");
    let reason = ended["evidence"]["lost"]["reason"].as_str().expect("a reason");
    assert!(reason.contains("inputs/") && reason.contains("is not there"), "{reason}");
    for id in [&waiting, &lost] {
        let path = format!("/v1/evaluations/{id}");
        assert_eq!(server.request(reqwest::Method::DELETE, &path, None).await.0, 204);
    }
    until(async || files(&inputs) == 0).await;
    server.stop().await;
}
