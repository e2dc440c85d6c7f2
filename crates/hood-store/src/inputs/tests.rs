//! White box. A submission that is broken off between any two of its steps.

use rstest::rstest;
use tempfile::TempDir;

use super::*;
use crate::config::StoreConfig;
use crate::db::DatabaseUrl;
use crate::keeping::WRITING_MAX;
use crate::model::NewEvaluation;

fn at(millis: i64) -> Timestamp {
    Timestamp::from_micros(1_700_000_000_000_000 + millis * 1000)
}

async fn open(on_server: bool) -> Option<(TempDir, StoreConfig, Store)> {
    use std::io::Write as _;
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut config = StoreConfig::at(dir.path().join("store"));
    if on_server {
        if let Some(why) = hood_testkit::missing() {
            let _ = writeln!(std::io::stderr(), "\nSKIPPED: postgres: {why}");
            return None;
        }
        let url = hood_testkit::postgres().await.fresh_database().await;
        config.url = Some(DatabaseUrl::parse(&url).expect("an address"));
    }
    let store = Store::open(config.clone()).await.expect("opens");
    Some((dir, config, store))
}

fn one(id: EvaluationId) -> NewSubmission {
    let new = NewEvaluation {
        id,
        environment: "minimal".to_owned(),
        priority: 1,
        labels: std::collections::BTreeMap::new(),
        callback: None,
        request: "{}".to_owned(),
        input: None,
    };
    NewSubmission { batch: None, evaluations: vec![new], idempotency: None }
}

async fn objects(store: &Store) -> usize {
    store.blobs().list().map(|found| found.expect("lists")).count().await
}

/// Killed before the blob, between blob and row, and with the row: a successor finds nothing, or all of it.
#[rstest]
#[tokio::test]
async fn broken_off_anywhere_it_leaves_nothing_or_is_accepted(#[values(false, true)] on_server: bool) {
    let Some((_dir, config, store)) = open(on_server).await else { return };
    let tenant = Tenant::default();
    let [noted, written, kept] = [1, 2, 3].map(|n| EvaluationId::new(at(0), [n; 10]));
    let input = |id: EvaluationId| format!("{id} ").repeat(5000);
    let (blobs, _): (Vec<_>, Vec<_>) =
        hashed(vec![(noted, input(noted))]).await.expect("hashes").into_iter().unzip();
    let note = NoteInputs { tenant: tenant.clone(), now: at(0), inputs: blobs };
    store.writer().expect("is open").run(note).await.expect("notes");
    store.write_inputs(&tenant, at(0), vec![(written, input(written))]).await.expect("writes");
    let names = store.write_inputs(&tenant, at(0), vec![(kept, input(kept))]).await.expect("writes");
    store.accept(&tenant, at(0), one(kept), names.clone()).await.expect("accepts");
    store.close().await;

    let store = Store::open(config).await.expect("opens again");
    assert_eq!(store.delete_blobs(at(0).after(WRITING_MAX)).await.expect("looks"), 0, "it may be on its way");
    assert_eq!(store.delete_orphans(at(0).after(1000 * WRITING_MAX)).await.expect("looks"), 0, "it is noted");
    assert_eq!(objects(&store).await, 2);
    let late = at(1).after(WRITING_MAX);
    assert_eq!(store.delete_blobs(late).await.expect("deletes"), 2, "one that never came to be, too");
    assert_eq!(objects(&store).await, 1);
    assert!(store.input(&names[&kept]).await.expect("stays") == input(kept));
    for id in [noted, written] {
        let gone = store.get(&tenant, id).await;
        assert!(matches!(gone, Err(crate::error::FindError::NotFound)), "{gone:?}");
    }
    store.close().await;
}

/// Slower than anybody waits: what was given up meanwhile is not referred to, and nothing is accepted.
#[rstest]
#[tokio::test]
async fn what_was_given_up_before_the_row_is_not_accepted(#[values(false, true)] on_server: bool) {
    let Some((_dir, _, store)) = open(on_server).await else { return };
    let tenant = Tenant::default();
    let id = EvaluationId::new(at(0), [1; 10]);
    let names = store.write_inputs(&tenant, at(0), vec![(id, "x".repeat(9))]).await.expect("writes");
    store.delete_blobs(at(1).after(WRITING_MAX)).await.expect("gives up");
    store.accept(&tenant, at(2), one(id), names).await.expect_err("its request is not there");
    let gone = store.get(&tenant, id).await;
    assert!(matches!(gone, Err(crate::error::FindError::NotFound)), "{gone:?}");
    store.close().await;
}

/// Somebody's answer was lost, and they give up what was accepted: it stays.
#[rstest]
#[tokio::test]
async fn what_was_accepted_cannot_be_given_up(#[values(false, true)] on_server: bool) {
    let Some((_dir, _, store)) = open(on_server).await else { return };
    let tenant = Tenant::default();
    let id = EvaluationId::new(at(0), [1; 10]);
    let names = store.write_inputs(&tenant, at(0), vec![(id, "x".repeat(9))]).await.expect("writes");
    store.accept(&tenant, at(0), one(id), names.clone()).await.expect("accepts");
    store.give_up_inputs(vec![names[&id].clone()]).await;
    store.delete_blobs(at(1).after(WRITING_MAX)).await.expect("looks");
    assert_eq!(store.input(&names[&id]).await.expect("stays"), "x".repeat(9));
    store.close().await;
}
