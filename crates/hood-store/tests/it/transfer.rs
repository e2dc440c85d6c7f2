//! Black box, but for the lines of the stream. What a store keeps is what another one keeps after it was
//! moved, to the last row, and it goes on from there.

use std::collections::BTreeMap;

use hood_core::outcome::Stream;
use hood_core::{BatchId, Tenant, Verdict};
use hood_store::transfer::{TransferError, export, import};
use hood_store::{Commit, FindError, Idempotency, Lapsed, NewKey, Requeued, Store, StoreConfig};
use rstest::rstest;

use crate::archive::{Seen, look};
use crate::dead::dead;
use crate::deliveries::told;
use crate::support::Engine::{self, Postgres, Sqlite};
use crate::support::{TestStore, at, chunk, evaluation, finished, new_id, serial, single, tenant, tenure};

/// One of everything: how many evaluations.
async fn fill(t: &TestStore) -> Vec<hood_core::EvaluationId> {
    let mut ids = vec![t.ended(at(1), Verdict::Succeeded).await];
    assert_eq!(t.archive(at(9), at(2)).await.expect("archives"), 1);
    let (claimed, running) = t.running(at(10)).await;
    let mut end = finished(running, at(11), Verdict::Failed);
    end.output = vec![chunk(Stream::Stdout, 0, &[7; 2_500_000]), chunk(Stream::Stderr, 0, &[0, 255])];
    t.commit(&claimed.lease, end).await.expect("ends");
    t.move_outputs(at(12)).await.expect("moves");
    ids.push(claimed.lease.evaluation);
    ids.push(told(t).await);
    let old = dead(t, "ünï").await;
    let new = new_id(at(13));
    assert_eq!(t.requeue(&tenant(), (old, new), at(13)).await.expect("answers"), Requeued::As(new));
    ids.extend([old, new]);
    let mut batch = single(evaluation(new_id(at(14)), 5));
    batch.evaluations.push(evaluation(new_id(at(14)), 5));
    batch.batch = Some(BatchId::new(at(14), serial()));
    batch.idempotency = Some(Idempotency { key: "k".to_owned(), fingerprint: [3; 32] });
    ids.extend(batch.evaluations.iter().map(|new| new.id));
    t.submit(&tenant(), at(14), batch).await.expect("accepted");
    let claimed = t.claim_one(at(15)).await;
    let output = vec![chunk(Stream::Stdout, 0, b"so far")];
    t.commit(&claimed.lease, Commit { output, ..Commit::default() }).await.expect("stored");
    let key = NewKey { tenant: Tenant::default(), name: "x".to_owned(), hash: [9; 32], created_at: at(0) };
    t.insert_key(&key).await.expect("kept");
    ids
}

async fn stream(config: &StoreConfig) -> Vec<u8> {
    export(config, Vec::new(), |_| {}).await.expect("exports").1
}

/// Rows by table, and pieces of blobs, each in one order.
fn lines(stream: &[u8]) -> BTreeMap<String, Vec<String>> {
    let text = String::from_utf8(zstd::decode_all(stream).expect("is zstd")).expect("is text");
    let (mut found, mut of) = (BTreeMap::<String, Vec<String>>::new(), String::new());
    for line in text.lines() {
        let value: serde_json::Value = serde_json::from_str(line).expect("is JSON");
        // Openings are counted, and the target has its own: the end tells of those too.
        if value.get("end").is_some() {
            continue;
        }
        if let Some(name) = value["table"]["name"].as_str().or(value["blob"]["name"].as_str()) {
            of = name.to_owned();
        }
        found.entry(of.clone()).or_default().push(line.to_owned());
    }
    found.remove("counters");
    found.values_mut().for_each(|lines| lines.sort());
    found
}

async fn seen(store: &TestStore, ids: &[hood_core::EvaluationId]) -> Vec<Seen> {
    let mut all = Vec::new();
    for id in ids {
        all.push(look(store, *id).await);
    }
    all
}

async fn goes_on(t: TestStore, ids: &[hood_core::EvaluationId]) {
    let ended: Vec<_> = t.claim_all(at(20)).await;
    assert_eq!(ended.len(), 2, "of the three that were queued or leased, the others");
    for claimed in &ended {
        t.run_to_the_end(claimed, at(21), Verdict::Succeeded).await;
    }
    let taken = t.reclaim(at(9_000_000), Lapsed::Expired).await;
    assert_eq!(taken.len(), 1, "its lease lapses as it would have");
    t.run_to_the_end(&taken[0], at(9_000_001), Verdict::Succeeded).await;
    t.ended(at(9_000_002), Verdict::Succeeded).await;
    for id in ids {
        assert!(t.get(&tenant(), *id).await.expect("is there").state.is_terminal());
    }
    assert!(t.find_key(&[9; 32]).await.expect("looks").is_some());
    assert_eq!(t.claim_deliveries(&tenure(at(9_000_000)), 10).await.expect("claims").len(), 1);
    t.check().await;
}

#[rstest]
#[tokio::test]
async fn everything_is_there_again_and_goes_on(
    #[values((Sqlite, Postgres), (Postgres, Sqlite), (Sqlite, Sqlite))] (from, to): (Engine, Engine),
) {
    let t = TestStore::new(from).await;
    let ids = fill(&t).await;
    let before = seen(&t, &ids).await;
    t.store.close().await;
    let exported = stream(&t.config).await;
    assert!(lines(&exported).values().map(Vec::len).sum::<usize>() > 60);

    let target = TestStore::new(to).await;
    target.store.close().await;
    if to == Sqlite {
        std::fs::remove_dir_all(&target.config.dir).expect("as if it had never been opened");
    }
    // Cut short it is refused, and nothing of it is there.
    let cut = import(&target.config, &exported[..exported.len() - 40], |_| {}).await;
    let why = "it ends too early: export it again";
    assert!(matches!(&cut, Err(TransferError::Unusable { why: said }) if said == why), "{cut:?}");
    let store = Store::open(target.config.clone()).await.expect("opens");
    assert!(matches!(store.get(&tenant(), ids[0]).await, Err(FindError::NotFound)));
    store.close().await;

    let moved = import(&target.config, &exported[..], |_| {}).await.expect("imports");
    assert_eq!((moved.blobs, moved.rows["evaluations"]), (2, ids.len() as u64 - 1));
    assert_eq!(lines(&stream(&target.config).await), lines(&exported));
    let again = import(&target.config, &exported[..], |_| {}).await;
    assert!(matches!(again, Err(TransferError::NotEmpty { table: "evaluations" })), "{again:?}");
    let target = target.reopen().await;
    assert_eq!(seen(&target, &ids).await, before);
    goes_on(target, &ids).await;
}
