//! Black box. Each role's database user does what that role does, and is refused everything else by
//! the database itself.

use futures::TryStreamExt as _;
use hood_core::outcome::Stream;
use hood_core::{BatchId, EvaluationId, Tenant, Verdict};
use hood_store::{
    Cancel, Commit, DatabaseUrl, Delete, Duty, Idempotency, Lapsed, NewKey, Renewed, Settled, Store,
    StoreConfig,
};
use uuid::Uuid;

use crate::cancel::wish;
use crate::support::{
    Engine, TTL, TestStore, at, chunk, database, evaluation, finished, has_postgres, new_id, provisioning,
    single, started, tenant, tenure,
};

/// The owner's store, and one for each of three users, members of one group each.
async fn roles() -> (TestStore, [Store; 3]) {
    let owner = TestStore::new(Engine::Postgres).await;
    let (server, name) = (hood_testkit::postgres().await, database(&owner));
    let mut stores = Vec::new();
    for role in ["api", "worker", "notifier"] {
        let user = format!("{role}_{name}");
        server.sql(&name, &format!("CREATE ROLE {user} LOGIN IN ROLE fumehood_{role}")).expect("a user");
        let url = DatabaseUrl::parse(&server.url(&user, &name)).expect("an address");
        let config = StoreConfig { url: Some(url), duty: Duty::Check, ..owner.config.clone() };
        stores.push(Store::open(config).await.expect("opens"));
    }
    (owner, stores.try_into().expect("three"))
}

#[tokio::test]
async fn each_role_does_its_part_as_its_own_user() {
    if !has_postgres() {
        return;
    }
    let (owner, [api, worker, notifier]) = roles().await;
    let mut new = single(evaluation(new_id(at(0)), 3));
    new.evaluations[0].labels.insert("k".to_owned(), "v".to_owned());
    new.idempotency = Some(Idempotency { key: "k".to_owned(), fingerprint: [1; 32] });
    let id = new.evaluations[0].id;
    api.submit(&tenant(), at(0), new.clone()).await.expect("accepts");
    api.submit(&tenant(), at(0), new).await.expect("knows the key");
    worker.put_capacity(1, at(0), "{}").await.expect("publishes");
    let claimed = worker.claim(&tenure(at(1)), 1).await.expect("claims").pop().expect("one");
    assert_eq!(api.request_cancel(&tenant(), id, wish(at(2), None)).await.expect("notes"), Cancel::Requested);
    let leases = [claimed.lease.clone()];
    let renewed = worker.renew(&leases, at(2), TTL).await.expect("renews");
    assert!(matches!(renewed[..], [Renewed::Held { cancel: Some(_) }]), "{renewed:?}");
    let step = provisioning(&claimed).start(at(2));
    let output = vec![chunk(Stream::Stdout, 0, &[7; 100_000])];
    worker.commit(&claimed.lease, Commit { output, ..started(&step) }).await.expect("starts");
    let taken = worker.reclaim(&tenure(at(3).after(TTL)), 9, Lapsed::Expired).await.expect("reclaims");
    let end = finished(step.evaluation, at(4), Verdict::Cancelled);
    worker.commit(&taken[0].lease, end).await.expect("ends");
    worker.move_outputs(at(5)).await.expect("moves");
    assert_eq!(api.get(&tenant(), id).await.expect("reads").verdict, Some(Verdict::Cancelled));
    assert_eq!(api.delete(&tenant(), id).await.expect("forgets"), Delete::Deleted);
    worker.delete_blobs(at(6)).await.expect("deletes");
    let mut queued = single(evaluation(new_id(at(7)), 0));
    queued.evaluations[0].callback = Some("https://hooks.example.com/".to_owned());
    let queued_id = queued.evaluations[0].id;
    api.submit(&tenant(), at(7), queued).await.expect("accepts");
    let cancelled = api.request_cancel(&tenant(), queued_id, wish(at(8), None)).await.expect("ends");
    assert_eq!(cancelled, Cancel::EndedNow);
    let told = notifier.claim_deliveries(&tenure(at(9)), 9).await.expect("claims").pop().expect("one");
    let taken = Settled::Delivered { at: at(10), status: 204 };
    assert!(notifier.settle_delivery(&told, taken.clone()).await.expect("settles"));
    api.redeliver(&told.id, at(11)).await.expect("has it told once more");
    let told = notifier.claim_deliveries(&tenure(at(11)), 9).await.expect("claims").pop().expect("one");
    assert!(notifier.settle_delivery(&told, taken).await.expect("settles"));
    for store in [&api, &worker, &notifier] {
        store.check_writable().await.expect("lives");
    }
    a_large_request_passes_from_the_api_to_the_worker((&api, &worker)).await;
    the_worker_archives_and_the_api_reads(&owner, (&api, &worker), queued_id).await;
    for store in [api, worker, notifier] {
        store.close().await;
    }
    owner.check().await;
}

async fn a_large_request_passes_from_the_api_to_the_worker((api, worker): (&Store, &Store)) {
    let mut new = single(evaluation(new_id(at(8)), 0));
    let (id, whole) = (new.evaluations[0].id, "é".repeat(50_000));
    new.evaluations[0].input = Some(whole.clone());
    api.submit(&tenant(), at(8), new.clone()).await.expect("accepts");
    let claimed = worker.claim(&tenure(at(9)), 1).await.expect("claims").pop().expect("one");
    let input = claimed.input.as_deref().expect("is in a blob");
    assert!(worker.input(input).await.expect("reads") == whole);
    let end = provisioning(&claimed).end(at(9), Verdict::InfrastructureError).transition;
    let result = Some("{}".to_owned());
    worker
        .commit(&claimed.lease, Commit { transitions: vec![end], result, ..Commit::default() })
        .await
        .expect("ends");
    let again = new_id(at(9));
    api.requeue(&tenant(), (id, again), at(9)).await.expect("copies it");
    api.request_cancel(&tenant(), again, wish(at(9), None)).await.expect("ends");
    for id in [id, again] {
        assert_eq!(api.delete(&tenant(), id).await.expect("forgets"), Delete::Deleted);
    }
    new.batch = None;
    new.evaluations.push(evaluation(new_id(at(9)), 0));
    new.evaluations[0].id = new_id(at(9));
    new.evaluations[0].input = Some(whole);
    api.submit(&tenant(), at(9), new).await.expect_err("is no batch");
    while worker.delete_blobs(at(20)).await.expect("deletes") > 0 {}
    let left = api.blobs().list().try_next().await.expect("lists");
    assert_eq!(left, None, "what was refused or deleted is given up");
}

/// `ended` has, at 8.
async fn the_worker_archives_and_the_api_reads(
    owner: &TestStore,
    (api, worker): (&Store, &Store),
    ended: EvaluationId,
) {
    let mut new = single(evaluation(new_id(at(9)), 3));
    new.evaluations[0].labels.insert("k".to_owned(), "v".to_owned());
    new.idempotency = Some(Idempotency { key: "k2".to_owned(), fingerprint: [1; 32] });
    new.batch = Some(BatchId::new(at(9), [2; 10]));
    let other = new.evaluations[0].id;
    api.submit(&tenant(), at(9), new).await.expect("accepts");
    let claimed = worker.claim(&tenure(at(10)), 1).await.expect("claims").pop().expect("one");
    owner.run_to_the_end(&claimed, at(11), Verdict::Succeeded).await;
    assert_eq!(worker.archive(at(20), at(12)).await.expect("archives"), 2);
    for id in [ended, other] {
        assert!(api.get(&tenant(), id).await.expect("reads").archived);
    }
    assert_eq!(api.delete(&tenant(), ended).await.expect("forgets"), Delete::Deleted);
    assert_eq!(worker.expire(at(12)).await.expect("deletes what is too old"), 1);
    api.get(&tenant(), other).await.expect_err("is gone");
    worker.delete_blobs(at(20)).await.expect("deletes");
}

#[tokio::test]
async fn what_is_not_a_roles_part_its_store_refuses() {
    if !has_postgres() {
        return;
    }
    let (owner, [api, worker, notifier]) = roles().await;
    let new = single(evaluation(new_id(at(0)), 0));
    worker.submit(&tenant(), at(0), new.clone()).await.expect_err("a worker accepts nothing");
    api.submit(&tenant(), at(0), new).await.expect("accepts");
    api.claim(&tenure(at(1)), 1).await.expect_err("the API leases nothing");
    let key = NewKey { tenant: Tenant::default(), name: "x".to_owned(), hash: [1; 32], created_at: at(0) };
    worker.insert_key(&key).await.expect_err("a worker makes no keys");
    api.insert_key(&key).await.expect_err("nor does the API");
    worker.find_key(&[1; 32]).await.expect_err("and a worker has no use for them");
    notifier.claim(&tenure(at(1)), 1).await.expect_err("a notifier leases nothing");
    notifier.queue(&tenant()).await.expect_err("nor does it know what waits");
    for store in [&api, &worker] {
        store.claim_deliveries(&tenure(at(1)), 1).await.expect_err("a notifier alone sends");
    }
    for store in [api, worker, notifier] {
        store.close().await;
    }
    owner.check().await;
}

const OF_API: [&str; 21] = [
    "UPDATE evaluations SET state = 'succeeded', verdict = 'succeeded'",
    "UPDATE evaluations SET state = 'cancelled', verdict = 'cancelled', last_event = last_event + 1",
    "UPDATE evaluations SET last_event = 0",
    "UPDATE evaluations SET lease_token = 99",
    "UPDATE evaluations SET worker = 'me'",
    "UPDATE events SET kind = 'finished'",
    "UPDATE results SET document = '{}'",
    "UPDATE output SET bytes = ''",
    "INSERT INTO attempts VALUES ('default', gen_random_uuid(), 1, 0, 0, 0, '', '', 0, 0, 0)",
    "INSERT INTO api_keys VALUES ('x', 'default', 'x', 0)",
    "INSERT INTO capacity VALUES (1, 1, 1, '{}')",
    "INSERT INTO archived VALUES ('default', gen_random_uuid(), 'failed', NULL, NULL, 0, 0, 'x', 0, 0)",
    "UPDATE archived SET blob = 'x'",
    "UPDATE blobs SET state = 'doomed'",
    "UPDATE blobs SET state = 'writing'",
    "UPDATE blobs SET digest = ''",
    "INSERT INTO blobs VALUES ('x', 'default', gen_random_uuid(), NULL, 'input', 'kept', 0, 0, '')",
    "INSERT INTO blobs (name, tenant, part, state, noted_at, bytes, digest) \
     VALUES ('x', '', 'archive', 'writing', 0, 0, '')",
    "DELETE FROM schema_migrations",
    "DROP TABLE evaluations",
    "CREATE TABLE mine (n INT)",
];

const OF_NOTIFIER: [&str; 15] = [
    "SELECT * FROM evaluations",
    "SELECT * FROM requests",
    "SELECT * FROM output",
    "SELECT * FROM events",
    "SELECT * FROM api_keys",
    "SELECT * FROM results",
    "SELECT * FROM blobs",
    "SELECT * FROM archived",
    "UPDATE deliveries SET url = 'http://elsewhere/'",
    "UPDATE deliveries SET result = '{}'",
    "UPDATE deliveries SET evaluation = gen_random_uuid()",
    "INSERT INTO deliveries SELECT * FROM deliveries",
    "DELETE FROM deliveries",
    "DROP TABLE deliveries",
    "CREATE TABLE mine (n INT)",
];

/// The id of one that runs, beside one whose request is a blob.
async fn one_that_runs(owner: &TestStore, api: &Store) -> Uuid {
    let mut large = single(evaluation(new_id(at(0)), 9));
    large.evaluations[0].input = Some("x".repeat(9));
    api.submit(&tenant(), at(0), large).await.expect("accepts");
    owner.claim_one(at(0)).await;
    owner.running(at(0)).await.0.lease.evaluation.as_uuid()
}

/// For want of a right, and not because the statement is none.
fn is_refused(said: &std::io::Result<String>) -> bool {
    const WHY: [&str; 4] =
        ["permission denied", "row-level security", "must be owner", "change nothing else"];
    said.as_ref().is_err_and(|error| WHY.iter().any(|why| error.to_string().contains(why)))
}

/// As somebody would who has taken such a process over and speaks SQL.
#[tokio::test]
async fn the_database_refuses_what_no_store_would_say() {
    if !has_postgres() {
        return;
    }
    let (owner, [api, worker, notifier]) = roles().await;
    let running = one_that_runs(&owner, &api).await;
    let (server, name) = (hood_testkit::postgres().await, database(&owner));
    let result = format!("INSERT INTO results VALUES ('default', '{running}', '{{}}')");
    let end = format!(
        "INSERT INTO events (tenant, evaluation, number, kind, occurred_at, verdict) \
         VALUES ('default', '{running}', 9, 'finished', 0, 'succeeded')"
    );
    let submitted = "INSERT INTO events (tenant, evaluation, number, kind, occurred_at) \
         VALUES ('default', gen_random_uuid(), 1, 'submitted', 0)";
    let of_worker = [
        "UPDATE evaluations SET priority = 9",
        "UPDATE evaluations SET environment = 'other'",
        "UPDATE requests SET document = '{}'",
        "SELECT * FROM api_keys",
        "SELECT * FROM idempotency_keys",
        "INSERT INTO idempotency_keys VALUES ('default', 'k', 'x', NULL)",
        "INSERT INTO requests VALUES ('default', gen_random_uuid(), '{}')",
        "INSERT INTO requeues VALUES ('default', gen_random_uuid(), gen_random_uuid(), 0)",
        "UPDATE archived SET blob = 'x'",
        "DROP TABLE evaluations",
        submitted,
    ];
    let (both, ends) = ([submitted, &result], [result.as_str(), &end]);
    let all = [
        ("api", &OF_API[..]),
        ("api", &ends[..]),
        ("worker", &of_worker[..]),
        ("notifier", &OF_NOTIFIER[..]),
        ("notifier", &both[..]),
    ];
    for (role, forbidden) in all {
        for statement in forbidden {
            let said = server.sql_as(&format!("{role}_{name}"), &name, statement);
            assert!(is_refused(&said), "{role}: {statement}: {said:?}");
        }
    }
    // What lives is not theirs to delete: the policy shows them nothing to delete.
    for role in ["api", "worker"] {
        let said = server.sql_as(&format!("{role}_{name}"), &name, "DELETE FROM evaluations");
        assert!(said.is_ok(), "{role} may delete what has ended: {said:?}");
    }
    let left = owner.events(&tenant(), EvaluationId::from_uuid(running), 0, 10).await.expect("lives");
    assert_eq!(left.len(), 3);
    for store in [api, worker, notifier] {
        store.close().await;
    }
    // An earlier statement may have deleted nothing, and changed nothing either.
    owner.check().await;
}

/// Each as somebody who has taken the API over and knows the triggers and policies; `{id}` is one that runs.
const TRICKS: [&str; 8] = [
    "CREATE TEMP TABLE evaluations (x INT); UPDATE public.evaluations SET state = 'succeeded', verdict = 'succeeded' \
     WHERE id = '{id}'",
    "CREATE TEMP TABLE evaluations (x INT); CREATE TEMP TABLE archived (blob TEXT); UPDATE public.blobs SET state = 'doomed'",
    "INSERT INTO events (tenant, evaluation, number, kind, occurred_at) VALUES ('default', '{id}', 4, 'submitted', 0)",
    "INSERT INTO events (tenant, evaluation, number, kind, occurred_at, verdict) \
     VALUES ('default', '{id}', 4, 'finished', 0, 'cancelled')",
    "INSERT INTO deliveries SELECT tenant, id, 9, 'http://elsewhere/', 'pending', 0, 0, 0, 0, NULL, NULL, NULL, 'succeeded', \
     'succeeded', 1, labels, batch, created_at, leased_at, started_at, '{}' FROM evaluations WHERE id = '{id}'",
    "DELETE FROM events WHERE evaluation = '{id}' RETURNING 1 / 0",
    "UPDATE events SET number = 7 WHERE evaluation = '{id}'",
    "UPDATE deliveries SET result = '{}'",
];

/// A row without a request, of this priority, so many losses and this time.
fn row(priority: i64, losses: i64, created_at: i64) -> String {
    format!(
        "INSERT INTO evaluations (tenant, id, state, priority, environment, labels, position, created_at, queued_at, \
         ready, last_event, attempts, losses_infrastructure, losses_own_death, losses_suspect, lease_token, lease_epoch) \
         VALUES ('default', gen_random_uuid(), 'queued', {priority}, 'minimal', '{{}}', 0, {created_at}, 0, 1, 1, 0, {losses}, \
         0, 0, 0, 0)"
    )
}

#[tokio::test]
async fn no_trick_of_the_apis_user_changes_what_runs() {
    if !has_postgres() {
        return;
    }
    let (owner, [api, worker, notifier]) = roles().await;
    let running = one_that_runs(&owner, &api).await;
    let (server, name) = (hood_testkit::postgres().await, database(&owner));
    let state = || {
        let all = "SELECT state, verdict, last_event FROM evaluations ORDER BY id; SELECT * FROM events ORDER BY 1, 2, 3; \
             SELECT * FROM blobs; SELECT * FROM deliveries";
        server.sql(&name, all).expect("reads")
    };
    let before = state();
    // A worker would stumble over these.
    let rows = [row(10, 0, 0), row(9, -5, 0), row(9, 0, i64::MAX)];
    for trick in TRICKS.into_iter().chain(rows.iter().map(String::as_str)) {
        let said = server.sql_as(&format!("api_{name}"), &name, &trick.replace("{id}", &running.to_string()));
        assert_eq!(state(), before, "{trick}: {said:?}");
        // Nothing to delete is no error.
        assert!(trick.starts_with("DELETE") || is_refused(&said), "{trick}: {said:?}");
    }
    // One row that says of nothing what it asks for: the others are claimed with it, and it ends by itself.
    server.sql_as(&format!("api_{name}"), &name, &row(9, 0, 0)).expect("that much the API may");
    let next = single(evaluation(new_id(at(1)), 0));
    let id = next.evaluations[0].id;
    api.submit(&tenant(), at(1), next).await.expect("accepts");
    let claimed = worker.claim(&tenure(at(2)), 9).await.expect("claims");
    let [without, with] = &claimed[..] else { panic!("{claimed:?}") };
    assert!(without.request.is_empty() && with.lease.evaluation == id, "{claimed:?}");
    let again = worker.reclaim(&tenure(at(3).after(TTL)), 9, Lapsed::Expired).await.expect("reclaims");
    assert!(again.iter().any(|claimed| claimed.lease.evaluation == without.lease.evaluation), "{again:?}");
    for store in [api, worker, notifier] {
        store.close().await;
    }
}

/// Tables with rows of evaluations that are there.
const HANGING: [&str; 9] = [
    "events",
    "results",
    "requests",
    "labels",
    "attempts",
    "output",
    "deliveries",
    "idempotency_keys",
    "batches",
];

#[tokio::test]
async fn what_hangs_on_an_evaluation_that_is_there_is_nobodys_to_delete() {
    if !has_postgres() {
        return;
    }
    let (owner, [api, worker, notifier]) = roles().await;
    for number in 0..2 {
        let mut new = single(evaluation(new_id(at(number)), 0));
        new.evaluations[0].labels.insert("k".to_owned(), "v".to_owned());
        new.evaluations[0].callback = Some("https://hooks.example.com/".to_owned());
        new.idempotency = Some(Idempotency { key: format!("k{number}"), fingerprint: [1; 32] });
        new.batch = Some(BatchId::new(at(number), [2; 10]));
        api.submit(&tenant(), at(number), new).await.expect("accepts");
    }
    // One has ended, and one runs.
    let ended = worker.claim(&tenure(at(2)), 1).await.expect("claims").pop().expect("one");
    owner.run_to_the_end(&ended, at(3), Verdict::Succeeded).await;
    let runs = worker.claim(&tenure(at(4)), 1).await.expect("claims").pop().expect("another");
    let step = provisioning(&runs).start(at(4));
    let output = vec![chunk(Stream::Stdout, 0, b"so far")];
    worker.commit(&runs.lease, Commit { output, ..started(&step) }).await.expect("starts");
    let (server, name) = (hood_testkit::postgres().await, database(&owner));
    let count = |table| server.sql(&name, &format!("SELECT COUNT(*) FROM {table}")).expect("counts");
    for table in HANGING {
        let there = count(table);
        assert_ne!(there.trim(), "0", "{table}: nothing to delete");
        for role in ["api", "worker"].into_iter().filter(|role| (*role, table) != ("worker", "output")) {
            // Silently, or because the table is none of theirs.
            let _said = server.sql_as(&format!("{role}_{name}"), &name, &format!("DELETE FROM {table}"));
            assert_eq!(count(table), there, "{role}: {table}");
        }
    }
    for store in [api, worker, notifier] {
        store.close().await;
    }
    owner.check().await;
}
