//! Black box. Several processes on one PostgreSQL: each of these stores knows nothing of the others.

use std::collections::HashSet;
use std::sync::Arc;

use hood_core::{BatchId, EvaluationId, Verdict};
use hood_store::{
    Accepted, Delete, Idempotency, Lapsed, NewSubmission, Renewed, Store, StoreConfig, SubmitError,
};
use tokio::task::JoinSet;

use crate::support::{
    Engine, TTL, TestStore, at, database, evaluation, has_postgres, new_id, serial, single, tenant, tenure,
};

const PROCESSES: usize = 3;

/// The first one, and others on its database.
async fn several(change: impl FnOnce(&mut StoreConfig)) -> (TestStore, Vec<Store>) {
    let first = TestStore::with(Engine::Postgres, change).await;
    let mut all = vec![first.store.clone()];
    for _ in 1..PROCESSES {
        all.push(Store::open(first.config.clone()).await.expect("opens"));
    }
    (first, all)
}

async fn close(stores: Vec<Store>) {
    for store in &stores[1..] {
        store.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_queue_takes_what_it_may_hold_whoever_accepts() {
    if !has_postgres() {
        return;
    }
    // Small enough to be near its bound always, and large enough for slots first and all of them later.
    for (queue_max, asked) in [(20, 60), (400, 600)] {
        let (t, stores) = several(|config| config.queue_max = queue_max).await;
        let mut flood = JoinSet::new();
        for i in 0..asked {
            let store = stores[i % PROCESSES].clone();
            flood.spawn(
                async move { store.submit(&tenant(), at(0), single(evaluation(new_id(at(0)), 0))).await },
            );
        }
        let answers = flood.join_all().await;
        let accepted = answers.iter().filter(|answer| matches!(answer, Ok(Accepted::New))).count();
        let full =
            answers.iter().filter(|answer| matches!(answer, Err(SubmitError::QueueFull { .. }))).count();
        assert_eq!(
            (accepted as u64, accepted + full),
            (queue_max, asked),
            "to the last place, and not one more"
        );
        close(stores).await;
        t.check().await;
    }
}

fn keyed(key: &str, fingerprint: u8) -> NewSubmission {
    NewSubmission {
        idempotency: Some(Idempotency { key: key.to_owned(), fingerprint: [fingerprint; 32] }),
        ..single(evaluation(new_id(at(0)), 0))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_stands_for_one_submission_whoever_accepts() {
    if !has_postgres() {
        return;
    }
    let (t, stores) = several(|_| {}).await;
    let mut flood = JoinSet::new();
    for i in 0..90 {
        let (store, key) = (stores[i % PROCESSES].clone(), format!("k{}", i % 10));
        let new = keyed(&key, u8::from(i >= 60));
        let id = new.evaluations[0].id;
        flood.spawn(async move { (key, i >= 60, id, store.submit(&tenant(), at(0), new).await) });
    }
    let mut meant: HashSet<(String, EvaluationId, bool)> = HashSet::new();
    let mut conflicts = 0;
    for (key, other_body, id, answer) in flood.join_all().await {
        match answer {
            Ok(Accepted::New) => {
                meant.insert((key, id, other_body));
            }
            Ok(Accepted::Existing { evaluations, .. }) => {
                meant.insert((key, evaluations[0], other_body));
            }
            Err(SubmitError::IdempotencyConflict) => conflicts += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(meant.len(), 10, "one evaluation and one body for each key: {meant:?}");
    assert!(conflicts >= 10 * 3, "the other body was refused: {conflicts}");
    assert_eq!(crate::support::invariants::everything(&t).await.len(), 10);
    close(stores).await;
    t.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_of_several_processes_never_share_and_forget_nothing() {
    if !has_postgres() {
        return;
    }
    let (t, stores) = several(|_| {}).await;
    for i in 0..200 {
        t.submit_with(at(0), |new| new.priority = i % 3).await;
    }
    let mut workers = JoinSet::new();
    for i in 0..PROCESSES * 2 {
        let store = stores[i % PROCESSES].clone();
        workers.spawn(async move {
            let mut mine = Vec::new();
            loop {
                let claimed = store.claim(&tenure(at(1)), 7).await.expect("claims");
                if claimed.is_empty() {
                    return mine;
                }
                let leases: Vec<_> = claimed.iter().map(|claimed| claimed.lease.clone()).collect();
                // Together, as many as were taken: rows that others renew at the same time.
                let ends = claimed
                    .iter()
                    .map(|claimed| crate::support::end(&store, claimed, at(2), Verdict::Succeeded));
                let (renewed, _) =
                    tokio::join!(store.renew(&leases, at(1), TTL), futures::future::join_all(ends));
                let lost = renewed.expect("renews").iter().filter(|one| **one == Renewed::Lost).count();
                assert!(lost <= leases.len());
                mine.extend(leases.into_iter().map(|lease| lease.evaluation));
            }
        });
    }
    let all: Vec<_> = workers.join_all().await.concat();
    assert_eq!((all.len(), all.iter().collect::<HashSet<_>>().len()), (200, 200));
    close(stores).await;
    t.check().await;
}

/// Nobody's opening says anything of another process's leases: time alone ends them.
#[tokio::test]
async fn a_process_that_starts_takes_no_living_lease() {
    if !has_postgres() {
        return;
    }
    let (t, stores) = several(|_| {}).await;
    let claimed = t.leased(at(0)).await;
    for which in [Lapsed::All, Lapsed::Expired] {
        let taken = stores[1].reclaim(&tenure(at(1)), 10, which).await.expect("looks");
        assert!(taken.is_empty(), "{which:?} took {taken:?}");
    }
    let taken = stores[1].reclaim(&tenure(at(0).after(TTL)), 10, Lapsed::All).await.expect("reclaims");
    assert_eq!((taken.len(), taken[0].lease.token), (1, 2));
    let renewed = t.renew(&[claimed.lease], at(2), TTL).await.expect("answers");
    assert_eq!(renewed, [Renewed::Lost]);
    close(stores).await;
    t.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_two_of_a_batch_deleted_at_once_leave_nothing() {
    if !has_postgres() {
        return;
    }
    let (t, stores) = several(|_| {}).await;
    for round in 0..20 {
        let ids = [new_id(at(0)), new_id(at(0))];
        let mut new = keyed(&format!("k{round}"), 1);
        new.batch = Some(BatchId::new(at(0), serial()));
        new.evaluations = ids.iter().map(|id| evaluation(*id, 0)).collect();
        t.submit(&tenant(), at(0), new).await.expect("accepted");
        for id in ids {
            t.request_cancel(&tenant(), id, crate::cancel::wish(at(1), None)).await.expect("cancelled");
        }
        let tenant = tenant();
        let (a, b) = tokio::join!(stores[1].delete(&tenant, ids[0]), stores[2].delete(&tenant, ids[1]));
        assert_eq!((a.expect("is there"), b.expect("is there")), (Delete::Deleted, Delete::Deleted));
    }
    let name = crate::support::database(&t);
    let left = hood_testkit::postgres()
        .await
        .sql(&name, "SELECT (SELECT COUNT(*) FROM batches) + (SELECT COUNT(*) FROM idempotency_keys)");
    assert_eq!(left.expect("answers"), "0");
    close(stores).await;
    t.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_who_migrate_at_once_find_one_schema() {
    if !has_postgres() {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    let config = crate::support::config(Engine::Postgres, dir.path()).await;
    let opened = futures::future::join_all((0..6).map(|_| Store::open(config.clone()))).await;
    let stores: Vec<_> = opened.into_iter().map(|store| Arc::new(store.expect("opens"))).collect();
    for store in &stores {
        store.check_writable().await.expect("writes");
    }
    for store in stores {
        store.close().await;
    }
}

/// Takes the last table of the migration first, and its first one when the migration waits for the last.
const CROSSES: &str = "SET deadlock_timeout = '1h';
    SELECT COUNT(*) FROM batches;
    DO $$
    BEGIN
        WHILE NOT EXISTS (SELECT 1 FROM pg_locks WHERE relation = 'batches'::regclass AND NOT granted) LOOP
            PERFORM pg_sleep(0.01);
        END LOOP;
    END
    $$;
    SELECT COUNT(*) FROM requests;";

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_crosses_with_work_is_tried_once_more() {
    if !has_postgres() {
        return;
    }
    let t = TestStore::new(Engine::Postgres).await;
    let (server, name) = (hood_testkit::postgres().await, database(&t));
    let undo = "DELETE FROM schema_migrations WHERE version >= 14;
        DO $$
        DECLARE
            policy RECORD;
        BEGIN
            FOR policy IN SELECT tablename, policyname FROM pg_policies WHERE policyname LIKE 'goes_with%'
                OR policyname LIKE 'as_granted%' OR policyname IN ('worker_keeps', 'worker_tells', 'api_tells_of_cancelling') LOOP
                EXECUTE format('DROP POLICY %I ON %I', policy.policyname, policy.tablename);
            END LOOP;
        END
        $$;";
    server.sql(&name, undo).expect("back to the schema before");
    let crossing = tokio::task::spawn_blocking({
        let name = name.clone();
        move || server.sql(&name, CROSSES)
    });
    // It has read, and waits, before anything is migrated.
    let reads = "SELECT COUNT(*) FROM pg_locks WHERE relation = 'batches'::regclass AND granted";
    while server.sql(&name, reads).expect("looks").trim() == "0" {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let url = t.config.url.clone().expect("an address");
    let migrated = hood_store::migrate(&url).await.expect("migrates");
    assert_eq!(migrated.steps.iter().map(|step| step.version).collect::<Vec<_>>(), [14, 15]);
    assert!(crossing.await.expect("no panic").is_ok(), "the migration gave way, and not the work");
    t.check().await;
}
