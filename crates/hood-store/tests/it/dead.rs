//! Black box. What infrastructure failed gets another life, once, under a new id; what has ended stays
//! as it ended.

use hood_core::lifecycle::AfterLoss;
use hood_core::{EvaluationId, Loss, RetryPolicy, State, Verdict};
use hood_store::{Commit, Dead, Filter, Lives, Requeued, SubmitError};
use rstest::rstest;

use crate::support::Engine::{self, Postgres, Sqlite};
use crate::support::{TestStore, at, new_id, provisioning, tenant};

/// Submits one and loses it for good before its program began.
pub(crate) async fn dead(t: &TestStore, label: &str) -> EvaluationId {
    let id = t
        .submit_with(at(0), |new| {
            new.priority = 3;
            new.labels.insert("suite".to_owned(), label.to_owned());
        })
        .await;
    let claimed = t.claim_one(at(0)).await;
    assert_eq!(claimed.lease.evaluation, id);
    let once = RetryPolicy { infrastructure_attempts: 1, ..RetryPolicy::DEFAULT };
    let AfterLoss::Final(step) = provisioning(&claimed).lose(at(1), Loss::Infrastructure, &once, 1.0) else {
        panic!("it is tried again")
    };
    let commit = Commit {
        transitions: vec![step.transition],
        lost: Some(r#""no place""#.to_owned()),
        result: Some(crate::support::RESULT.to_owned()),
        ..Commit::default()
    };
    t.commit(&claimed.lease, commit).await.expect("ends");
    id
}

fn filter(dead: Dead) -> Filter {
    Filter { dead: Some(dead), ..Filter::default() }
}

async fn listed(t: &TestStore, filter: &Filter) -> Vec<EvaluationId> {
    let page = t.list(&tenant(), filter, None, 10).await.expect("lists");
    page.items.into_iter().map(|one| one.id).collect()
}

#[rstest]
#[tokio::test]
async fn another_life_repeats_what_was_asked_for_and_changes_nothing_of_the_old_one(
    #[values(Sqlite, Postgres)] on: Engine,
) {
    let t = TestStore::new(on).await;
    let old = dead(&t, "a").await;
    let (before, log) =
        (t.get(&tenant(), old).await.expect("is there"), t.events(&tenant(), old, 0, 100).await);
    let new = new_id(at(5));
    let work = t.wake().work();
    let came = t.requeue(&tenant(), (old, new), at(5)).await.expect("is requeued");
    assert_eq!(came, Requeued::As(new));
    crate::wake::soon(work).await;

    let after = t.get(&tenant(), old).await.expect("is there");
    assert_eq!(after, before, "what has ended stays as it ended");
    assert_eq!(t.events(&tenant(), old, 0, 100).await.expect("a log"), log.expect("a log"));

    let again = t.get(&tenant(), new).await.expect("is there");
    let lives = async |id| t.lives(&tenant(), id).await.expect("answers");
    assert_eq!(lives(old).await, Lives { before: None, after: Some(new) });
    assert_eq!(lives(new).await, Lives { before: Some(old), after: None });
    assert_eq!((again.state, again.history.attempts, again.history.last_event), (State::Queued, 0, 1));
    assert_eq!((&again.request, &again.labels, again.priority), (&before.request, &before.labels, 3));
    assert_eq!((again.created_at, again.batch), (at(5), None));
    let claimed = t.claim_one(at(6)).await;
    assert_eq!((claimed.lease.evaluation, &claimed.request), (new, &before.request));
    t.run_to_the_end(&claimed, at(7), Verdict::Succeeded).await;
    t.check().await;
}

#[rstest]
#[tokio::test]
async fn it_is_given_once_and_only_to_what_infrastructure_failed(#[values(Sqlite, Postgres)] on: Engine) {
    let t = TestStore::new(on).await;
    let (old, fine) = (dead(&t, "a").await, t.ended(at(1), Verdict::Failed).await);
    let (first, second) = (new_id(at(2)), new_id(at(3)));
    let requeue = async |old, new| t.requeue(&tenant(), (old, new), at(3)).await.expect("answers");
    assert_eq!(requeue(old, first).await, Requeued::As(first));
    assert_eq!(requeue(old, second).await, Requeued::Already(first));
    assert_eq!(requeue(fine, second).await, Requeued::NotDead);
    assert_eq!(requeue(new_id(at(9)), second).await, Requeued::NotFound);
    let queued = t.submit_one(at(4)).await;
    assert_eq!(requeue(queued, second).await, Requeued::NotDead);
    t.get(&tenant(), second).await.expect_err("was never made");
    t.check().await;
}

#[rstest]
#[tokio::test]
async fn many_at_once_each_get_one_life_whoever_asks(#[values(Sqlite, Postgres)] on: Engine) {
    let t = TestStore::new(on).await;
    let mut olds = Vec::new();
    for _ in 0..8 {
        olds.push(dead(&t, "a").await);
    }
    let tenant = tenant();
    let mut asking = Vec::new();
    for moment in [5, 6] {
        asking.extend(olds.iter().map(|old| t.requeue(&tenant, (*old, new_id(at(moment))), at(moment))));
    }
    let lives: Vec<Requeued> =
        futures::future::join_all(asking).await.into_iter().map(|came| came.expect("answers")).collect();
    assert_eq!(lives.iter().filter(|came| matches!(came, Requeued::As(_))).count(), 8);
    assert_eq!(lives.iter().filter(|came| matches!(came, Requeued::Already(_))).count(), 8);
    assert_eq!(t.claim_all(at(9)).await.len(), 8);
    t.check().await;
}

#[rstest]
#[tokio::test]
async fn a_full_queue_takes_none_back_and_leaves_them_as_they_are(#[values(Sqlite, Postgres)] on: Engine) {
    let t = TestStore::with(on, |config| config.queue_max = 1).await;
    let old = dead(&t, "a").await;
    t.submit_one(at(2)).await;
    let refused = t.requeue(&tenant(), (old, new_id(at(3))), at(3)).await;
    assert!(matches!(refused, Err(SubmitError::QueueFull { .. })), "{refused:?}");
    assert_eq!(t.lives(&tenant(), old).await.expect("answers"), Lives::default());
    t.check().await;
}

#[rstest]
#[tokio::test]
async fn the_dead_are_listed_by_what_became_of_them(#[values(Sqlite, Postgres)] on: Engine) {
    let t = TestStore::new(on).await;
    let (one, two) = (dead(&t, "a").await, dead(&t, "b").await);
    t.ended(at(1), Verdict::Failed).await;
    assert_eq!(listed(&t, &filter(Dead::All)).await, [two, one]);
    t.requeue(&tenant(), (one, new_id(at(3))), at(3)).await.expect("is requeued");
    assert_eq!(listed(&t, &filter(Dead::Left)).await, [two]);
    let labelled = Filter { labels: vec![("suite".to_owned(), "a".to_owned())], ..filter(Dead::All) };
    assert_eq!(listed(&t, &labelled).await, [one]);
    t.check().await;
}
