//! Black box. PostgreSQL goes and comes back, as itself and as seen by those who use it.

use std::time::Duration;

use hood_core::{Timestamp, Verdict};
use hood_store::{DatabaseUrl, Duty, OpenError, Store, StoreConfig, StoreError};
use hood_testkit::{Postgres, PostgresOptions};

use crate::support::{TestStore, at, evaluation, has_postgres, invariants, new_id, single, tenant};

const PATIENCE: Duration = Duration::from_secs(60);

/// A server of its own, since it is killed.
fn server() -> Postgres {
    Postgres::start(PostgresOptions { fsync: false }).expect("starts")
}

fn config(url: &str) -> StoreConfig {
    let dir = std::env::temp_dir().join(format!("hood-outages-{}", std::process::id()));
    StoreConfig { url: Some(DatabaseUrl::parse(url).expect("an address")), ..StoreConfig::at(dir) }
}

/// Tries until it is there again; what it is told meanwhile must say that it may.
async fn until_writable(store: &Store) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while let Err(error) = store.check_writable().await {
        assert!(error.is_away(), "{error:?}");
        assert!(tokio::time::Instant::now() < deadline, "never came back: {error:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Each of the store's connections comes back by itself: one that writes says nothing of one that accepts.
/// What is queued then, however much was accepted before, is run to its end.
async fn until_accepting(t: &TestStore, now: Timestamp) {
    until_writable(t).await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while let Err(error) = t.store.submit(&tenant(), now, single(evaluation(new_id(now), 0))).await {
        assert!(tokio::time::Instant::now() < deadline, "never came back: {error:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for claimed in t.claim_all(now).await {
        t.run_to_the_end(&claimed, now, Verdict::Succeeded).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_accepted_outlives_a_server_that_is_killed_under_load() {
    if !has_postgres() {
        return;
    }
    let server = server();
    let t = TestStore::over(config(&server.create_database().expect("a database"))).await;
    let mut accepted = Vec::new();
    for round in 0..3 {
        let flood = (0..200).map(|_| {
            let store = t.store.clone();
            tokio::spawn(async move {
                let id = new_id(at(round));
                let answer = store.submit(&tenant(), at(round), single(evaluation(id, 0))).await;
                (id, answer)
            })
        });
        let flood: Vec<_> = flood.collect();
        server.kill9().expect("dies");
        for one in flood {
            let (id, answer) = one.await.expect("no panic");
            match answer {
                Ok(_) => accepted.push(id),
                Err(hood_store::SubmitError::Store(error)) => assert!(error.is_away(), "{error:?}"),
                Err(error) => panic!("{error}"),
            }
        }
        let told = t.check_writable().await.expect_err("it is away");
        assert!(matches!(told, StoreError::Away { .. }), "{told:?}");
        let read = t.has_keys().await.expect_err("it is away");
        assert!(matches!(read, StoreError::Away { .. }), "{read:?}");
        server.restart().expect("comes back");
        until_accepting(&t, at(round)).await;
        accepted.push(t.ended(at(round), Verdict::Succeeded).await);
    }
    for id in accepted {
        invariants::check_one(&t, id).await;
    }
    t.check().await;
}

#[tokio::test]
async fn a_store_opens_before_its_server_does() {
    if !has_postgres() {
        return;
    }
    let server = server();
    let url = server.create_database().expect("a database");
    server.stop().expect("stops");
    let t = TestStore::over(config(&url)).await;
    let told = t.check_writable().await.expect_err("it is away");
    assert!(told.is_away(), "{told:?}");
    server.restart().expect("starts");
    until_accepting(&t, at(0)).await;
    t.ended(at(0), Verdict::Succeeded).await;
    t.check().await;
}

#[tokio::test]
async fn who_may_only_look_says_that_the_owner_has_to_migrate() {
    if !has_postgres() {
        return;
    }
    let url = hood_testkit::postgres().await.fresh_database().await;
    let looks = Store::open(StoreConfig { duty: Duty::Check, ..config(&url) }).await.expect("waits for it");
    let told = looks.check_writable().await.expect_err("is not migrated");
    let StoreError::Unready(why) = &told else { panic!("{told:?}") };
    assert!(matches!(&**why, OpenError::NotMigrated { found: 0, .. }), "{why:?}");
    assert!(why.to_string().contains("fumehood migrate"), "{why}");
    let owner = Store::open(config(&url)).await.expect("migrates");
    until_writable(&looks).await;
    for store in [looks, owner] {
        store.close().await;
    }
}

#[tokio::test]
async fn a_newer_schema_that_we_can_work_with_opens_and_another_is_refused() {
    if !has_postgres() {
        return;
    }
    let server = hood_testkit::postgres().await;
    let url = server.fresh_database().await;
    Store::open(config(&url)).await.expect("opens").close().await;
    let name = url.rsplit('/').next().expect("a name");
    let newer = "INSERT INTO schema_migrations VALUES (99, 'later', 'x', 1, '9.9.0')";
    server.sql(name, newer).expect("is done");
    Store::open(config(&url)).await.expect("opens").close().await;
    server
        .sql(name, "UPDATE schema_migrations SET oldest_compatible = 98 WHERE version = 99")
        .expect("is done");
    let refused = Store::open(config(&url)).await.expect_err("is too new");
    assert!(format!("{refused:?}").contains("TooNew"), "{refused:?}");
}

/// Whatever the database's own setting is: an answer means that it is on a disk.
#[tokio::test]
async fn commits_are_durable_before_they_are_answered() {
    if !has_postgres() {
        return;
    }
    let server = hood_testkit::postgres().await;
    let url = server.fresh_database().await;
    let name = url.rsplit('/').next().expect("a name");
    server.sql("postgres", &format!("ALTER DATABASE {name} SET synchronous_commit = off")).expect("is set");
    let store = Store::open(config(&url)).await.expect("opens");
    let kept = store.durability().await.expect("answers");
    let value =
        |name: &str| kept.iter().find(|(setting, _)| setting == name).map(|(_, value)| value.as_str());
    assert_eq!((value("fsync"), value("synchronous_commit")), (Some("on"), Some("on")), "{kept:?}");
    store.close().await;
}
