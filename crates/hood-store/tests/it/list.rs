//! Black box. Pages: newest first, stable, filtered by all that was asked.

use hood_core::lifecycle::State;
use hood_core::{BatchId, EvaluationId, Verdict};
use hood_store::{Filter, NewSubmission, RecordSummary};
use proptest::prelude::*;
use rstest::rstest;

use crate::support::Engine::{self, Postgres, Sqlite};
use crate::support::{TestStore, at, evaluation, new_id, serial, tenant};

async fn pages(t: &TestStore, filter: &Filter, limit: u32) -> Vec<RecordSummary> {
    let (mut all, mut cursor) = (Vec::new(), None);
    loop {
        let page = t.list(&tenant(), filter, cursor, limit).await.expect("lists");
        assert!(page.items.len() <= limit as usize);
        assert!(page.next.is_none() || page.items.len() == limit as usize, "only the last page is short");
        all.extend(page.items);
        cursor = page.next;
        if cursor.is_none() {
            return all;
        }
    }
}

fn ids(page: &[RecordSummary]) -> Vec<EvaluationId> {
    page.iter().map(|summary| summary.id).collect()
}

#[rstest]
#[tokio::test]
async fn pages_do_not_move_when_something_is_added(#[values(Sqlite, Postgres)] on: Engine) {
    let t = TestStore::new(on).await;
    let mut expected = Vec::new();
    for millis in 0..7 {
        expected.insert(0, t.submit_one(at(millis)).await);
    }
    let first = t.list(&tenant(), &Filter::default(), None, 3).await.expect("lists");
    let added = t.submit_one(at(100)).await;
    let second = t.list(&tenant(), &Filter::default(), first.next, 3).await.expect("lists");
    let last = t.list(&tenant(), &Filter::default(), second.next, 3).await.expect("lists");
    let seen = [ids(&first.items), ids(&second.items), ids(&last.items)].concat();
    assert_eq!((seen, last.next), (expected, None));
    let again = t.list(&tenant(), &Filter::default(), None, 1).await.expect("lists");
    assert_eq!(ids(&again.items), [added]);
    t.check().await;
}

#[rstest]
#[tokio::test]
async fn a_full_last_page_says_that_it_is_the_last(#[values(Sqlite, Postgres)] on: Engine) {
    let t = TestStore::new(on).await;
    for millis in 0..4 {
        t.submit_one(at(millis)).await;
    }
    let first = t.list(&tenant(), &Filter::default(), None, 2).await.expect("lists");
    let second = t.list(&tenant(), &Filter::default(), first.next, 2).await.expect("lists");
    assert_eq!((second.items.len(), second.next), (2, None));
    t.check().await;
}

#[derive(Clone, Debug)]
struct Sample {
    labels: Vec<(String, String)>,
    /// None: queued; else how it ended.
    verdict: Option<Verdict>,
    in_batch: bool,
}

fn label() -> impl Strategy<Value = (String, String)> {
    (0..2_u8, 0..2_u8).prop_map(|(name, value)| (format!("k{name}"), format!("v{value}")))
}

fn sample() -> impl Strategy<Value = Sample> {
    let verdict = prop_oneof![Just(None), Just(Some(Verdict::Succeeded)), Just(Some(Verdict::TimedOut))];
    (prop::collection::vec(label(), 0..3), verdict, any::<bool>())
        .prop_map(|(labels, verdict, in_batch)| Sample { labels, verdict, in_batch })
}

type Asked = (Vec<State>, Vec<(String, String)>, Option<i64>, bool);

fn asked() -> impl Strategy<Value = Asked> {
    let state = prop::sample::select(&State::ALL[..]);
    let since = prop::option::of(0..12_i64);
    (prop::collection::vec(state, 0..4), prop::collection::vec(label(), 0..3), since, any::<bool>())
}

async fn fill(t: &TestStore, samples: &[Sample], batch: BatchId) {
    for (millis, sample) in samples.iter().enumerate() {
        let now = at(millis as i64);
        let mut new = evaluation(new_id(now), 0);
        new.labels.extend(sample.labels.clone());
        let id = new.id;
        // One row each: a batch of many is another test's.
        let batch = (sample.in_batch).then_some(batch);
        let known = batch.is_some_and(|_| samples[..millis].iter().any(|earlier| earlier.in_batch));
        if known {
            continue;
        }
        let submission = NewSubmission { batch, evaluations: vec![new], idempotency: None };
        t.submit(&tenant(), now, submission).await.expect("accepted");
        if let Some(verdict) = sample.verdict {
            let claimed = t.claim_all(now).await;
            for claimed in claimed {
                if claimed.lease.evaluation == id {
                    t.run_to_the_end(&claimed, now, verdict).await;
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn what_is_listed_is_what_passes_every_filter(
        on in prop_oneof![Just(Sqlite), Just(Postgres)],
        samples in prop::collection::vec(sample(), 0..12),
        asked in prop::collection::vec(asked(), 12),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let t = TestStore::new(on).await;
            let batch = BatchId::new(at(0), serial());
            fill(&t, &samples, batch).await;
            let all = pages(&t, &Filter::default(), 100).await;
            for (states, labels, since, in_batch) in asked {
                let filter = Filter { states, labels, since: since.map(at), batch: in_batch.then_some(batch), dead: None };
                let passes = |summary: &&RecordSummary| {
                    (filter.states.is_empty() || filter.states.contains(&summary.state))
                        && filter.labels.iter().all(|(name, value)| summary.labels.get(name) == Some(value))
                        && filter.since.is_none_or(|since| summary.created_at >= since)
                        && (filter.batch.is_none() || summary.batch == filter.batch)
                };
                let expected: Vec<_> = all.iter().filter(passes).cloned().collect();
                assert_eq!(pages(&t, &filter, 2).await, expected, "{filter:?}");
            }
            t.check().await;
        });
    }
}
