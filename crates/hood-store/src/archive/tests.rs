//! White box. An archive that is broken off between any two of its steps, and one whose evaluations
//! change between the look and the transaction.

use std::collections::BTreeSet;

use hood_core::{EvaluationId, Tenant};
use rstest::rstest;
use tempfile::TempDir;

use super::*;
use crate::blobs::Blob;
use crate::config::StoreConfig;
use crate::db::{DatabaseUrl, query};
use crate::keeping::WRITING_MAX;
use crate::model::{CancelWish, NewEvaluation, NewSubmission, Record, Settled, Tenure};

/// More than leave in one transaction, and not a whole number of those.
const EVALUATIONS: usize = 2 * LEAVE_MAX + 20;

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

/// So many that ended in the queue, each with a delivery if there is a `callback`.
async fn ended(store: &Store, count: usize, callback: Option<&str>) -> Vec<EvaluationId> {
    let tenant = Tenant::default();
    let mut ids = Vec::new();
    for i in 0..count {
        let mut random = [0; 10];
        random[2..].copy_from_slice(&(i as u64).to_be_bytes());
        let new = NewEvaluation {
            id: EvaluationId::new(at(0), random),
            environment: "minimal".to_owned(),
            priority: 1,
            labels: [("n".to_owned(), i.to_string())].into(),
            callback: callback.map(str::to_owned),
            request: format!("{{\"n\":{i}}}"),
            input: None,
        };
        ids.push(new.id);
        let submission = NewSubmission { batch: None, evaluations: vec![new], idempotency: None };
        store.submit(&tenant, at(0), submission).await.expect("accepted");
        let wish = CancelWish { grace_ms: None, now: at(1), result_if_queued: "{}".to_owned() };
        store.request_cancel(&tenant, ids[i], wish).await.expect("ends");
    }
    ids
}

async fn records(store: &Store, ids: &[EvaluationId]) -> Vec<Record> {
    let mut records = Vec::new();
    for id in ids {
        let mut record = store.get(&Tenant::default(), *id).await.expect("is in one place or the other");
        record.summary.archived = false;
        records.push(record);
    }
    records
}

async fn column(store: &Store, sql: &'static str) -> Vec<String> {
    let mut reader = store.reader().await.expect("reads");
    let rows = query(sql).fetch_all(&mut reader.connection()).await.expect("answers");
    rows.iter().map(|row| row.try_get::<String>("found").expect("text")).collect()
}

/// How far one came: each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
enum Step {
    Packed,
    Noted,
    Written,
    LeftInPart,
    LeftAllButLast,
}

async fn up_to(store: &Store, step: Step) {
    let (bytes, mut entries) = store.pack(at(2)).await.expect("packs").finish();
    assert_eq!(entries.len(), EVALUATIONS);
    let name = name(at(3));
    if step >= Step::Noted {
        let note = NoteArchive { name: name.clone(), now: at(3) };
        store.writer().expect("open").run(note).await.expect("notes");
    }
    if step < Step::Written {
        return;
    }
    let blob = store.blobs().put(name, bytes.into()).await.expect("writes");
    entries.truncate(match step {
        Step::LeftAllButLast => 2 * LEAVE_MAX,
        Step::LeftInPart => LEAVE_MAX,
        _ => 0,
    });
    if !entries.is_empty() {
        let left = store.leave(blob, entries.clone(), at(3)).await.expect("leave");
        assert_eq!(left, entries.len() as u64);
    }
}

#[rstest]
#[tokio::test]
async fn broken_off_anywhere_nothing_is_lost_and_nothing_is_there_twice(
    #[values(false, true)] on_server: bool,
    #[values(Step::Packed, Step::Noted, Step::Written, Step::LeftInPart, Step::LeftAllButLast)] step: Step,
) {
    let Some((_dir, config, store)) = open(on_server).await else { return };
    let ids = ended(&store, EVALUATIONS, None).await;
    let before = records(&store, &ids).await;
    up_to(&store, step).await;
    store.close().await;

    let store = Store::open(config).await.expect("opens after the crash");
    assert_eq!(records(&store, &ids).await, before);
    while store.archive(at(4), at(2)).await.expect("goes on") > 0 {}
    let late = at(5).after(2 * WRITING_MAX);
    while store.delete_blobs(late).await.expect("tidies") > 0 {}
    assert_eq!(records(&store, &ids).await, before);
    let twice = "SELECT a.blob AS found FROM archived a JOIN evaluations e ON e.id = a.evaluation";
    assert_eq!(column(&store, twice).await, [""; 0]);
    assert_eq!(column(&store, "SELECT blob AS found FROM archived").await.len(), EVALUATIONS);
    let referred: BTreeSet<_> =
        column(&store, "SELECT blob AS found FROM archived").await.into_iter().collect();
    let known: BTreeSet<_> =
        column(&store, "SELECT name || state AS found FROM blobs").await.into_iter().collect();
    assert_eq!(known, referred.iter().map(|name| format!("{name}kept")).collect());
    use futures::TryStreamExt as _;
    let there: BTreeSet<_> =
        store.blobs().list().map_ok(|found| found.name).try_collect().await.expect("lists");
    assert_eq!(there, referred, "no object without evaluations, and none missing");
    store.close().await;
}

/// Writes an object of what is packed; the last step is the caller's.
async fn written(store: &Store) -> (Blob, Vec<Entry>) {
    let (bytes, entries) = store.pack(at(9)).await.expect("packs").finish();
    let name = name(at(9));
    store.writer().expect("open").run(NoteArchive { name: name.clone(), now: at(9) }).await.expect("notes");
    (store.blobs().put(name, bytes.into()).await.expect("writes"), entries)
}

#[rstest]
#[tokio::test]
async fn what_changed_since_it_was_read_stays_and_the_others_go(#[values(false, true)] on_server: bool) {
    let Some((_dir, _config, store)) = open(on_server).await else { return };
    let tenant = Tenant::default();
    let ids = ended(&store, 4, Some("https://hooks.example.com/1")).await;
    assert_eq!(store.archive(at(9), at(9)).await.expect("looks"), 0, "somebody is still to be told");
    let settle = async || {
        let tenure = Tenure { worker: "n".to_owned(), now: at(3), ttl: Duration::from_secs(9) };
        for one in store.claim_deliveries(&tenure, 10).await.expect("claims") {
            let settled = Settled::Delivered { at: at(3), status: 200 };
            assert!(store.settle_delivery(&one, settled).await.expect("settles"));
        }
    };
    settle().await;
    let again = async |id| {
        let page = store.deliveries(&tenant, &[], (Some(id), None), 1).await.expect("lists");
        store.redeliver(&page.items[0].id, at(3)).await.expect("is there");
    };

    let (blob, mut entries) = written(&store).await;
    entries.sort_by_key(|entry| entry.evaluation);
    // The first is told once more, and the second was meanwhile; the third had another event.
    again(ids[1]).await;
    settle().await;
    again(ids[0]).await;
    entries[2].seen.last_event -= 1;
    assert_eq!(store.leave(blob, entries, at(9)).await.expect("leave"), 1);
    for (i, id) in ids.iter().enumerate() {
        assert_eq!(store.get(&tenant, *id).await.expect("is there").archived, i == 3, "{i}");
        let page = store.deliveries(&tenant, &[], (Some(*id), None), 10).await.expect("lists");
        assert_eq!(page.items.len(), 1, "{i}: kept, wherever");
        assert_eq!(page.items[0].tries, if i == 0 { 0 } else { 1 }, "{i}");
    }
    assert_eq!(column(&store, "SELECT url AS found FROM deliveries").await.len(), 3);
    settle().await;
    assert_eq!(store.archive(at(9), at(9)).await.expect("archives"), 3, "read anew, they go");
    store.close().await;
}

/// What is in no line on purpose, and why: `tenant` and `evaluation` are the line's own.
const NOT_KEPT: &[(&str, &[&str])] = &[
    // Of the queue and of leases, which it left when it ended; `callback` and what it came to are kept.
    (
        "evaluations",
        &["queued_at", "not_before", "ready", "worker", "lease_token", "lease_epoch", "lease_expires_at"],
    ),
    ("requests", &[]),
    ("results", &[]),
    // As they are in `evaluations.labels`.
    ("labels", &["label_key", "label_value"]),
    ("events", &[]),
    ("attempts", &[]),
    ("output", &[]),
    // Of the claim; and what is said of the evaluation, which its own line says.
    (
        "deliveries",
        &[
            "token",
            "due_at",
            "outcome",
            "verdict",
            "attempts",
            "labels",
            "batch",
            "accepted_at",
            "leased_at",
            "ready_at",
            "result",
        ],
    ),
];

/// Whoever adds a column decides whether the archive keeps it.
const KEPT: &[(&str, &[&str])] = &[
    (
        "evaluations",
        &[
            "id",
            "state",
            "verdict",
            "priority",
            "environment",
            "environment_digest",
            "labels",
            "batch",
            "idempotency_key",
            "position",
            "created_at",
            "leased_at",
            "started_at",
            "finished_at",
            "last_event",
            "attempts",
            "losses_infrastructure",
            "losses_own_death",
            "losses_suspect",
            "cancel_requested_at",
            "cancel_grace_ms",
            "callback",
        ],
    ),
    ("requests", &["document", "blob"]),
    ("results", &["document"]),
    ("labels", &[]),
    ("events", &["number", "kind", "occurred_at", "attempt", "not_before", "verdict"]),
    (
        "attempts",
        &[
            "number",
            "leased_at",
            "started_at",
            "ended_at",
            "lost",
            "decision",
            "stdout_bytes",
            "stderr_bytes",
            "build_bytes",
            "output_cut",
        ],
    ),
    ("output", &["attempt", "stream", "start_at", "bytes"]),
    (
        "deliveries",
        &["event", "url", "state", "tries", "created_at", "settled_at", "last_status", "last_reason"],
    ),
];

#[tokio::test]
async fn every_column_of_an_evaluation_is_archived_or_named_as_not() {
    let mut db = crate::testing::memory().await;
    let db = &mut crate::db::Connection::Sqlite(&mut db);
    for ((table, kept), (same, left)) in KEPT.iter().zip(NOT_KEPT) {
        assert_eq!(table, same);
        let rows = query("SELECT name FROM pragma_table_info($1)").bind(*table).fetch_all(db).await;
        let there: BTreeSet<String> =
            rows.expect("answers").iter().map(|row| row.try_get("name").expect("text")).collect();
        let decided =
            kept.iter().chain(*left).chain(&["tenant", "evaluation"]).map(|name| (*name).to_owned());
        let decided: BTreeSet<String> =
            decided.filter(|name| name != "evaluation" || *table != "evaluations").collect();
        assert_eq!(there, decided, "{table}");
    }
}
