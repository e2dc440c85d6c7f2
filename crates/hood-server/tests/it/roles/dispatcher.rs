//! Black box: `fumehood dispatcher` as a process, and who may call it.

use std::time::Duration;

use hood_dispatch::remote::{Call, Failure, Transport};
use hood_dispatch::{Dispatch, DispatchError};
use hood_server::link::Https;
use hood_server::tls::Role;
use hood_wire::dispatch::ProblemCode;

use super::process::{Process, tls};
use super::tls::bench::{listen, order};
use super::tls::{Authority, worker};

fn start(authority: &Authority, dir: &std::path::Path, more: &[(&str, &str)]) -> Process {
    let mut settings = tls(&authority.files(Role::Dispatcher, "d1"));
    settings.push(("dispatcher.listen", "127.0.0.1:0".to_owned()));
    settings.push(("metrics.listen", "127.0.0.1:0".to_owned()));
    settings.extend(more.iter().map(|(key, value)| (*key, (*value).to_owned())));
    Process::start("dispatcher", dir, &settings)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_token_reaches_a_dispatchers_log_and_its_health_is_told_without_a_key() {
    let (authority, dir) = (Authority::new(), tempfile::tempdir().expect("a directory"));
    let process = start(&authority, dir.path(), &[("log.filter", "trace")]);
    let address = process.address("https://").parse().expect("an address");
    let remote = worker(address, &authority.credentials(Role::Worker, "w1")).await;
    let token = 7_777_777_777_777;
    let mut order = order(&remote.capacity(), 1, "print('ran')");
    order.token = token;
    let key = order.key;
    let mut link = remote.execute(order.clone()).await.expect("a place");
    let stale = remote.attach(key, token - 1, 0).await;
    assert!(matches!(stale, Err(DispatchError::Stale(_))), "{stale:?}");
    assert_eq!(listen(&mut link).await.stdout, b"ran\n");

    let side = process.address("http://");
    let ready = reqwest::get(format!("http://{side}/readyz")).await.expect("an answer");
    assert_eq!(ready.status(), 200);
    assert!(ready.text().await.expect("text").contains("sandbox"));
    let metrics = reqwest::get(format!("http://{side}/metrics")).await.expect("an answer");
    assert_eq!(metrics.status(), 200);

    let log = process.log.clone();
    assert!(process.stop().success());
    let said = std::fs::read_to_string(log).expect("a log");
    assert!(said.len() > 1000, "it logs everything: {said}");
    assert!(!said.contains(&token.to_string()), "a lease's token is in the log");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_worker_is_answered() {
    let (authority, dir) = (Authority::new(), tempfile::tempdir().expect("a directory"));
    let process = start(&authority, dir.path(), &[]);
    let address = format!("https://{}", process.address("https://"));
    let call = async |authority: &Authority, role| {
        let way = Https::new(&address, &authority.credentials(role, "x")).expect("an address");
        way.call(Call::Capacity).await
    };
    assert!(call(&authority, Role::Worker).await.is_ok());
    for role in [Role::Api, Role::Notifier] {
        match call(&authority, role).await {
            Err(Failure::Refused(problem)) => assert_eq!(problem.code, ProblemCode::Forbidden, "{role}"),
            other => panic!("{role}: {other:?}"),
        }
    }
    // A dispatcher's certificate is no client's, and a stranger's is nobody's: neither is spoken to.
    assert!(matches!(call(&authority, Role::Dispatcher).await, Err(Failure::Unreachable(_))));
    assert!(matches!(call(&Authority::new(), Role::Worker).await, Err(Failure::Unreachable(_))));
    assert!(process.said().contains("may not call a dispatcher"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dispatcher_that_was_killed_buries_its_places_and_says_that_they_are_gone() {
    let (authority, dir) = (Authority::new(), tempfile::tempdir().expect("a directory"));
    let process = start(&authority, dir.path(), &[]);
    let address = process.address("https://");
    let credentials = authority.credentials(Role::Worker, "w1");
    let remote = worker(address.parse().expect("an address"), &credentials).await;
    let order = order(&remote.capacity(), 1, "import time\nprint('up', flush=True)\ntime.sleep(600)");
    let key = order.key;
    let mut link = remote.execute(order).await.expect("a place");
    let ready = link.next().await.expect("ready");
    link.acknowledge(ready.number);
    link.next().await.expect("it runs");
    process.kill();
    // Nobody knows what became of it until the successor has looked.
    let early = tokio::time::timeout(Duration::from_millis(500), link.next()).await;
    assert!(early.is_err(), "decided without proof: {early:?}");
    let successor = start(&authority, dir.path(), &[("dispatcher.listen", &address)]);
    let end = tokio::time::timeout(Duration::from_secs(60), link.next()).await.expect("in time");
    assert_eq!(end, None, "it is gone");
    let gone = remote.attach(key, 2, 0).await;
    assert!(matches!(gone, Err(DispatchError::Gone(_))), "{gone:?}");
    assert!(successor.said().contains("proven dead"), "{}", successor.said());
}
