//! Black box: one worker and several dispatchers that have not the same environments.

use std::path::Path;
use std::process::Command;

use hood_server::tls::Role;
use serde_json::{Value, json};

use super::process::{Process, tls};
use super::site::{Site, until};
use crate::images::foreign;

/// One with images of its own, and with an image of one program where `imports` says so.
fn dispatcher(site: &Site, name: &str, (listen, imports): (&str, bool)) -> Process {
    let images = site.dir.path().join(format!("images-{name}"));
    if imports && !images.exists() {
        let archive = foreign::distroless(&site.dir.path().join("app.tar"));
        import(&archive, &images);
    }
    let mut settings = tls(&site.authority.files(Role::Dispatcher, name));
    settings.push(("dispatcher.listen", listen.to_owned()));
    settings.push(("metrics.listen", "127.0.0.1:0".to_owned()));
    settings.push(("worker.places", "4".to_owned()));
    settings.push(("environments.images_dir", images.to_string_lossy().into_owned()));
    Process::start(&format!("dispatcher-{name}"), site.dir.path(), &settings)
}

fn import(archive: &Path, images: &Path) {
    let output = Command::new(env!("CARGO_BIN_EXE_fumehood"))
        .args(["env", "import", archive.to_str().expect("text"), "--name", "app"])
        .env("FUMEHOOD_DATA_DIR", images.with_extension("data"))
        .env("FUMEHOOD_ENVIRONMENTS_IMAGES_DIR", images)
        .output()
        .expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn worker(site: &Site, name: &str, dispatchers: &[&str], more: &[(&'static str, &str)]) -> Process {
    let mut settings = site.shared("worker");
    settings.extend(tls(&site.authority.files(Role::Worker, name)));
    let urls: Vec<String> = dispatchers.iter().map(|address| format!("https://{address}")).collect();
    settings.push(("worker.dispatchers", urls.join(",")));
    settings.push(("worker.places", "4".to_owned()));
    settings.push(("metrics.listen", "127.0.0.1:0".to_owned()));
    settings.extend(more.iter().map(|(key, value)| (*key, (*value).to_owned())));
    Process::start(&format!("worker-{name}"), site.dir.path(), &settings)
}

/// What the image runs by itself, where it was imported.
fn app() -> Value {
    json!({ "environment": "app" })
}

fn ended(seen: &Value) -> bool {
    !seen["verdict"].is_null()
}

/// Before that an order may still be sent to it, which is given up on after half a minute.
async fn until_missed(worker: &Process) {
    let missed = || worker.said().contains("a dispatcher does not answer").then_some(());
    until("worker that misses its dispatcher", missed).await;
}

/// It was leased and put back.
fn was_put_off(seen: &Value) -> bool {
    let attempts = seen["attempts"].as_array().map_or(&[][..], Vec::as_slice);
    attempts.iter().any(|attempt| attempt["lost"]["kind"] == "refused")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_evaluation_goes_where_its_image_was_imported_and_waits_for_it() {
    let Some(site) = Site::new().await else { return };
    let api = site.api();
    let has = dispatcher(&site, "has", ("127.0.0.1:0", true));
    let lacks = dispatcher(&site, "lacks", ("127.0.0.1:0", false));
    let (at_has, at_lacks) = (has.address("https://"), lacks.address("https://"));
    // The one that lacks it is asked first, and has as many places free.
    let first = worker(&site, "w1", &[&at_lacks, &at_has], &[]);
    site.until_offered(&api, "app").await;
    for _ in 0..4 {
        let id = site.submit_as(&api, &app()).await;
        let seen = site.wait_for(&api, &id, ended).await;
        assert_eq!(seen["verdict"], "succeeded", "{seen:#}");
        assert_eq!(seen["attempts"].as_array().map(Vec::len), Some(1), "{seen:#}");
        let reasons = seen["attempts"][0]["decision"]["reasons"].to_string();
        assert!(reasons.contains("`has` is the only one"), "{seen:#}");
        assert!(site.stdout(&api, &id).await.starts_with("argv /app serve\n"));
    }
    let (status, problem) = site.call(&api, "/v1/evaluations", Some(&json!({"environment": "apq"}))).await;
    let said = problem["errors"][0]["message"].as_str().unwrap_or_default();
    assert!(status == 422 && said.contains("did you mean `app`?"), "{status}: {problem:#}");

    // While its dispatcher is away it waits, oftener than an attempt may be lost, and others go on.
    has.kill();
    until_missed(&first).await;
    let waiting = site.submit_as(&api, &app()).await;
    let seen = site.wait_for(&api, &waiting, was_put_off).await;
    let reason = seen["attempts"][0]["lost"]["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("`has` does not answer"), "{seen:#}");
    let other = site.submit(&api, "print('meanwhile')").await;
    let seen = site.wait_for(&api, &other, ended).await;
    assert_eq!(seen["verdict"], "succeeded", "{seen:#}");
    let many = |seen: &Value| seen["attempts"].as_array().is_some_and(|attempts| attempts.len() > 6);
    let seen = site.wait_for(&api, &waiting, many).await;
    assert!(!ended(&seen), "{seen:#}");

    // A worker that has never heard of it does not know better.
    assert!(first.stop().success());
    let second = worker(&site, "w2", &[&at_lacks, &at_has], &[]);
    let unheard = |seen: &Value| {
        let attempts = seen["attempts"].as_array().map_or(&[][..], Vec::as_slice);
        let last = attempts.iter().rev().find_map(|attempt| attempt["lost"]["reason"].as_str());
        last.is_some_and(|reason| reason.contains("not heard yet"))
    };
    let seen = site.wait_for(&api, &waiting, unheard).await;
    assert!(!ended(&seen), "{seen:#}");
    let back = dispatcher(&site, "has", (&at_has, true));
    let seen = site.wait_for(&api, &waiting, ended).await;
    assert_eq!(seen["verdict"], "succeeded", "{seen:#}");
    drop((back, second, lacks, api));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_an_environment_in_vain_ends_with_the_reason() {
    let Some(site) = Site::new().await else { return };
    let api = site.api();
    let has = dispatcher(&site, "has", ("127.0.0.1:0", true));
    let lacks = dispatcher(&site, "lacks", ("127.0.0.1:0", false));
    let (at_has, at_lacks) = (has.address("https://"), lacks.address("https://"));
    let worker = worker(&site, "w1", &[&at_has, &at_lacks], &[("worker.queue_ttl_ms", "3000")]);
    site.until_offered(&api, "app").await;
    has.kill();
    until_missed(&worker).await;
    let id = site.submit_as(&api, &app()).await;
    let seen = site.wait_for(&api, &id, ended).await;
    assert_eq!(
        (&seen["verdict"], &seen["evidence"]["decided_by"]),
        (&json!("infrastructure_error"), &json!("refusal"))
    );
    let refusal = &seen["evidence"]["refusal"];
    let reason = refusal["reason"].as_str().unwrap_or_default();
    assert_eq!(refusal["code"], "queue_ttl", "{seen:#}");
    assert!(reason.contains("`queue_ttl_ms`") && reason.contains("`has` does not answer"), "{seen:#}");
    drop((worker, lacks, api));
}
