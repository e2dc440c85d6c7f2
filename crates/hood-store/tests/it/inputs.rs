//! Black box. What is too large for a row is kept as a blob of its evaluation: there before anybody is
//! told that it was accepted, word for word as long as the evaluation is, and gone with it.

use std::os::unix::fs::PermissionsExt as _;

use futures::TryStreamExt as _;
use hood_core::{BatchId, EvaluationId, Verdict};
use hood_store::transfer::{export, import};
use hood_store::{
    Accepted, BlobError, Delete, Idempotency, Lapsed, NewEvaluation, NewSubmission, Requeued, StoreError,
    SubmitError, WRITING_MAX,
};
use rstest::rstest;

use crate::support::Engine::{self, Postgres, Sqlite};
use crate::support::s3::S3;
use crate::support::{TTL, TestStore, at, evaluation, new_id, provisioning, serial, single, tenant, tenure};

const KIB: usize = 1024;

/// A text of so many bytes that no other evaluation has.
fn whole(id: EvaluationId, len: usize) -> String {
    let mut text = format!("{id} \u{0}\u{7f} é\n").repeat(len / 30 + 1);
    while !text.is_char_boundary(len) {
        text.insert(0, '.');
    }
    text.truncate(len);
    text
}

fn large(id: EvaluationId, len: usize) -> NewEvaluation {
    NewEvaluation { input: Some(whole(id, len)), ..evaluation(id, 0) }
}

async fn names(t: &TestStore) -> Vec<String> {
    let mut names: Vec<String> =
        t.blobs().list().map_ok(|found| found.name).try_collect().await.expect("lists");
    names.sort();
    names
}

/// As the store looks once its own work is done, long after the last submission.
async fn left(t: &TestStore) -> Vec<String> {
    while t.delete_blobs(at(0).after(2 * WRITING_MAX)).await.expect("deletes") > 0 {}
    names(t).await
}

async fn accept(t: &TestStore, len: usize) -> EvaluationId {
    let id = new_id(at(0));
    t.submit(&tenant(), at(0), single(large(id, len))).await.expect("accepted");
    id
}

/// From the queue to the end, to another life and out of the store.
async fn lives_and_goes(t: TestStore) {
    let (id, beside) = (accept(&t, 300 * KIB + 7).await, t.submit_one(at(0)).await);
    assert_eq!(names(&t).await.len(), 1, "it is there, and what is small is not");
    let outline = format!(r#"{{"of":"{id}"}}"#);
    assert_eq!(t.get(&tenant(), id).await.expect("is there").request, outline);
    let t = t.reopen().await;
    let claimed = t.claim_all(at(1)).await;
    let of = |id| claimed.iter().find(|claimed| claimed.lease.evaluation == id).expect("is claimed");
    assert_eq!(of(beside).input, None);
    let input = of(id).input.clone().expect("is in a blob");
    assert!(t.input(&input).await.expect("reads") == whole(id, 300 * KIB + 7));
    t.run_to_the_end(of(beside), at(2), Verdict::Succeeded).await;
    let taken = t.reclaim(at(3).after(TTL), Lapsed::Expired).await.pop().expect("has lapsed");
    assert_eq!(taken.input.as_ref(), Some(&input), "whoever takes over reads the same");

    let end = provisioning(&taken).end(at(4), Verdict::InfrastructureError).transition;
    let result = Some(crate::support::RESULT.to_owned());
    let commit = hood_store::Commit { transitions: vec![end], result, ..Default::default() };
    t.commit(&taken.lease, commit).await.expect("ends");
    let again = new_id(at(5));
    assert_eq!(t.requeue(&tenant(), (id, again), at(5)).await.expect("answers"), Requeued::As(again));
    let other = new_id(at(5));
    assert_eq!(t.requeue(&tenant(), (id, other), at(5)).await.expect("answers"), Requeued::Already(again));
    assert_eq!(left(&t).await.len(), 2, "each life has its own, and what was copied in vain is none");

    assert_eq!(t.archive(at(20), at(10)).await.expect("archives"), 2);
    let record = t.get(&tenant(), id).await.expect("is there");
    assert!(record.archived && record.request == outline);
    assert!(t.input(&input).await.expect("stays") == whole(id, 300 * KIB + 7));
    for old in [id, beside] {
        assert_eq!(t.delete(&tenant(), old).await.expect("is there"), Delete::Deleted);
    }
    let left_one = left(&t).await;
    assert_eq!(left_one.len(), 1, "{left_one:?}");
    let gone = t.input(&input).await;
    assert!(matches!(gone, Err(StoreError::Blob(BlobError::Missing { .. }))), "{gone:?}");
    let second = t.claim_one(at(30)).await;
    assert_eq!((second.lease.evaluation, &second.request), (again, &outline));
    let input = second.input.as_ref().expect("is in a blob");
    assert!(t.input(input).await.expect("outlives the first") == whole(id, 300 * KIB + 7));
    t.run_to_the_end(&second, at(31), Verdict::Succeeded).await;
    t.delete(&tenant(), again).await.expect("deleted");
    assert_eq!(left(&t).await, Vec::<String>::new());
    t.check().await;
}

#[rstest]
#[tokio::test]
async fn a_large_request_lives_in_a_file(#[values(Sqlite, Postgres)] on: Engine) {
    lives_and_goes(TestStore::new(on).await).await;
}

#[rstest]
#[tokio::test]
async fn a_large_request_lives_in_a_bucket(#[values(Sqlite, Postgres)] on: Engine) {
    let Some(s3) = S3::start() else { return };
    lives_and_goes(TestStore::with(on, |config| config.blobs = s3.config("inputs/of/one")).await).await;
}

fn batch(ids: &[EvaluationId], len: usize) -> NewSubmission {
    NewSubmission {
        batch: Some(BatchId::new(at(0), serial())),
        evaluations: ids.iter().map(|id| large(*id, len)).collect(),
        idempotency: Some(Idempotency { key: "k".to_owned(), fingerprint: [1; 32] }),
    }
}

#[rstest]
#[tokio::test]
async fn each_of_a_batch_has_its_own(#[values(Sqlite, Postgres)] on: Engine) {
    let t = TestStore::new(on).await;
    let ids: Vec<_> = (0..100).map(|_| new_id(at(0))).collect();
    let mut submission = batch(&ids, 70 * KIB);
    submission.evaluations[50].input = None;
    let begun = std::time::Instant::now();
    assert_eq!(t.submit(&tenant(), at(0), submission).await.expect("accepted"), Accepted::New);
    println!("accepted in {} ms", begun.elapsed().as_millis());
    let (replayed, of) = (t.submit(&tenant(), at(1), batch(&ids, 70 * KIB)).await, names(&t).await);
    assert!(matches!(replayed, Ok(Accepted::Existing { evaluations, .. }) if evaluations == ids));
    assert_eq!(of.len(), 99, "what came before is not written once more");
    for claimed in t.claim_all(at(2)).await {
        let id = claimed.lease.evaluation;
        match &claimed.input {
            Some(input) => assert!(t.input(input).await.expect("reads") == whole(id, 70 * KIB), "{id}"),
            None => assert_eq!(id, ids[50]),
        }
    }
    t.check().await;
}

/// In the way of blobs' directory.
fn block(t: &TestStore) -> std::path::PathBuf {
    let path = t.config.dir.join("blobs/inputs");
    std::fs::write(&path, "").expect("a file where a directory is to be");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("is changed");
    path
}

#[rstest]
#[tokio::test]
async fn where_blobs_cannot_be_written_nothing_is_kept_and_the_key_is_free(
    #[values(Sqlite, Postgres)] on: Engine,
) {
    let t = TestStore::new(on).await;
    let blocked = block(&t);
    let ids: Vec<_> = (0..40).map(|_| new_id(at(0))).collect();
    let refused = t.submit(&tenant(), at(0), batch(&ids, 70 * KIB)).await;
    let Err(SubmitError::Store(StoreError::Blob(error))) = refused else { panic!("{refused:?}") };
    assert!(error.is_away(), "{error:?}");
    assert!(t.claim_all(at(1)).await.is_empty());
    t.submit_one(at(1)).await;
    std::fs::remove_file(blocked).expect("is removed");
    assert_eq!(left(&t).await, Vec::<String>::new());
    assert_eq!(t.submit(&tenant(), at(2), batch(&ids, 70 * KIB)).await.expect("accepted"), Accepted::New);
    assert_eq!(left(&t).await.len(), 40);
    t.check().await;
}

#[rstest]
#[tokio::test]
async fn while_the_bucket_is_away_nothing_large_is_accepted(#[values(Sqlite, Postgres)] on: Engine) {
    let Some(s3) = S3::start() else { return };
    let t = TestStore::with(on, |config| config.blobs = s3.config("")).await;
    s3.kill9().expect("dies");
    let id = new_id(at(0));
    let refused = t.submit(&tenant(), at(0), single(large(id, 70 * KIB))).await;
    let Err(SubmitError::Store(StoreError::Blob(error))) = refused else { panic!("{refused:?}") };
    assert!(error.is_away(), "{error:?}");
    t.submit_one(at(1)).await;
    s3.restart().expect("starts");
    assert!(matches!(t.get(&tenant(), id).await, Err(hood_store::FindError::NotFound)));
    let id = accept(&t, 70 * KIB).await;
    assert_eq!(left(&t).await.len(), 1);
    let claimed = t.claim_all(at(2)).await;
    let claimed = claimed.iter().find(|claimed| claimed.lease.evaluation == id).expect("is claimed");
    let input = claimed.input.as_deref().expect("is in a blob");
    s3.kill9().expect("dies");
    let read = t.input(input).await;
    assert!(
        matches!(&read, Err(StoreError::Blob(error)) if error.is_away()),
        "said, and not made up: {read:?}"
    );
    s3.restart().expect("starts");
    assert!(t.input(input).await.expect("reads") == whole(id, 70 * KIB));
    t.blobs().delete(input).await.expect("is taken away behind our back");
    let read = t.input(input).await;
    assert!(matches!(&read, Err(StoreError::Blob(BlobError::Missing { .. }))), "{read:?}");
    t.check().await;
}

#[rstest]
#[tokio::test]
async fn what_is_refused_leaves_no_blob(#[values(Sqlite, Postgres)] on: Engine) {
    let t = TestStore::with(on, |config| config.queue_max = 2).await;
    let ids = [new_id(at(0)), new_id(at(0)), new_id(at(0))];
    let full = t.submit(&tenant(), at(0), batch(&ids, 70 * KIB)).await;
    assert!(matches!(full, Err(SubmitError::QueueFull { .. })), "{full:?}");
    assert_eq!(left(&t).await, Vec::<String>::new());
    let nothing = NewSubmission { batch: None, ..batch(&ids, 70 * KIB) };
    let malformed = t.submit(&tenant(), at(0), nothing).await;
    assert!(matches!(malformed, Err(SubmitError::Malformed)), "{malformed:?}");
    assert_eq!(left(&t).await, Vec::<String>::new());
    assert_eq!(
        t.submit(&tenant(), at(0), batch(&ids[..2], 70 * KIB)).await.expect("accepted"),
        Accepted::New
    );
    let mut other = batch(&[new_id(at(0))], 70 * KIB);
    other.idempotency = Some(Idempotency { key: "k".to_owned(), fingerprint: [2; 32] });
    let conflict = t.submit(&tenant(), at(0), other).await;
    assert!(matches!(conflict, Err(SubmitError::IdempotencyConflict)), "{conflict:?}");
    assert_eq!(left(&t).await.len(), 2);
    t.check().await;
}

/// Two who bring the same key at once: one is accepted, and the other one's blobs go.
#[rstest]
#[tokio::test]
async fn of_two_with_one_key_one_leaves_blobs(#[values(Sqlite, Postgres)] on: Engine) {
    let t = TestStore::new(on).await;
    let of = |_| batch(&[new_id(at(0))], 70 * KIB);
    let tenant = tenant();
    let all = futures::future::join_all((0..8).map(of).map(|new| t.submit(&tenant, at(0), new))).await;
    let new = all.into_iter().filter(|accepted| matches!(accepted, Ok(Accepted::New))).count();
    assert_eq!((new, left(&t).await.len()), (1, 1));
    let claimed = t.claim_one(at(1)).await;
    let input = claimed.input.as_deref().expect("is in a blob");
    assert!(t.input(input).await.expect("reads") == whole(claimed.lease.evaluation, 70 * KIB));
    t.check().await;
}

#[tokio::test]
async fn files_count_as_storage_and_past_the_bound_none_is_written() {
    const MIB: u64 = 1024 * 1024;
    let t = TestStore::with(Sqlite, |config| {
        (config.storage_bytes, config.storage_reserve_bytes) = (16 * MIB, 4 * MIB)
    })
    .await;
    let mut accepted = Vec::new();
    let used = loop {
        let new = large(new_id(at(0)), MIB as usize);
        let id = new.id;
        match t.submit(&tenant(), at(0), single(new)).await {
            Ok(_) => accepted.push(id),
            Err(SubmitError::StorageFull { used_bytes, .. }) => break used_bytes,
            Err(error) => panic!("{error}"),
        }
        assert!(accepted.len() < 100, "the bound does not bound");
    };
    assert!((10..12).contains(&accepted.len()), "{} of a mebibyte in twelve", accepted.len());
    assert!(used <= 12 * MIB && used + MIB > 11 * MIB, "{used}");
    assert_eq!(names(&t).await.len(), accepted.len());
    t.request_cancel(&tenant(), accepted[0], crate::cancel::wish(at(1), None)).await.expect("ends");
    t.delete(&tenant(), accepted[0]).await.expect("deleted");
    assert_eq!(left(&t).await.len(), accepted.len() - 1);
    accept(&t, MIB as usize).await;
    t.check().await;
}

#[rstest]
#[tokio::test]
async fn an_export_has_them_word_for_word(#[values(Sqlite, Postgres)] from: Engine) {
    let t = TestStore::new(from).await;
    let id = accept(&t, 2500 * KIB).await;
    t.store.close().await;
    let file = export(&t.config, Vec::new(), |_| {}).await.expect("exports").1;
    let to = if from == Sqlite { Postgres } else { Sqlite };
    let other = TestStore::new(to).await;
    other.store.close().await;
    // Opening counts itself; nothing was accepted.
    import(&other.config, &file[..], |_| {}).await.expect("imports");
    let other = other.reopen().await;
    let claimed = other.store.claim(&tenure(at(1)), 1).await.expect("claims").pop().expect("one");
    assert_eq!(claimed.lease.evaluation, id);
    let input = claimed.input.as_deref().expect("is in a blob");
    assert!(other.input(input).await.expect("reads") == whole(id, 2500 * KIB));
    other.check().await;
}
