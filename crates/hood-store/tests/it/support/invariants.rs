//! Black box. What holds at every moment, whatever was done, and after every crash.

use std::collections::BTreeMap;

use hood_core::lifecycle::{AnyEvaluation, Queued, State};
use hood_core::{Evaluation, EvaluationId, Event, EventKind};
use hood_store::{Filter, Record, RecordSummary, Store};

use super::tenant;

const PAGE: u32 = 100;

pub(crate) async fn everything(store: &Store) -> Vec<RecordSummary> {
    let (mut all, mut cursor) = (Vec::new(), None);
    loop {
        let page = store.list(&tenant(), &Filter::default(), cursor, PAGE).await.expect("lists");
        all.extend(page.items);
        cursor = page.next;
        if cursor.is_none() {
            return all;
        }
    }
}

pub(crate) async fn check(store: &Store) {
    let all = everything(store).await;
    assert!(all.is_sorted_by(|a, b| a.id > b.id), "newest first, none twice");
    let mut depth = BTreeMap::new();
    let mut oldest = None;
    for summary in &all {
        let record = check_one(store, summary.id).await;
        assert_eq!(*summary, record.summary, "a list shows what a look shows");
        if !summary.state.is_terminal() {
            *depth.entry((summary.state.as_str(), summary.priority)).or_insert(0) += 1;
        }
        if summary.state == State::Queued {
            oldest = Some(summary.id);
        }
    }
    let queue = store.queue(&tenant()).await.expect("counts");
    let counted = queue.depth.iter().map(|(state, priority, n)| ((state.as_str(), *priority), *n)).collect();
    assert_eq!(depth, counted, "the counts are what there is");
    assert_eq!(queue.oldest.is_some(), oldest.is_some());
}

/// One evaluation's log tells the same as its row.
pub(crate) async fn check_one(store: &Store, id: EvaluationId) -> Record {
    let record = store.get(&tenant(), id).await.expect("is there");
    let events = store.events(&tenant(), id, 0, u32::MAX).await.expect("has events");
    let replayed = replay(id, &events);
    assert_eq!(replayed.state(), record.state, "{id}");
    assert_eq!(replayed.history().last_event, record.history.last_event, "{id}");
    assert_eq!(replayed.history().attempts, record.history.attempts, "{id}");
    if let AnyEvaluation::Queued(queued) = replayed {
        assert_eq!(queued.stage().not_before, record.not_before, "{id}");
    }
    let finishes: Vec<_> = events.iter().filter(|event| event.kind.state().is_terminal()).collect();
    let verdict = finishes.first().map(|event| match event.kind {
        EventKind::Finished { verdict } => verdict,
        _ => unreachable!("only an end is terminal"),
    });
    assert!(finishes.len() <= 1, "{id} ended twice");
    assert_eq!(record.verdict, verdict, "{id}");
    assert_eq!(record.finished_at, finishes.first().map(|event| event.at), "{id}");
    assert_eq!(record.result.is_some(), record.state.is_terminal(), "{id}: a result is of the end");
    check_attempts(&record, &events);
    record
}

fn replay(id: EvaluationId, events: &[Event]) -> AnyEvaluation {
    let (first, rest) = events.split_first().expect("every evaluation was submitted");
    assert_eq!((first.number, first.kind), (1, EventKind::Submitted), "{id}");
    let mut replayed = AnyEvaluation::Queued(Evaluation::<Queued>::submit(first.at).evaluation);
    for event in rest {
        replayed.apply(event).unwrap_or_else(|why| panic!("{id}: {event:?} of {events:?}: {why:?}"));
    }
    replayed
}

fn check_attempts(record: &Record, events: &[Event]) {
    let begun: Vec<_> = events
        .iter()
        .filter_map(|event| match event.kind {
            EventKind::AttemptStarted { attempt } => Some((attempt, event.at)),
            _ => None,
        })
        .collect();
    let stored: Vec<_> = record.attempts.iter().map(|attempt| (attempt.number, attempt.leased_at)).collect();
    assert_eq!(begun, stored, "{}", record.id);
    let live = matches!(record.state, State::Provisioning | State::Running);
    for attempt in &record.attempts {
        let current = live && attempt.number == record.history.attempts;
        assert_eq!(attempt.ended_at.is_none(), current, "{} attempt {}", record.id, attempt.number);
    }
}
