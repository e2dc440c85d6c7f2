//! Black box. What is accepted, and what the same thing said twice does.

use hood_core::{BatchId, EvaluationId, State, Tenant, Verdict};
use hood_store::{Accepted, Delete, Idempotency, NewSubmission, SubmitError};
use rstest::rstest;

use crate::support::Engine::{self, Postgres, Sqlite};
use crate::support::{TestStore, at, evaluation, new_id, serial, single, tenant};

fn keyed(ids: &[EvaluationId], key: &str, fingerprint: u8) -> NewSubmission {
    NewSubmission {
        batch: (ids.len() > 1).then(|| BatchId::new(at(0), serial())),
        evaluations: ids.iter().map(|id| evaluation(*id, 0)).collect(),
        idempotency: Some(Idempotency { key: key.to_owned(), fingerprint: [fingerprint; 32] }),
    }
}

fn ids(n: usize) -> Vec<EvaluationId> {
    (0..n).map(|_| new_id(at(0))).collect()
}

#[rstest]
#[tokio::test]
async fn what_was_accepted_is_there_as_it_was_given(#[values(Sqlite, Postgres)] on: Engine) {
    let t = TestStore::new(on).await;
    let id = t
        .submit_with(at(5), |new| {
            new.labels.insert("k".to_owned(), "v".to_owned());
            new.priority = 7;
        })
        .await;
    let record = t.get(&tenant(), id).await.expect("is there");
    assert_eq!((record.state, record.priority, record.created_at), (State::Queued, 7, at(5)));
    assert_eq!(record.labels.get("k").map(String::as_str), Some("v"));
    assert_eq!(record.request, format!(r#"{{"of":"{id}"}}"#));
    assert!(t.get(&Tenant::new("other"), id).await.is_err(), "it is its tenant's only");
    t.check().await;
}

#[rstest]
#[tokio::test]
async fn the_same_key_and_body_give_the_same_evaluations_in_their_order(
    #[values(Sqlite, Postgres)] on: Engine,
) {
    let t = TestStore::new(on).await;
    // Not in the order of their ids.
    let mut batch = ids(5);
    batch.reverse();
    let first = keyed(&batch, "k", 1);
    let id = first.batch;
    assert_eq!(t.submit(&tenant(), at(0), first).await.expect("accepted"), Accepted::New);
    let again = t.submit(&tenant(), at(1), keyed(&ids(5), "k", 1)).await.expect("known");
    assert_eq!(again, Accepted::Existing { batch: id, evaluations: batch });
    let looked = Idempotency { key: "k".to_owned(), fingerprint: [1; 32] };
    assert_eq!(t.find_submission(&tenant(), &looked).await.expect("known"), Some(again));
    t.check().await;
}

#[rstest]
#[tokio::test]
async fn the_same_key_and_another_body_are_a_conflict_and_change_nothing(
    #[values(Sqlite, Postgres)] on: Engine,
) {
    let t = TestStore::new(on).await;
    t.submit(&tenant(), at(0), keyed(&ids(1), "k", 1)).await.expect("accepted");
    let other = t.submit(&tenant(), at(0), keyed(&ids(1), "k", 2)).await;
    assert!(matches!(other, Err(SubmitError::IdempotencyConflict)), "{other:?}");
    assert_eq!(crate::support::invariants::everything(&t).await.len(), 1);
    // Keys are each tenant's own.
    let elsewhere = t.submit(&Tenant::new("other"), at(0), keyed(&ids(1), "k", 2)).await.expect("accepted");
    assert_eq!(elsewhere, Accepted::New);
    t.check().await;
}

#[rstest]
#[tokio::test]
async fn a_key_is_free_again_once_all_of_it_is_deleted(#[values(Sqlite, Postgres)] on: Engine) {
    let t = TestStore::new(on).await;
    let batch = ids(2);
    t.submit(&tenant(), at(0), keyed(&batch, "k", 1)).await.expect("accepted");
    for (deleted, id) in batch.iter().enumerate() {
        let again = t.submit(&tenant(), at(0), keyed(&ids(2), "k", 1)).await.expect("known");
        let Accepted::Existing { evaluations, .. } = again else { panic!("{again:?}") };
        assert_eq!(evaluations, batch[deleted..]);
        t.request_cancel(&tenant(), *id, crate::cancel::wish(at(1), None)).await.expect("cancelled");
        assert_eq!(t.delete(&tenant(), *id).await.expect("deleted"), Delete::Deleted);
    }
    assert_eq!(t.submit(&tenant(), at(0), keyed(&ids(2), "k", 2)).await.expect("accepted"), Accepted::New);
    t.check().await;
}

#[rstest]
#[tokio::test]
async fn a_batch_is_accepted_as_a_whole_or_not_at_all(#[values(Sqlite, Postgres)] on: Engine) {
    let t = TestStore::with(on, |config| config.queue_max = 3).await;
    let taken = t.submit_one(at(0)).await;
    let mut clashing = ids(3);
    clashing[2] = taken;
    let refused = t.submit(&tenant(), at(0), keyed(&clashing, "k", 1)).await;
    // Of four one is queued already: three more are one too many, whether or not an id clashes.
    assert!(matches!(refused, Err(SubmitError::QueueFull { queued: 1, limit: 3 })), "{refused:?}");
    let refused = t.submit(&tenant(), at(0), keyed(&clashing[1..], "k", 1)).await;
    assert!(matches!(refused, Err(SubmitError::Store(_))), "{refused:?}");
    assert_eq!(crate::support::invariants::everything(&t).await.len(), 1);
    // Neither the key nor the batch stayed behind.
    assert_eq!(t.submit(&tenant(), at(0), keyed(&ids(2), "k", 9)).await.expect("accepted"), Accepted::New);
    t.check().await;
}

#[rstest]
#[tokio::test]
async fn the_queue_takes_what_it_may_hold_and_not_one_more(#[values(Sqlite, Postgres)] on: Engine) {
    let t = TestStore::with(on, |config| config.queue_max = 2).await;
    for _ in 0..2 {
        t.submit_one(at(0)).await;
    }
    let refused = t.submit(&tenant(), at(0), single(evaluation(new_id(at(0)), 0))).await;
    assert!(matches!(refused, Err(SubmitError::QueueFull { queued: 2, limit: 2 })), "{refused:?}");
    t.claim_one(at(1)).await;
    t.submit_one(at(1)).await;
    t.check().await;
}

#[rstest]
#[tokio::test]
async fn a_known_key_is_answered_though_the_queue_is_full(#[values(Sqlite, Postgres)] on: Engine) {
    let t = TestStore::with(on, |config| config.queue_max = 1).await;
    let one = ids(1);
    t.submit(&tenant(), at(0), keyed(&one, "k", 1)).await.expect("accepted");
    let again = t.submit(&tenant(), at(0), keyed(&ids(1), "k", 1)).await.expect("known");
    assert_eq!(again, Accepted::Existing { batch: None, evaluations: one });
    t.check().await;
}

#[rstest]
#[tokio::test]
async fn a_submission_is_one_or_a_batch(#[values(Sqlite, Postgres)] on: Engine) {
    let t = TestStore::new(on).await;
    let none = NewSubmission { batch: None, evaluations: Vec::new(), idempotency: None };
    assert!(matches!(t.submit(&tenant(), at(0), none).await, Err(SubmitError::Malformed)));
    let two = ids(2).into_iter().map(|id| evaluation(id, 0)).collect();
    let loose = NewSubmission { batch: None, evaluations: two, idempotency: None };
    assert!(matches!(t.submit(&tenant(), at(0), loose).await, Err(SubmitError::Malformed)));
    t.check().await;
}

#[rstest]
#[tokio::test]
async fn a_batch_counts_its_own_by_state(#[values(Sqlite, Postgres)] on: Engine) {
    let t = TestStore::new(on).await;
    let mut submission = keyed(&ids(3), "k", 1);
    submission.evaluations[0].priority = 1;
    let batch = submission.batch.expect("a batch");
    t.submit(&tenant(), at(0), submission).await.expect("accepted");
    t.submit_one(at(0)).await;
    t.claim_one(at(1)).await;
    let record = t.batch(&tenant(), batch).await.expect("is there");
    let mut counts = record.counts.clone();
    counts.sort();
    assert_eq!((record.created_at, counts), (at(0), vec![(State::Queued, 2), (State::Provisioning, 1)]));
    assert!(t.batch(&tenant(), BatchId::new(at(9), serial())).await.is_err());
    t.check().await;
}

#[rstest]
#[tokio::test]
async fn what_was_accepted_outlives_a_restart(#[values(Sqlite, Postgres)] on: Engine) {
    let t = TestStore::new(on).await;
    let ended = t.ended(at(0), Verdict::Failed).await;
    let queued = t.submit_one(at(0)).await;
    let t = t.reopen().await;
    let states = [t.get(&tenant(), ended).await, t.get(&tenant(), queued).await];
    assert_eq!(states.map(|found| found.expect("is there").state), [State::Failed, State::Queued]);
    t.check().await;
}
