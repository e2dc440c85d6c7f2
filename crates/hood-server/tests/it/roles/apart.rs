//! Black box: API, workers and a dispatcher as processes on a PostgreSQL, and what becomes of an
//! evaluation when one of them dies or freezes.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use hood_server::tls::Role;
use rustix::process::Signal;
use serde_json::Value;

use super::site::{PATIENCE, PLACES, Site, until};
use super::tls::Authority;

/// Prints who it is, so that two runs would show, and counts on for as long as a lease lasts.
const COUNTS: &str = "import os, time
print(os.urandom(8).hex(), flush=True)
for n in range(80): print(n, flush=True); time.sleep(0.1)";

/// One run's output, whole.
fn is_one_run(stdout: &str) -> bool {
    let Some((who, counted)) = stdout.split_once('\n') else { return false };
    let wanted: String = (0..80).map(|n| format!("{n}\n")).collect();
    who.len() == 16 && counted == wanted
}

/// Verdict, and how many attempts it took.
fn outcome(seen: &Value) -> (&str, usize) {
    (seen["verdict"].as_str().unwrap_or_default(), seen["attempts"].as_array().map_or(0, Vec::len))
}

/// Its program has run for a while, and something of it is written down.
fn has_output(seen: &Value) -> bool {
    seen["state"] == "running" && seen["stdout"]["preview"].as_str().is_some_and(|text| text.len() > 20)
}

fn ended(seen: &Value) -> bool {
    !seen["verdict"].is_null()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_killed_or_freezes_is_taken_over_within_the_same_attempt() {
    let Some(site) = Site::new().await else { return };
    // In the worst order: nothing that a role needs is there when it starts.
    let api = site.api();
    let dispatcher = site.dispatcher("127.0.0.1:0");
    let address = dispatcher.address("https://");
    let first = site.worker("w1", &address);
    let killed = site.submit(&api, COUNTS).await;
    site.wait_for(&api, &killed, has_output).await;
    let second = site.worker("w2", &address);
    first.kill();
    let seen = site.wait_for(&api, &killed, ended).await;
    assert_eq!(outcome(&seen), ("succeeded", 1), "{seen}");
    let stdout = site.stdout(&api, &killed).await;
    assert!(is_one_run(&stdout), "{stdout}");

    let frozen = site.submit(&api, COUNTS).await;
    site.wait_for(&api, &frozen, has_output).await;
    let third = site.worker("w3", &address);
    second.signal(Signal::STOP);
    let seen = site.wait_for(&api, &frozen, ended).await;
    second.signal(Signal::CONT);
    assert_eq!(outcome(&seen), ("succeeded", 1), "{seen}");
    let stdout = site.stdout(&api, &frozen).await;
    assert!(is_one_run(&stdout), "{stdout}");
    // The one that thawed finds that it holds nothing, and works on.
    let after = site.submit(&api, "print('after')").await;
    site.wait_for(&api, &after, ended).await;
    for process in [second, third, api, dispatcher] {
        let log = process.log.clone();
        assert!(process.stop().success(), "{}", fs::read_to_string(log).unwrap_or_default());
    }
}

/// What the successor claims waits for the places of what it takes over, which must not wait for that.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_worker_ran_is_taken_over_though_all_places_are_full_and_more_waits() {
    let Some(site) = Site::new().await else { return };
    let (api, dispatcher) = (site.api(), site.dispatcher("127.0.0.1:0"));
    let address = dispatcher.address("https://");
    let first = site.worker("w1", &address);
    let mut running = Vec::new();
    for _ in 0..PLACES {
        running.push(site.submit(&api, COUNTS).await);
    }
    for id in &running {
        site.wait_for(&api, id, has_output).await;
    }
    let mut waiting = Vec::new();
    for _ in 0..2 * PLACES {
        waiting.push(site.submit(&api, "print('waited')").await);
    }
    first.kill();
    let second = site.worker("w2", &address);
    for id in running.iter().chain(&waiting) {
        let seen = site.wait_for(&api, id, ended).await;
        assert_eq!(outcome(&seen), ("succeeded", 1), "{seen}");
    }
    for id in &running {
        let stdout = site.stdout(&api, id).await;
        assert!(is_one_run(&stdout), "{stdout}");
    }
    drop((second, dispatcher, api));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_whose_dispatcher_was_killed_is_tried_again_and_nothing_is_refused_meanwhile() {
    let Some(site) = Site::new().await else { return };
    let (api, dispatcher) = (site.api(), site.dispatcher("127.0.0.1:0"));
    let address = dispatcher.address("https://");
    let worker = site.worker("w1", &address);
    let id = site.submit(&api, COUNTS).await;
    site.wait_for(&api, &id, has_output).await;
    dispatcher.kill();
    let side = worker.address("http://");
    let ready = |status| {
        let url = format!("http://{side}/readyz");
        async move {
            let began = Instant::now();
            loop {
                let answer = reqwest::get(&url).await.expect("an answer");
                let (found, text) = (answer.status().as_u16(), answer.text().await.expect("text"));
                if found == status {
                    return text;
                }
                assert!(began.elapsed() < PATIENCE, "{found}: {text}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    };
    assert!(ready(503).await.contains("has not answered"));
    // What is submitted meanwhile waits; it is not refused for an outage.
    let waiting = site.submit(&api, "print('waited')").await;
    let successor = site.dispatcher(&address);
    ready(200).await;
    let seen = site.wait_for(&api, &id, ended).await;
    assert_eq!(outcome(&seen), ("succeeded", 2), "{seen}");
    let stdout = site.stdout(&api, &id).await;
    assert!(is_one_run(&stdout), "{stdout}");
    let seen = site.wait_for(&api, &waiting, ended).await;
    assert_eq!(seen["verdict"], "succeeded", "{seen}");
    let said = worker.said();
    let times = said.matches("a dispatcher does not answer").count();
    assert_eq!(times, 1, "said once, not a thousand times:\n{said}");
    drop((successor, worker, api));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_too_long_ends_where_no_dispatcher_answers_and_runs_where_one_has_a_place() {
    const TTL: Duration = Duration::from_secs(2);
    let Some(mut site) = Site::new().await else { return };
    site.everywhere.push(("worker.queue_ttl_ms", TTL.as_millis().to_string()));
    let (api, dispatcher) = (site.api(), site.dispatcher("127.0.0.1:0"));
    let address = dispatcher.address("https://");
    let first = site.worker("w1", &address);
    site.until_offered(&api, "minimal").await;
    assert!(first.stop().success());
    dispatcher.kill();

    let lost = site.submit(&api, "print('never')").await;
    let second = site.worker("w2", &address);
    let seen = site.wait_for(&api, &lost, ended).await;
    let refusal = &seen["evidence"]["refusal"];
    let reason = refusal["reason"].as_str().unwrap_or_default();
    assert_eq!((outcome(&seen), refusal["code"].as_str()), (("infrastructure_error", 0), Some("queue_ttl")));
    assert!(reason.contains("no dispatcher has answered this worker since it began"), "{seen:#}");
    second.kill();

    // Nobody looks while it grows too old; who then does has every place free.
    let (waiting, since) = (site.submit(&api, "print('at last')").await, Instant::now());
    let dispatcher = site.dispatcher(&address);
    until("grown too old", || (since.elapsed() > TTL).then_some(())).await;
    let third = site.worker("w3", &address);
    let seen = site.wait_for(&api, &waiting, ended).await;
    assert_eq!(outcome(&seen), ("succeeded", 1), "{seen:#}");
    drop((dispatcher, third, api));
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_wait_until_the_owner_has_migrated_and_change_no_schema_themselves() {
    let Some(site) = Site::without_schema().await else { return };
    let dispatcher = site.dispatcher("127.0.0.1:0");
    let (api, worker) = (site.api(), site.worker("w1", &dispatcher.address("https://")));
    let notifier = site.notifier("n1", &[]);
    for process in [&api, &worker, &notifier] {
        let url = format!("http://{}/readyz", process.address("http://"));
        let answer = reqwest::get(url).await.expect("an answer");
        assert_eq!(answer.status().as_u16(), 503);
        let said = answer.text().await.expect("text");
        assert!(said.contains("fumehood migrate"), "{said}");
    }
    let tables = "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'public'";
    assert_eq!(site.server.sql(&site.database, tables).expect("counts").trim(), "0");
    site.migrate();
    let id = site.submit(&api, "print('at last')").await;
    let seen = site.wait_for(&api, &id, ended).await;
    assert_eq!(outcome(&seen), ("succeeded", 1), "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_who_migrate_at_once_one_makes_the_key() {
    let Some(site) = Site::without_schema().await else { return };
    let run = |number: u32| {
        let data = site.dir.path().join(format!("owner{number}"));
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_fumehood"));
        command.args(["migrate", "--data-dir"]).arg(&data).env("FUMEHOOD_STORE_URL", &site.owner_url);
        command.stdout(std::process::Stdio::piped());
        (data, command.spawn().expect("it starts"))
    };
    // All of them have begun before the first is waited for.
    let running: Vec<_> = (0..4).map(run).collect();
    let mut keys = 0;
    for (data, child) in running {
        let output = child.wait_with_output().expect("it ends");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{said}");
        keys += u32::from(said.contains("API key"));
        assert_eq!(said.contains("API key"), data.join("token").exists(), "{said}");
    }
    let stored = site.server.sql(&site.database, "SELECT count(*) FROM api_keys").expect("counts");
    assert_eq!((keys, stored.trim()), (1, "1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_runs_apart_refuses_what_it_could_not_share() {
    let dir = tempfile::tempdir().expect("a directory");
    let refused = |role: &str, settings: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_fumehood"));
        command.arg(role).arg("--data-dir").arg(dir.path().join(role));
        for setting in settings {
            command.args(["--set", setting]);
        }
        let output = command.output().expect("it runs");
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let url = "store.url=postgres://nobody@127.0.0.1:1/nothing";
    assert!(refused("api", &[]).contains("store.url"));
    assert!(refused("api", &[url]).contains("blobs.url"));
    for role in ["worker", "dispatcher"] {
        assert!(refused(role, &[url]).contains("tls.cert"), "{role}");
    }
    assert!(refused("notifier", &[]).contains("store.url"));
    assert!(refused("notifier", &[url]).contains("webhooks.secret"));
    let authority = Authority::new();
    let files = authority.files(Role::Api, "a");
    let named = |key: &str, path: &Path| format!("{key}={}", path.display());
    let (cert, key, ca) =
        (named("tls.cert", &files.cert), named("tls.key", &files.key), named("tls.ca", &files.ca));
    let said = refused("dispatcher", &[&cert, &key, &ca]);
    assert!(said.contains("role/api/a") && said.contains("this is a dispatcher"), "{said}");
}
