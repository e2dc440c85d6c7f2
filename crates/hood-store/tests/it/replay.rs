//! Black box. Random lives: whatever is done, by whom and how often, events lead to the row, counts
//! to the queue, and bytes to what was written.

use std::collections::HashMap;

use hood_core::lifecycle::{AfterLoss, AnyEvaluation};
use hood_core::outcome::Stream;
use hood_core::{EvaluationId, Loss, RetryPolicy, Timestamp, Transition, Verdict};
use hood_store::{Cancel, Claimed, Commit, CommitError, Delete, FindError, Lapsed, Renewed, Span};
use proptest::prelude::*;
use rstest::rstest;

use crate::cancel::wish;
use crate::support::{
    Engine, RESULT, TTL, TestStore, at, chunk, evaluation, invariants, new_id, single, tenant, tenure,
};

fn moves(transition: Transition) -> Commit {
    let result = transition.to().is_terminal().then(|| RESULT.to_owned());
    Commit { transitions: vec![transition], result, ..Commit::default() }
}

#[derive(Clone, Copy, Debug)]
enum Deed {
    Submit,
    Claim(u32),
    /// Moves the clock so far that every lease lapses, and takes them over.
    TakeOver,
    Start(usize),
    Print(usize, u8),
    Finish(usize, usize),
    Lose(usize),
    Cancel(usize),
    Delete(usize),
    Expire,
    Renew,
    /// A holder whose lease was taken over, or whose attempt has ended, goes on.
    Stale(usize, u8),
}

fn deed() -> impl Strategy<Value = Deed> {
    let which = || 0usize..16;
    prop_oneof![
        4 => Just(Deed::Submit),
        4 => (1u32..4).prop_map(Deed::Claim),
        1 => Just(Deed::TakeOver),
        4 => which().prop_map(Deed::Start),
        4 => (which(), any::<u8>()).prop_map(|(i, n)| Deed::Print(i, n)),
        3 => (which(), 0usize..8).prop_map(|(i, v)| Deed::Finish(i, v)),
        2 => which().prop_map(Deed::Lose),
        2 => which().prop_map(Deed::Cancel),
        1 => which().prop_map(Deed::Delete),
        1 => Just(Deed::Expire),
        1 => Just(Deed::Renew),
        2 => (which(), any::<u8>()).prop_map(|(i, n)| Deed::Stale(i, n)),
    ]
}

/// Somebody who holds a lease, and what the core says of its evaluation.
struct Holder {
    claimed: Claimed,
    now: AnyEvaluation,
}

struct World<'s> {
    store: &'s TestStore,
    clock: Timestamp,
    ids: Vec<EvaluationId>,
    held: Vec<Holder>,
    stale: Vec<Holder>,
    printed: HashMap<(EvaluationId, u32), Vec<u8>>,
}

impl World<'_> {
    async fn perform(&mut self, deed: Deed) {
        self.clock = self.clock.after(std::time::Duration::from_millis(7));
        let store = self.store;
        match deed {
            Deed::Submit => {
                let new = evaluation(new_id(self.clock), self.ids.len() as u8 % 3);
                self.ids.push(new.id);
                store.submit(&tenant(), self.clock, single(new)).await.expect("accepted");
            }
            Deed::Claim(limit) => {
                let claimed = store.claim(&tenure(self.clock), limit).await.expect("claims");
                self.held.extend(claimed.into_iter().map(|c| Holder { now: c.evaluation, claimed: c }));
            }
            Deed::TakeOver => self.take_over().await,
            Deed::Start(i) => self.start(i).await,
            Deed::Print(i, n) => self.print(i, n).await,
            Deed::Finish(i, verdict) => self.finish(i, Verdict::ALL[verdict]).await,
            Deed::Lose(i) => self.lose(i).await,
            Deed::Cancel(i) => self.cancel(i).await,
            Deed::Delete(i) => self.delete(i).await,
            Deed::Expire => {
                store.expire_queued(self.clock, self.clock, 2, "\"given up\"").await.expect("gives up");
            }
            Deed::Renew => {
                let leases: Vec<_> = self.held.iter().map(|holder| holder.claimed.lease.clone()).collect();
                let renewed = store.renew(&leases, self.clock, TTL).await.expect("renews");
                assert!(renewed.iter().all(|renewed| matches!(renewed, Renewed::Held { .. })));
            }
            Deed::Stale(i, n) => self.go_on_though_stale(i, n).await,
        }
    }

    async fn take_over(&mut self) {
        self.clock = self.clock.after(TTL * 2);
        let taken = self.store.reclaim(self.clock, Lapsed::Expired).await;
        assert_eq!(taken.len(), self.held.len());
        self.stale.append(&mut self.held);
        for claimed in taken {
            let old =
                self.stale.iter().rev().find(|old| old.claimed.lease.evaluation == claimed.lease.evaluation);
            assert_eq!(claimed.evaluation, old.expect("was held").now, "the stage is as its holder left it");
            self.held.push(Holder { now: claimed.evaluation, claimed });
        }
    }

    async fn start(&mut self, i: usize) {
        let count = self.held.len();
        let Some(holder) = self.held.get_mut(i % count.max(1)) else { return };
        let AnyEvaluation::Provisioning(evaluation) = holder.now else { return };
        let step = evaluation.start(self.clock);
        self.store.commit(&holder.claimed.lease, moves(step.transition)).await.expect("starts");
        holder.now = AnyEvaluation::Running(step.evaluation);
    }

    async fn print(&mut self, i: usize, n: u8) {
        let Some(holder) = self.held.get(i % self.held.len().max(1)) else { return };
        let lease = &holder.claimed.lease;
        let printed = self.printed.entry((lease.evaluation, lease.attempt)).or_default();
        // Some of it again, as after a reconnection.
        let again = printed.len().min(usize::from(n % 3));
        let from = printed.len() - again;
        printed.extend(std::iter::repeat_n(n, usize::from(n)));
        let output = vec![chunk(Stream::Stdout, from as u64, &printed[from..])];
        self.store.commit(lease, Commit { output, ..Commit::default() }).await.expect("stored");
    }

    async fn finish(&mut self, i: usize, verdict: Verdict) {
        if self.held.is_empty() {
            return;
        }
        let holder = self.held.remove(i % self.held.len());
        let step = match holder.now {
            AnyEvaluation::Provisioning(evaluation) => evaluation.end(self.clock, verdict),
            AnyEvaluation::Running(evaluation) => evaluation.end(self.clock, verdict),
            other => panic!("held, and {other:?}"),
        };
        let commit = moves(step.transition);
        self.store.commit(&holder.claimed.lease, commit.clone()).await.expect("ends");
        self.store.commit(&holder.claimed.lease, commit).await.expect("again is as good as once");
        self.stale.push(Holder { now: AnyEvaluation::Ended(step.evaluation), ..holder });
    }

    async fn lose(&mut self, i: usize) {
        if self.held.is_empty() {
            return;
        }
        let holder = self.held.remove(i % self.held.len());
        let (policy, dice) = (&RetryPolicy::DEFAULT, 0.5);
        let lost = match holder.now {
            AnyEvaluation::Provisioning(evaluation) => {
                evaluation.lose(self.clock, Loss::Infrastructure, policy, dice)
            }
            AnyEvaluation::Running(evaluation) => evaluation.lose(self.clock, policy, dice),
            other => panic!("held, and {other:?}"),
        };
        let commit = Commit { lost: Some("\"lost\"".to_owned()), ..moves(*lost.transition()) };
        self.store.commit(&holder.claimed.lease, commit).await.expect("lost");
        let now = match lost {
            AfterLoss::Retried(step) => AnyEvaluation::Queued(step.evaluation),
            AfterLoss::Final(step) => AnyEvaluation::Ended(step.evaluation),
        };
        self.stale.push(Holder { now, ..holder });
    }

    async fn cancel(&mut self, i: usize) {
        let Some(&id) = self.ids.get(i % self.ids.len().max(1)) else { return };
        let held = self.held.iter().any(|holder| holder.claimed.lease.evaluation == id);
        match self.store.request_cancel(&tenant(), id, wish(self.clock, None)).await.expect("is there") {
            Cancel::Requested => assert!(held),
            Cancel::EndedNow | Cancel::AlreadyTerminal => assert!(!held),
        }
    }

    async fn delete(&mut self, i: usize) {
        let Some(&id) = self.ids.get(i % self.ids.len().max(1)) else { return };
        let ended = self.store.get(&tenant(), id).await.expect("is there").state.is_terminal();
        match self.store.delete(&tenant(), id).await.expect("is there") {
            Delete::Deleted => {
                assert!(ended);
                self.ids.retain(|&other| other != id);
                assert!(matches!(self.store.get(&tenant(), id).await, Err(FindError::NotFound)));
            }
            Delete::NotTerminal => assert!(!ended),
        }
    }

    /// Nothing that a stale holder says changes anything, and it is told.
    async fn go_on_though_stale(&mut self, i: usize, n: u8) {
        let Some(holder) = self.stale.get(i % self.stale.len().max(1)) else { return };
        let lease = &holder.claimed.lease;
        let before = self.store.get(&tenant(), lease.evaluation).await.ok();
        let commit = match (holder.now, n % 2) {
            (AnyEvaluation::Provisioning(e), 0) => moves(e.start(self.clock).transition),
            (AnyEvaluation::Running(e), 0) => moves(e.end(self.clock, Verdict::Failed).transition),
            _ => Commit { output: vec![chunk(Stream::Stdout, 0, b"stale")], ..Commit::default() },
        };
        let outcome = self.store.commit(lease, commit).await;
        assert!(matches!(outcome, Err(CommitError::StaleLease)), "{outcome:?}");
        let renewed = self.store.renew(std::slice::from_ref(lease), self.clock, TTL).await.expect("answers");
        assert_eq!(renewed, [Renewed::Lost]);
        assert_eq!(self.store.get(&tenant(), lease.evaluation).await.ok(), before);
    }

    async fn check(&self) {
        invariants::check(self.store).await;
        for &id in &self.ids {
            let record = self.store.get(&tenant(), id).await.expect("is there");
            for attempt in &record.attempts {
                let span = Span {
                    stream: Stream::Stdout,
                    attempt: Some(attempt.number),
                    offset: 0,
                    max: usize::MAX,
                };
                let stored = self.store.output(&tenant(), id, span).await.expect("is there");
                let printed = self.printed.get(&(id, attempt.number)).map(Vec::as_slice).unwrap_or_default();
                assert_eq!(stored.bytes, printed, "{id}, attempt {}", attempt.number);
            }
        }
        for holder in &self.held {
            let record = self.store.get(&tenant(), holder.claimed.lease.evaluation).await.expect("is there");
            assert_eq!((record.state, record.history), (holder.now.state(), *holder.now.history()));
        }
    }
}

#[rstest]
fn every_life_is_consistent(#[values(Engine::Sqlite, Engine::Postgres)] on: Engine) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let config = ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(deeds in prop::collection::vec(deed(), 1..60))| {
        runtime.block_on(async {
            let store = TestStore::new(on).await;
            let mut world = World {
                store: &store,
                clock: at(0),
                ids: Vec::new(),
                held: Vec::new(),
                stale: Vec::new(),
                printed: HashMap::new(),
            };
            for deed in deeds {
                world.perform(deed).await;
            }
            world.check().await;
            store.close().await;
        });
    });
}
