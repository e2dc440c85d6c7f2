//! Black box. What is to be told of an end is noted with the end, claimed by one sender at a time, and
//! settled by whoever holds the claim.

use hood_core::{EvaluationId, Verdict};
use hood_store::{CancelWish, DeliveryId, DeliveryState, FindError, Settled};
use rstest::rstest;

use crate::support::Engine::{self, Postgres, Sqlite};
use crate::support::{RESULT, TestStore, at, new_id, tenant, tenure};

const URL: &str = "https://hooks.example.com/1";

/// One that is to be told, and has ended.
pub(crate) async fn told(t: &TestStore) -> EvaluationId {
    let id = t
        .submit_with(at(0), |new| {
            new.callback = Some(URL.to_owned());
            new.labels.insert("a".to_owned(), "b".to_owned());
        })
        .await;
    let claimed = t.claim_one(at(1)).await;
    assert_eq!(claimed.lease.evaluation, id);
    t.run_to_the_end(&claimed, at(2), Verdict::Failed).await;
    id
}

async fn state(t: &TestStore, id: EvaluationId) -> (DeliveryState, u32) {
    let page = t.deliveries(&tenant(), &[], (Some(id), None), 10).await.expect("lists");
    (page.items[0].state, page.items[0].tries)
}

#[rstest]
#[tokio::test]
async fn an_end_is_noted_with_all_that_is_told_of_it(#[values(Sqlite, Postgres)] on: Engine) {
    let t = TestStore::new(on).await;
    let work = t.wake().deliveries();
    let id = told(&t).await;
    crate::wake::soon(work).await;
    let claimed = t.claim_deliveries(&tenure(at(3)), 10).await.expect("claims");
    let [one] = claimed.as_slice() else { panic!("{claimed:?}") };
    assert_eq!(one.id, DeliveryId { tenant: tenant(), evaluation: id, event: 4 });
    assert_eq!((one.url.as_str(), one.verdict, one.attempts, one.tries), (URL, Verdict::Failed, 1, 0));
    assert_eq!((one.accepted_at, one.leased_at, one.ready_at), (at(0), Some(at(1)), Some(at(2))));
    assert_eq!((one.created_at, one.result.as_str(), &one.labels["a"]), (at(2), RESULT, &"b".to_owned()));
    t.check().await;
}

#[rstest]
#[tokio::test]
async fn what_ends_in_the_queue_is_told_and_what_named_no_url_is_not(#[values(Sqlite, Postgres)] on: Engine) {
    let t = TestStore::new(on).await;
    t.ended(at(0), Verdict::Succeeded).await;
    let id = t.submit_with(at(0), |new| new.callback = Some(URL.to_owned())).await;
    let wish = CancelWish { grace_ms: None, now: at(1), result_if_queued: RESULT.to_owned() };
    t.request_cancel(&tenant(), id, wish).await.expect("ends");
    let claimed = t.claim_deliveries(&tenure(at(3)), 10).await.expect("claims");
    assert_eq!(claimed.len(), 1);
    assert_eq!((claimed[0].id.evaluation, claimed[0].verdict), (id, Verdict::Cancelled));
    t.check().await;
}

#[rstest]
#[tokio::test]
async fn a_claim_is_one_senders_until_its_time_is_over(#[values(Sqlite, Postgres)] on: Engine) {
    let t = TestStore::new(on).await;
    let id = told(&t).await;
    let first = t.claim_deliveries(&tenure(at(3)), 10).await.expect("claims").remove(0);
    assert!(t.claim_deliveries(&tenure(at(4)), 10).await.expect("claims").is_empty());
    // The tenure's ten seconds later the first is thought dead.
    let second = t.claim_deliveries(&tenure(at(10_004)), 10).await.expect("claims").remove(0);
    let delivered = Settled::Delivered { at: at(10_005), status: 200 };
    assert!(!t.settle_delivery(&first, delivered.clone()).await.expect("answers"), "it is another's by now");
    assert_eq!(state(&t, id).await, (DeliveryState::Pending, 0));
    assert!(t.settle_delivery(&second, delivered).await.expect("answers"));
    assert_eq!(state(&t, id).await, (DeliveryState::Delivered, 1));
    assert!(t.claim_deliveries(&tenure(at(90_000)), 10).await.expect("claims").is_empty());
    t.check().await;
}

#[rstest]
#[tokio::test]
async fn in_vain_it_is_tried_again_until_it_is_dead_and_then_told_once_more(
    #[values(Sqlite, Postgres)] on: Engine,
) {
    let t = TestStore::new(on).await;
    let id = told(&t).await;
    let claim = async |now| t.claim_deliveries(&tenure(at(now)), 10).await.expect("claims").pop();
    let one = claim(3).await.expect("is due");
    let reason = "refused".to_owned();
    let failed = Settled::Failed { due_at: at(500), status: None, reason: reason.clone() };
    assert!(t.settle_delivery(&one, failed).await.expect("answers"));
    assert!(claim(499).await.is_none());
    let one = claim(500).await.expect("is due");
    assert_eq!(one.tries, 1);
    assert!(t.settle_delivery(&one, Settled::Postponed { due_at: at(600) }).await.expect("answers"));
    let page = t.deliveries(&tenant(), &[DeliveryState::Pending], (None, None), 10).await.expect("lists");
    assert_eq!(page.items[0].last_reason.as_deref(), Some("refused"), "of the last that was sent");
    let one = claim(600).await.expect("is due");
    assert_eq!(one.tries, 1, "what was not sent was not sent in vain");
    let dead = Settled::Dead { at: at(601), status: Some(500), reason };
    assert!(t.settle_delivery(&one, dead).await.expect("answers"));
    let page = t.deliveries(&tenant(), &[DeliveryState::Dead], (None, None), 10).await.expect("lists");
    assert_eq!((page.items.len(), page.items[0].tries, page.items[0].last_status), (1, 2, Some(500)));
    assert!(claim(9_000_000).await.is_none());

    let work = t.wake().deliveries();
    t.redeliver(&page.items[0].id, at(700)).await.expect("is there");
    crate::wake::soon(work).await;
    assert_eq!(claim(700).await.map(|one| (one.id.evaluation, one.tries)), Some((id, 0)));
    let unknown = DeliveryId { evaluation: new_id(at(9)), ..page.items[0].id.clone() };
    assert!(matches!(t.redeliver(&unknown, at(700)).await, Err(FindError::NotFound)));
    t.delete(&tenant(), id).await.expect("is deleted");
    assert!(t.deliveries(&tenant(), &[], (None, None), 10).await.expect("lists").items.is_empty());
    t.check().await;
}
