//! Black box, but for the files that an archive consists of. What is archived answers as it did before,
//! and is in one place at any moment.

use std::collections::HashSet;
use std::time::Duration;

use futures::TryStreamExt as _;
use hood_core::outcome::Stream;
use hood_core::{BatchId, EvaluationId, Event, Verdict};
use hood_store::{
    Accepted, Cancel, Commit, Delete, DeliveryState, Filter, FindError, Idempotency, NewSubmission,
    OutputSlice, Record, Requeued, Settled, Span, StoreError, WRITING_MAX,
};
use rstest::rstest;
use sqlx::Connection as _;

use crate::cancel::wish;
use crate::dead::dead;
use crate::deliveries::told;
use crate::support::Engine::{self, Postgres, Sqlite};
use crate::support::s3::S3;
use crate::support::{
    TestStore, at, chunk, database, evaluation, finished, has_postgres, invariants, lost, new_id,
    provisioning, serial, started, tenant, tenure,
};

/// Everything that can be asked about one evaluation.
#[derive(Debug, PartialEq)]
pub(crate) struct Seen {
    record: Record,
    events: Vec<Event>,
    outputs: Vec<Result<OutputSlice, String>>,
}

pub(crate) async fn look(t: &TestStore, id: EvaluationId) -> Seen {
    let record = t.get(&tenant(), id).await.expect("is there");
    let events = t.events(&tenant(), id, 0, u32::MAX).await.expect("has events");
    let mut outputs = Vec::new();
    for stream in Stream::ALL {
        for attempt in [None, Some(0), Some(1), Some(2), Some(3), Some(4)] {
            for (offset, max) in [(0, usize::MAX), (3, 5), (70_000, 10), (u64::MAX, 1)] {
                let span = Span { stream, attempt, offset, max };
                let slice = t.output(&tenant(), id, span).await;
                outputs.push(slice.map_err(|error| error.to_string()));
            }
        }
    }
    Seen { record, events, outputs }
}

/// Two attempts, of which the first was lost after it had written, and labels.
async fn retried(t: &TestStore, stdout: &[u8]) -> EvaluationId {
    let id = t
        .submit_with(at(0), |new| {
            new.labels.insert("course".to_owned(), "ünï".to_owned());
            new.priority = 3;
        })
        .await;
    let claimed = t.claim_one(at(1)).await;
    let output = vec![chunk(Stream::Stdout, 0, b"first\n"), chunk(Stream::Stderr, 0, &[0, 255, 10])];
    t.commit(&claimed.lease, Commit { output, ..Commit::default() }).await.expect("stored");
    t.commit(&claimed.lease, lost(&claimed, at(2))).await.expect("is lost");
    let claimed = t.claim_one(at(100_000)).await;
    let step = provisioning(&claimed).start(at(100_001));
    let mut running = started(&step);
    running.decision = Some(r#"{"why":"there"}"#.to_owned());
    running.environment_digest = Some("blake3:1".to_owned());
    running.output = vec![chunk(Stream::Build, 0, b"compiled"), chunk(Stream::Stdout, 0, stdout)];
    t.commit(&claimed.lease, running).await.expect("starts");
    t.request_cancel(&tenant(), id, wish(at(100_002), Some(7))).await.expect("asked");
    let end = finished(step.evaluation, at(100_003), Verdict::Failed);
    t.commit(&claimed.lease, end).await.expect("ends");
    id
}

fn batch(ids: &[EvaluationId]) -> NewSubmission {
    NewSubmission {
        batch: Some(BatchId::new(at(0), serial())),
        evaluations: ids.iter().map(|id| evaluation(*id, 0)).collect(),
        idempotency: Some(Idempotency { key: "the-key".to_owned(), fingerprint: [7; 32] }),
    }
}

async fn archive_all(t: &TestStore) -> u64 {
    let mut archived = 0;
    loop {
        match t.archive(at(2_000_000), at(1_000_000)).await.expect("archives") {
            0 => return archived,
            more => archived += more,
        }
    }
}

async fn names(t: &TestStore) -> Vec<String> {
    t.blobs().list().map_ok(|found| found.name).try_collect().await.expect("lists")
}

async fn answers_as_before(t: TestStore) {
    let long: Vec<u8> = (0..200_000_u32).map(|i| (i >> 3) as u8).collect();
    let cancelled = t.submit_one(at(0)).await;
    t.request_cancel(&tenant(), cancelled, wish(at(1), None)).await.expect("ends");
    let ids =
        [t.ended(at(5), Verdict::Succeeded).await, retried(&t, b"second").await, retried(&t, &long).await];
    assert_eq!(t.move_outputs(at(200_000)).await.expect("moves"), 1);
    let ids = [&ids[..], &[cancelled]].concat();
    let mut before = Vec::new();
    for id in &ids {
        before.push(look(&t, *id).await);
    }
    let live = t.submit_one(at(0)).await;
    assert_eq!(archive_all(&t).await, 4);
    let t = t.reopen().await;
    for (id, before) in ids.iter().zip(before) {
        let mut after = look(&t, *id).await;
        assert!(after.record.archived && !before.record.archived);
        after.record.summary.archived = false;
        assert_eq!(after, before);
        invariants::check_one(&t, *id).await;
        let tail = t.events(&tenant(), *id, 1, 1).await.expect("events");
        assert_eq!(tail, before.events[1..2], "a part of them");
    }
    let listed = t.list(&tenant(), &Filter::default(), None, 10).await.expect("lists");
    assert_eq!(listed.items.iter().map(|one| one.id).collect::<Vec<_>>(), [live]);
    t.check().await;
}

#[rstest]
#[tokio::test]
async fn what_is_archived_answers_as_before(#[values(Sqlite, Postgres)] on: Engine) {
    answers_as_before(TestStore::new(on).await).await;
}

#[rstest]
#[tokio::test]
async fn what_is_archived_in_a_bucket_answers_as_before(#[values(Sqlite, Postgres)] on: Engine) {
    let Some(s3) = S3::start() else { return };
    answers_as_before(TestStore::with(on, |config| config.blobs = s3.config("a")).await).await;
}

#[rstest]
#[tokio::test]
async fn an_object_is_lines_of_json_for_every_tool(#[values(Sqlite, Postgres)] on: Engine) {
    let t = TestStore::new(on).await;
    let mut ids = HashSet::new();
    for _ in 0..5 {
        ids.insert(t.ended(at(1), Verdict::Succeeded).await.to_string());
    }
    assert_eq!(archive_all(&t).await, 5);
    let name = names(&t).await.pop().expect("one object");
    let bytes = std::fs::read(t.config.dir.join("blobs").join(name)).expect("is a file");
    let text = String::from_utf8(zstd::decode_all(&bytes[..]).expect("is zstd")).expect("is text");
    let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("is JSON"));
    let found: HashSet<_> = lines.map(|line| line["id"].as_str().expect("an id").to_owned()).collect();
    assert_eq!(found, ids);
    t.check().await;
}

#[rstest]
#[tokio::test]
async fn only_what_ended_long_enough_ago_goes_and_not_while_its_output_is_on_its_way(
    #[values(Sqlite, Postgres)] on: Engine,
) {
    let t = TestStore::new(on).await;
    let old = t.ended(at(10), Verdict::Succeeded).await;
    let young = t.ended(at(20), Verdict::Succeeded).await;
    let (claimed, running) = t.running(at(0)).await;
    let mut end = finished(running, at(1), Verdict::Succeeded);
    end.output = vec![chunk(Stream::Stderr, 0, &[1; 100_000])];
    t.commit(&claimed.lease, end).await.expect("ends");
    assert_eq!(t.archive(at(30), at(20)).await.expect("archives"), 1);
    let is_archived = async |id| t.get(&tenant(), id).await.expect("is there").archived;
    assert!(is_archived(old).await && !is_archived(young).await);
    assert!(!is_archived(claimed.lease.evaluation).await, "its output is in rows yet");
    t.move_outputs(at(30)).await.expect("moves");
    assert_eq!(t.archive(at(30), at(20)).await.expect("archives"), 1);
    assert_eq!(t.read(claimed.lease.evaluation, Stream::Stderr).await.bytes, [1; 100_000]);
    t.check().await;
}

#[rstest]
#[tokio::test]
async fn a_batch_and_its_key_stand_as_long_as_any_of_it_wherever_it_is(
    #[values(Sqlite, Postgres)] on: Engine,
) {
    let t = TestStore::new(on).await;
    let ids = [new_id(at(0)), new_id(at(0)), new_id(at(0))];
    let submission = batch(&ids);
    let of = submission.batch.expect("a batch");
    let again = NewSubmission { batch: Some(BatchId::new(at(0), serial())), ..submission.clone() };
    t.submit(&tenant(), at(0), submission.clone()).await.expect("accepted");
    for claimed in t.claim_all(at(1)).await {
        t.run_to_the_end(&claimed, at(2), Verdict::Succeeded).await;
    }
    let before = t.batch(&tenant(), of).await.expect("is there");
    assert_eq!(archive_all(&t).await, 3);
    assert_eq!(t.batch(&tenant(), of).await.expect("is there"), before);
    let replayed = t.submit(&tenant(), at(3), again).await.expect("is known");
    assert_eq!(replayed, Accepted::Existing { batch: Some(of), evaluations: ids.to_vec() });
    for id in ids {
        t.batch(&tenant(), of).await.expect("something of it is left");
        let cancelled = t.request_cancel(&tenant(), id, wish(at(4), None)).await;
        assert_eq!(cancelled.expect("is there"), Cancel::AlreadyTerminal);
        assert_eq!(t.delete(&tenant(), id).await.expect("is there"), Delete::Deleted);
        assert!(matches!(t.get(&tenant(), id).await, Err(FindError::NotFound)));
        assert!(matches!(t.delete(&tenant(), id).await, Err(FindError::NotFound)));
        let cancelled = t.request_cancel(&tenant(), id, wish(at(4), None)).await;
        assert!(matches!(cancelled, Err(FindError::NotFound)));
    }
    assert!(matches!(t.batch(&tenant(), of).await, Err(FindError::NotFound)));
    let known = t.find_submission(&tenant(), submission.idempotency.as_ref().expect("a key")).await;
    assert_eq!(known.expect("answers"), None);
    while t.delete_blobs(at(5)).await.expect("deletes") > 0 {}
    assert_eq!(names(&t).await, Vec::<String>::new(), "an object goes with the last that is in it");
    t.check().await;
}

/// Deleted between the look and the transaction: it does not come back, and nothing is lost.
#[rstest]
#[tokio::test]
async fn a_deletion_meanwhile_stands(#[values(Sqlite, Postgres)] on: Engine) {
    let t = TestStore::new(on).await;
    let tenant = tenant();
    for round in 0..10 {
        let (kept, deleted) =
            (t.ended(at(1), Verdict::Succeeded).await, t.ended(at(1), Verdict::Failed).await);
        let deletion = async {
            for _ in 0..round * 2 {
                tokio::task::yield_now().await;
            }
            t.delete(&tenant, deleted).await.expect("deletes")
        };
        let (archived, other, _) = tokio::join!(t.archive(at(9), at(2)), t.archive(at(9), at(2)), deletion);
        let total = archived.expect("archives") + other.expect("archives");
        assert!((1..=2).contains(&total), "{total} of two left the tables");
        assert!(matches!(t.get(&tenant, deleted).await, Err(FindError::NotFound)));
        assert!(t.get(&tenant, kept).await.expect("is there").archived);
    }
    // Objects that a twin wrote to no purpose go as well.
    while t.delete_blobs(at(9)).await.expect("deletes") > 0 {}
    let objects = names(&t).await.len();
    assert!((1..=10).contains(&objects), "{objects}");
    t.check().await;
}

#[rstest]
#[tokio::test]
async fn while_the_bucket_is_away_nothing_leaves_and_what_was_begun_is_given_up(
    #[values(Sqlite, Postgres)] on: Engine,
) {
    let Some(s3) = S3::start() else { return };
    let t = TestStore::with(on, |config| config.blobs = s3.config("")).await;
    let id = t.ended(at(1), Verdict::Succeeded).await;
    s3.kill9().expect("dies");
    let archived = t.archive(at(9), at(2)).await;
    assert!(matches!(archived, Err(StoreError::Blob(_))), "{archived:?}");
    assert!(!t.get(&tenant(), id).await.expect("is there").archived);
    s3.restart().expect("starts");
    let late = at(9).after(WRITING_MAX);
    assert_eq!(t.delete_blobs(late).await.expect("looks"), 0, "somebody may be writing it yet");
    assert_eq!(t.delete_blobs(late.after(Duration::from_secs(1))).await.expect("deletes"), 1);
    assert_eq!(t.archive(at(9), at(2)).await.expect("archives"), 1);
    assert!(t.get(&tenant(), id).await.expect("is there").archived);
    t.check().await;
}

/// Who came of whom outlives the archive; a new life is only for what is in the tables.
#[rstest]
#[tokio::test]
async fn what_infrastructure_failed_keeps_its_lives_and_is_given_none_from_the_archive(
    #[values(Sqlite, Postgres)] on: Engine,
) {
    let t = TestStore::new(on).await;
    let (lived, left) = (dead(&t, "a").await, dead(&t, "a").await);
    let requeue = async |old, new| t.requeue(&tenant(), (old, new), at(3)).await.expect("answers");
    let (first, second) = (new_id(at(2)), new_id(at(2)));
    assert_eq!(requeue(lived, first).await, Requeued::As(first));
    assert_eq!(archive_all(&t).await, 2);
    assert_eq!(requeue(lived, second).await, Requeued::Already(first));
    assert_eq!(requeue(left, second).await, Requeued::Archived);
    t.get(&tenant(), second).await.expect_err("was never made");
    let lives = async |id| t.lives(&tenant(), id).await.expect("answers");
    assert_eq!(lives(lived).await.after, Some(first));
    assert_eq!(lives(first).await.before, Some(lived));
    assert_eq!(t.delete(&tenant(), lived).await.expect("is there"), Delete::Deleted);
    assert_eq!(lives(first).await.before, None);
    t.check().await;
}

/// Grey box: another transaction's rows hold the requeue up between its look and its copy.
#[tokio::test]
async fn another_life_of_what_is_archived_at_that_moment_is_refused_and_half_of_it_is_undone() {
    if !has_postgres() {
        return;
    }
    let t = TestStore::new(Postgres).await;
    let (old, new) = (dead(&t, "a").await, new_id(at(3)));
    let url = hood_testkit::postgres().await.url("postgres", &database(&t));
    let mut other = sqlx::PgConnection::connect(&url).await.expect("connects");
    let hold = format!(
        "BEGIN; INSERT INTO requeues VALUES ('default', '{0}', gen_random_uuid(), 0); \
         DELETE FROM evaluations WHERE id = '{0}'; DELETE FROM requests WHERE evaluation = '{0}'",
        old.as_uuid()
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(hold)).execute(&mut other).await.expect("holds");
    let tenant = tenant();
    let requeue = t.requeue(&tenant, (old, new), at(3));
    let go_on = async {
        const WAITING: &str = "SELECT COUNT(*) FROM pg_stat_activity \
             WHERE datname = current_database() AND wait_event_type = 'Lock'";
        // Within a transaction the server answers this as it did the first time.
        let mut asking = sqlx::PgConnection::connect(&url).await.expect("connects");
        while sqlx::query_scalar::<_, i64>(WAITING).fetch_one(&mut asking).await.expect("answers") == 0 {
            tokio::task::yield_now().await;
        }
        sqlx::raw_sql("DELETE FROM requeues; COMMIT").execute(&mut other).await.expect("goes on");
    };
    let both = async { tokio::join!(requeue, go_on) };
    let (came, ()) = tokio::time::timeout(Duration::from_secs(30), both).await.expect("the requeue waits");
    assert_eq!(came.expect("answers"), Requeued::NotFound);
    t.get(&tenant, new).await.expect_err("was never made");
    assert_eq!(t.lives(&tenant, old).await.expect("answers").after, None);
    let half = "SELECT COUNT(*) FROM requests WHERE evaluation = $1";
    let half = sqlx::query_scalar::<_, i64>(half).bind(new.as_uuid()).fetch_one(&mut other).await;
    assert_eq!(half.expect("answers"), 0);
    t.store.close().await;
}

#[rstest]
#[tokio::test]
async fn who_was_told_is_archived_and_nothing_before_all_were(#[values(Sqlite, Postgres)] on: Engine) {
    let t = TestStore::new(on).await;
    let id = told(&t).await;
    assert_eq!(archive_all(&t).await, 0);
    assert_eq!(t.expire(at(1_000_000)).await.expect("looks"), 0, "nor is it deleted");
    let one = t.claim_deliveries(&tenure(at(3)), 10).await.expect("claims").remove(0);
    let dead = Settled::Dead { at: at(4), status: Some(500), reason: "refused".to_owned() };
    assert!(t.settle_delivery(&one, dead).await.expect("settles"));
    let list = async |states: &[DeliveryState]| {
        t.deliveries(&tenant(), states, (Some(id), None), 10).await.expect("lists").items
    };
    let before = list(&[]).await;
    assert_eq!((before.len(), before[0].last_reason.as_deref()), (1, Some("refused")));
    assert_eq!(archive_all(&t).await, 1);
    assert_eq!(list(&[]).await, before);
    assert_eq!(list(&[DeliveryState::Dead]).await, before);
    assert_eq!(list(&[DeliveryState::Delivered]).await, []);
    assert!(matches!(t.redeliver(&one.id, at(9)).await, Err(FindError::NotFound)));
    t.check().await;
}

#[rstest]
#[tokio::test]
async fn what_is_too_old_is_deleted_wherever_it_is(#[values(Sqlite, Postgres)] on: Engine) {
    let t = TestStore::new(on).await;
    let archived = t.ended(at(1), Verdict::Succeeded).await;
    assert_eq!(t.archive(at(9), at(2)).await.expect("archives"), 1);
    let (old, young) = (t.ended(at(5), Verdict::Failed).await, t.ended(at(6), Verdict::Failed).await);
    let live = t.submit_one(at(0)).await;
    assert_eq!(t.expire(at(6)).await.expect("deletes"), 2);
    assert_eq!(t.expire(at(6)).await.expect("looks"), 0);
    for gone in [archived, old] {
        assert!(matches!(t.get(&tenant(), gone).await, Err(FindError::NotFound)));
    }
    for kept in [young, live] {
        t.get(&tenant(), kept).await.expect("is there");
    }
    t.check().await;
}
