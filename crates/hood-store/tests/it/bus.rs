//! Grey box: a real Redis between stores that share a database, as API replicas and workers do. Hints
//! cross where it is there; where it is not everybody looks by themselves.

use std::io::Write as _;
use std::time::Duration;

use hood_core::EvaluationId;
use hood_core::outcome::Stream;
use hood_store::{BusConfig, BusSide, Commit, Reach, Store, StoreConfig};
use hood_testkit::Redis;
use tempfile::TempDir;

use crate::cancel::wish;
use crate::support::{at, chunk, evaluation, new_id, single, started, tenant, tenure};

fn redis() -> Option<Redis> {
    redis_with(&[])
}

/// `None`, and said so, where there is none to start.
fn redis_with(options: &[&str]) -> Option<Redis> {
    if let Some(why) = hood_testkit::missing() {
        let _ = writeln!(std::io::stderr(), "\nSKIPPED: redis: {why}");
        return None;
    }
    Some(Redis::with(options).expect("starts"))
}

fn free_port() -> u16 {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    socket.local_addr().expect("an address").port()
}

/// Far beyond what anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

async fn soon<T>(hint: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, hint).await.expect("a hint")
}

fn is_pending(hint: impl Future) -> bool {
    futures::FutureExt::now_or_never(hint).is_none()
}

async fn until(mut holds: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    waited.await.expect("comes to hold");
}

async fn connected(stores: &[&Store]) {
    until(|| stores.iter().all(|store| store.wake().reach() == Reach::Connected)).await;
}

async fn cut_off(stores: &[&Store]) {
    until(|| stores.iter().all(|store| matches!(store.wake().reach(), Reach::CutOff { .. }))).await;
}

fn bus(url: String, side: BusSide) -> BusConfig {
    BusConfig { url, ca: None, prefix: "fumehood:".to_owned(), side }
}

/// An API and a worker, each with its own store on the same database.
struct Pair {
    api: Store,
    worker: Store,
    _dir: TempDir,
}

impl Pair {
    async fn on(redis: &Redis) -> Self {
        Self::with(bus(redis.url(), BusSide::Api), bus(redis.url(), BusSide::Worker)).await
    }

    async fn with(api: BusConfig, worker: BusConfig) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let open = async |bus| {
            let config = StoreConfig { bus: Some(bus), ..StoreConfig::at(dir.path().join("store")) };
            Store::open(config).await.expect("opens")
        };
        let (api, worker) = (open(api).await, open(worker).await);
        Self { api, worker, _dir: dir }
    }

    async fn submit(&self) -> EvaluationId {
        let new = evaluation(new_id(at(0)), 0);
        let id = new.id;
        self.api.submit(&tenant(), at(0), single(new)).await.expect("accepted");
        id
    }
}

#[tokio::test]
async fn hints_cross_from_one_process_to_another_and_name_what_changed() {
    let Some(redis) = redis() else { return };
    let t = Pair::on(&redis).await;
    connected(&[&t.api, &t.worker]).await;
    let (work, mut cancels) = (t.worker.wake().work(), t.worker.wake().cancels());
    let id = t.submit().await;
    soon(work).await;

    let mut watch = t.api.wake().watch(id);
    let mut other = t.api.wake().watch(new_id(at(0)));
    let claimed = t.worker.claim(&tenure(at(0)), 1).await.expect("claims").remove(0);
    soon(watch.changed()).await;
    let step = crate::support::provisioning(&claimed).start(at(1));
    t.worker.commit(&claimed.lease, started(&step)).await.expect("starts");
    soon(watch.changed()).await;
    let output = vec![chunk(Stream::Stdout, 0, b"x")];
    t.worker.commit(&claimed.lease, Commit { output, ..Commit::default() }).await.expect("stored");
    soon(watch.changed()).await;
    assert!(is_pending(other.changed()), "of others one hears nothing");

    t.api.request_cancel(&tenant(), id, wish(at(2), None)).await.expect("is there");
    assert_eq!(soon(cancels.recv()).await, Some(id));
}

#[tokio::test]
async fn who_follows_looks_by_themselves_while_the_bus_is_away_and_is_woken_again_once_it_is_back() {
    let Some(redis) = redis() else { return };
    let t = Pair::on(&redis).await;
    let id = t.submit().await;
    connected(&[&t.api, &t.worker]).await;
    let mut watch = t.api.wake().watch(id);
    redis.kill9().expect("dies");
    cut_off(&[&t.api, &t.worker]).await;

    // Nothing tells of this one, and yet whoever watches looks, again and again.
    let claimed = t.worker.claim(&tenure(at(0)), 1).await.expect("claims").remove(0);
    let mut cancels = t.worker.wake().cancels();
    for _ in 0..3 {
        soon(watch.changed()).await;
        assert_eq!(soon(cancels.recv()).await, None, "all held ones are to be looked at");
    }
    assert_eq!(t.api.get(&tenant(), id).await.expect("is there").history.attempts, 1);

    redis.restart().expect("comes back");
    connected(&[&t.api, &t.worker]).await;
    quiet(&mut watch).await;
    let step = crate::support::provisioning(&claimed).start(at(1));
    t.worker.commit(&claimed.lease, started(&step)).await.expect("starts");
    soon(watch.changed()).await;
}

/// Takes the hints that an outage's end brings.
async fn quiet(watch: &mut hood_store::Subscription) {
    let still = Duration::from_millis(1500);
    while tokio::time::timeout(still, watch.changed()).await.is_ok() {}
}

#[tokio::test]
async fn a_server_that_froze_is_told_from_one_that_has_nothing_to_say() {
    let Some(redis) = redis() else { return };
    let t = Pair::on(&redis).await;
    connected(&[&t.api, &t.worker]).await;
    redis.freeze().expect("stands still");
    cut_off(&[&t.api, &t.worker]).await;
    let id = t.submit().await;
    let mut watch = t.api.wake().watch(id);
    t.worker.claim(&tenure(at(0)), 1).await.expect("a store does not wait for the bus");
    soon(watch.changed()).await;
    redis.thaw().expect("goes on");
    connected(&[&t.api, &t.worker]).await;
}

#[tokio::test]
async fn a_bus_that_is_not_there_stops_nobody_from_starting() {
    let Some(redis) = redis() else { return };
    redis.kill9().expect("dies");
    let t = Pair::on(&redis).await;
    let id = t.submit().await;
    cut_off(&[&t.api]).await;
    assert_eq!(t.worker.claim(&tenure(at(0)), 1).await.expect("claims")[0].lease.evaluation, id);
    redis.restart().expect("comes back");
    connected(&[&t.api, &t.worker]).await;
}

#[tokio::test]
async fn what_was_dropped_or_cannot_be_read_makes_everybody_look() {
    let Some(redis) = redis() else { return };
    let t = Pair::on(&redis).await;
    connected(&[&t.api, &t.worker]).await;
    let client = redis::Client::open(redis.url()).expect("a URL");
    let mut raw = client.get_multiplexed_async_connection().await.expect("connects");
    let mut say = async |number: &str| {
        let mut add = redis::cmd("XADD");
        add.arg("fumehood:wake:worker").arg("*").arg("version").arg(1).arg("origin").arg(9);
        add.arg("number").arg(number).arg("everything").arg(0).arg("work").arg(0);
        add.arg("changed").arg("").arg("cancels").arg("");
        add.query_async::<()>(&mut raw).await.expect("said");
    };
    let mut watch = t.api.wake().watch(new_id(at(0)));
    say("1").await;
    say("2").await;
    say("4").await;
    soon(watch.changed()).await;
    say("none").await;
    soon(watch.changed()).await;
}

#[tokio::test]
async fn a_stream_is_bounded() {
    let Some(redis) = redis() else { return };
    let t = Pair::on(&redis).await;
    let client = redis::Client::open(redis.url()).expect("a URL");
    let mut raw = client.get_multiplexed_async_connection().await.expect("connects");
    let mut many = redis::pipe();
    for _ in 0..12_000 {
        many.cmd("XADD").arg("fumehood:wake:api").arg("*").arg("a").arg("b").ignore();
    }
    many.query_async::<()>(&mut raw).await.expect("added");
    connected(&[&t.api]).await;
    let work = t.worker.wake().work();
    t.submit().await;
    soon(work).await;
    let waited = tokio::time::timeout(PATIENCE, async {
        loop {
            let length: u64 =
                redis::cmd("XLEN").arg("fumehood:wake:api").query_async(&mut raw).await.expect("a length");
            if length < 5000 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    waited.await.expect("trimmed");
}

const USERS: &str = include_str!("../../../../deploy/redis/users.acl");

fn as_user(redis: &Redis, side: BusSide) -> BusConfig {
    let name = side.as_str();
    let url = format!("redis://fumehood-{name}:change-me-{name}@127.0.0.1:{}", redis.port());
    bus(url, side)
}

#[tokio::test]
async fn each_side_may_say_what_is_its_own_and_nothing_else() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let users = dir.path().join("users.acl");
    std::fs::write(&users, USERS).expect("written");
    let Some(redis) = redis_with(&["--aclfile", &users.to_string_lossy()]) else { return };
    let t = Pair::with(as_user(&redis, BusSide::Api), as_user(&redis, BusSide::Worker)).await;
    connected(&[&t.api, &t.worker]).await;
    let work = t.worker.wake().work();
    t.submit().await;
    soon(work).await;

    for side in BusSide::ALL {
        let client = redis::Client::open(as_user(&redis, side).url).expect("a URL");
        let mut raw = client.get_multiplexed_async_connection().await.expect("logs in");
        for stream in BusSide::ALL {
            let key = format!("fumehood:wake:{}", stream.as_str());
            let mut add = redis::cmd("XADD");
            let said = add.arg(&key).arg("*").arg("a").arg("b").query_async::<String>(&mut raw).await;
            assert_eq!(said.is_ok(), side == stream, "{side:?} writes to {key}: {said:?}");
        }
        for (command, key) in [
            ("XADD", "elsewhere:wake:api"),
            ("XREAD", "elsewhere:wake:api"),
            ("DEL", "fumehood:wake:api"),
            ("XTRIM", "fumehood:wake:api"),
            ("KEYS", "*"),
            ("FLUSHALL", ""),
            ("CONFIG", "GET"),
            ("ACL", "LIST"),
            ("EVAL", "return 1"),
        ] {
            let mut forbidden = redis::cmd(command);
            match command {
                "XREAD" => forbidden.arg("STREAMS").arg(key).arg("0"),
                "XADD" => forbidden.arg(key).arg("*").arg("a").arg("b"),
                "XTRIM" => forbidden.arg(key).arg("MAXLEN").arg(0),
                "EVAL" => forbidden.arg(key).arg(0),
                "CONFIG" => forbidden.arg(key).arg("*"),
                "FLUSHALL" => &mut forbidden,
                _ => forbidden.arg(key),
            };
            let error = forbidden.query_async::<redis::Value>(&mut raw).await.expect_err("forbidden");
            assert_eq!(error.code(), Some("NOPERM"), "{side:?} {command} {key}: {error}");
        }
    }
    let stranger = bus(redis.url(), BusSide::Api);
    let t = Pair::with(stranger.clone(), stranger).await;
    cut_off(&[&t.api]).await;
}

#[tokio::test]
async fn over_tls_the_server_is_known_by_its_certificate() {
    let (ca, (certificate, key)) = certificates();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let [certificate, key] = [("server.crt", certificate), ("server.key", key)].map(|(name, text)| {
        let file = dir.path().join(name);
        std::fs::write(&file, text).expect("written");
        file.to_string_lossy().into_owned()
    });
    let port = free_port();
    let options = ["--tls-port", &port.to_string(), "--tls-cert-file", &certificate, "--tls-key-file", &key];
    let Some(_redis) = redis_with(&[&options[..], &["--tls-auth-clients", "no"]].concat()) else { return };
    let over_tls = |ca: &str, side| BusConfig {
        ca: Some(ca.as_bytes().to_vec()),
        ..bus(format!("rediss://127.0.0.1:{port}"), side)
    };
    let t = Pair::with(over_tls(&ca, BusSide::Api), over_tls(&ca, BusSide::Worker)).await;
    connected(&[&t.api, &t.worker]).await;
    let work = t.worker.wake().work();
    t.submit().await;
    soon(work).await;

    let (stranger, _) = certificates();
    let t = Pair::with(over_tls(&stranger, BusSide::Api), over_tls(&stranger, BusSide::Worker)).await;
    cut_off(&[&t.api, &t.worker]).await;
    until(|| match t.api.wake().reach() {
        Reach::CutOff { reason } => reason.to_lowercase().contains("certificate"),
        _ => false,
    })
    .await;
}

/// A CA, and what it gave a server on 127.0.0.1: certificate and key, in PEM.
fn certificates() -> (String, (String, String)) {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = params.self_signed(&key).expect("signed").pem();
    let issuer = Issuer::new(params, key);
    let server = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("an address");
    let certificate = params.signed_by(&server, &issuer).expect("signed").pem();
    (ca, (certificate, server.serialize_pem()))
}

#[tokio::test]
async fn a_url_that_cannot_be_used_is_refused_without_being_repeated() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for url in ["http://u:secret@127.0.0.1", "secret"] {
        let bus = Some(bus(url.to_owned(), BusSide::Api));
        let config = StoreConfig { bus, ..StoreConfig::at(dir.path().join("store")) };
        assert!(!format!("{config:?}").contains("secret"), "{config:?}");
        let error = Store::open(config).await.expect_err("no bus's URL");
        let told = format!("{error:?} {error}");
        assert!(!told.contains("secret"), "{told}");
    }
}
