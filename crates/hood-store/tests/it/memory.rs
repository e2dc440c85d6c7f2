//! Black box. The store of simulations answers as a database does: the same random calls to both, right
//! ones and wrong ones, and every answer compared.

use std::fmt::Debug;

use hood_core::lifecycle::AnyEvaluation;
use hood_core::outcome::Stream;
use hood_core::{BatchId, EvaluationId, Loss, RetryPolicy, State, Timestamp, Transition, Verdict};
use hood_store::memory::Memory;
use hood_store::{Claimed, Commit, Filter, Idempotency, Lapsed, Lease, NewSubmission, Span};
use proptest::prelude::*;
use rstest::rstest;

use crate::cancel::wish;
use crate::support::{Engine, RESULT, TTL, TestStore, at, chunk, evaluation, new_id, serial, tenant, tenure};

#[derive(Clone, Copy, Debug)]
enum Deed {
    Submit {
        priority: u8,
        key: Option<u8>,
        batch: bool,
    },
    Claim(u32),
    /// Moves the clock so far that every lease lapses, and takes them over.
    TakeOver,
    Renew,
    Move(usize, u8),
    Print {
        which: usize,
        back: u8,
        bytes: u8,
        err: bool,
    },
    /// Something that was written before, said again by whoever.
    Again(usize, usize),
    Cancel(usize, Option<u16>),
    Delete(usize),
    Expire,
    List(u8),
}

fn deed() -> impl Strategy<Value = Deed> {
    let which = || 0usize..24;
    let key = prop::option::weighted(0.3, 0u8..4);
    prop_oneof![
        5 => (0u8..3, key, any::<bool>()).prop_map(|(priority, key, batch)| Deed::Submit { priority, key, batch }),
        5 => (1u32..4).prop_map(Deed::Claim),
        1 => Just(Deed::TakeOver),
        1 => Just(Deed::Renew),
        8 => (which(), any::<u8>()).prop_map(|(i, n)| Deed::Move(i, n)),
        6 => (which(), 0u8..5, 0u8..9, any::<bool>())
            .prop_map(|(which, back, bytes, err)| Deed::Print { which, back, bytes, err }),
        3 => (which(), which()).prop_map(|(i, j)| Deed::Again(i, j)),
        2 => (which(), prop::option::of(any::<u16>())).prop_map(|(i, grace)| Deed::Cancel(i, grace)),
        2 => which().prop_map(Deed::Delete),
        1 => Just(Deed::Expire),
        2 => any::<u8>().prop_map(Deed::List),
    ]
}

struct Both {
    database: TestStore,
    memory: Memory,
    clock: Timestamp,
    ids: Vec<EvaluationId>,
    batches: Vec<BatchId>,
    leases: Vec<Lease>,
    commits: Vec<Commit>,
}

/// What was answered, so that two can be compared: of errors their kind.
fn told<T: Debug, E: Debug>(answer: &Result<T, E>) -> String {
    match answer {
        Ok(answer) => format!("{answer:?}"),
        Err(error) => {
            let text = format!("{error:?}");
            text.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().to_owned()
        }
    }
}

/// Asks both; they agree.
macro_rules! both {
    ($self:ident.$call:ident($($argument:expr),* $(,)?)) => {{
        let answer = $self.database.store.$call($($argument),*).await;
        let other = $self.memory.$call($($argument),*).await;
        assert_eq!(told(&answer), told(&other), "{}", stringify!($call));
        answer
    }};
}

impl Both {
    async fn perform(&mut self, deed: Deed) {
        self.clock = self.clock.after(std::time::Duration::from_millis(7));
        match deed {
            Deed::Submit { priority, key, batch } => self.submit(priority, key, batch).await,
            Deed::Claim(limit) => {
                let claimed = both!(self.claim(&tenure(self.clock), limit)).expect("claims");
                self.hold(claimed);
            }
            Deed::TakeOver => {
                self.clock = self.clock.after(TTL * 2);
                let tenure = tenure(self.clock);
                // Which of those that lapse at one moment comes first, no database promises.
                let by_id = |mut claimed: Vec<Claimed>| {
                    claimed.sort_by_key(|claimed| claimed.lease.evaluation);
                    claimed
                };
                let taken =
                    by_id(self.database.store.reclaim(&tenure, 1000, Lapsed::Expired).await.expect("takes"));
                let other = by_id(self.memory.reclaim(&tenure, 1000, Lapsed::Expired).await.expect("takes"));
                assert_eq!(format!("{taken:?}"), format!("{other:?}"));
                self.hold(taken);
            }
            Deed::Renew => drop(both!(self.renew(&self.leases, self.clock, TTL))),
            Deed::Move(i, n) => self.move_on(i, n).await,
            Deed::Print { which, back, bytes, err } => self.print(which, (back, bytes), err).await,
            Deed::Again(i, j) => {
                let Some(lease) = self.leases.get(i % self.leases.len().max(1)).cloned() else { return };
                let Some(commit) = self.commits.get(j % self.commits.len().max(1)).cloned() else { return };
                let _ = both!(self.commit(&lease, commit.clone()));
            }
            Deed::Cancel(i, grace) => {
                let Some(&id) = self.ids.get(i % self.ids.len().max(1)) else { return };
                let _ = both!(self.request_cancel(&tenant(), id, wish(self.clock, grace.map(u64::from))));
            }
            Deed::Delete(i) => {
                let Some(&id) = self.ids.get(i % self.ids.len().max(1)) else { return };
                let _ = both!(self.delete(&tenant(), id));
            }
            Deed::Expire => {
                let older_than = Timestamp::from_micros(self.clock.as_micros() - 100_000);
                let _ = both!(self.expire_queued(older_than, self.clock, 1000, "\"given up\""));
            }
            Deed::List(n) => {
                let states = State::ALL.into_iter().filter(|state| n & (1 << *state as u8) != 0).collect();
                let batch = self.batches.last().copied().filter(|_| n % 4 == 0);
                let filter = Filter { states, batch, ..Filter::default() };
                let _ = both!(self.list(&tenant(), &filter, None, u32::from(n % 5) + 1));
            }
        }
    }

    fn hold(&mut self, claimed: Vec<Claimed>) {
        self.leases.extend(claimed.into_iter().map(|claimed| claimed.lease));
    }

    async fn submit(&mut self, priority: u8, key: Option<u8>, batch: bool) {
        let ids: Vec<_> = (0..if batch { 3 } else { 1 }).map(|_| new_id(self.clock)).collect();
        let batch = batch.then(|| BatchId::new(self.clock, serial()));
        let submission = NewSubmission {
            batch,
            evaluations: ids.iter().map(|id| evaluation(*id, priority)).collect(),
            idempotency: key.map(|n| Idempotency { key: format!("k{}", n / 2), fingerprint: [n; 32] }),
        };
        if let Some(idempotency) = &submission.idempotency {
            let _ = both!(self.find_submission(&tenant(), idempotency));
        }
        let accepted = both!(self.submit(&tenant(), self.clock, submission.clone()));
        if matches!(accepted, Ok(hood_store::Accepted::New)) {
            self.ids.extend(ids);
            self.batches.extend(batch);
        }
    }

    /// A step that the evaluation could make now, by whoever had a lease of it once, rightly or not.
    async fn move_on(&mut self, i: usize, n: u8) {
        let Some(lease) = self.leases.get(i % self.leases.len().max(1)).cloned() else { return };
        let Ok(record) = self.database.store.get(&tenant(), lease.evaluation).await else { return };
        let now = AnyEvaluation::restore(record.state, record.history, record.not_before, record.verdict);
        let verdict = Verdict::ALL[usize::from(n) % Verdict::ALL.len()];
        let (policy, clock) = (&RetryPolicy::DEFAULT, self.clock);
        let transition: Transition = match (now.expect("sound"), n % 4) {
            (AnyEvaluation::Provisioning(e), 0 | 1) => e.start(clock).transition,
            (AnyEvaluation::Provisioning(e), 2) => {
                *e.lose(clock, Loss::Infrastructure, policy, 0.5).transition()
            }
            (AnyEvaluation::Provisioning(e), _) => e.end(clock, verdict).transition,
            (AnyEvaluation::Running(e), 0) => *e.lose(clock, policy, 0.5).transition(),
            (AnyEvaluation::Running(e), _) => e.end(clock, verdict).transition,
            (AnyEvaluation::Queued(e), _) => e.lease(clock).transition,
            (AnyEvaluation::Ended(_), _) => return,
        };
        // Now and then without the result that belongs to it, or with one that does not.
        let ends = transition.to().is_terminal() != (n % 16 == 15);
        let commit = Commit {
            transitions: vec![transition],
            result: ends.then(|| RESULT.to_owned()),
            lost: (n % 4 == 2).then(|| "\"lost\"".to_owned()),
            decision: n.is_multiple_of(5).then(|| "{}".to_owned()),
            environment_digest: n.is_multiple_of(3).then(|| format!("digest {n}")),
            ..Commit::default()
        };
        let _ = both!(self.commit(&lease, commit.clone()));
        self.commits.push(commit);
    }

    /// From what is stored on, or a little before or after it.
    async fn print(&mut self, which: usize, (back, bytes): (u8, u8), err: bool) {
        let Some(lease) = self.leases.get(which % self.leases.len().max(1)).cloned() else { return };
        let stream = if err { Stream::Stderr } else { Stream::Stdout };
        let span = Span { stream, attempt: None, offset: 0, max: 0 };
        let stored = self.database.store.output(&tenant(), lease.evaluation, span).await;
        let offset = (stored.map_or(0, |slice| slice.stored) + 1).saturating_sub(u64::from(back));
        let output = vec![chunk(stream, offset, &vec![bytes; usize::from(bytes)])];
        let commit = Commit { output, ..Commit::default() };
        let _ = both!(self.commit(&lease, commit.clone()));
        self.commits.push(commit);
    }

    async fn check(self) {
        let all = both!(self.list(&tenant(), &Filter::default(), None, 1000)).expect("lists");
        for id in all.items.iter().map(|summary| summary.id).chain([new_id(self.clock)]) {
            let record = both!(self.get(&tenant(), id));
            let _ = both!(self.events(&tenant(), id, 1, 5));
            let attempts = record.map_or(0, |record| record.history.attempts);
            for attempt in (0..attempts + 2).map(Some).chain([None]) {
                for stream in Stream::ALL {
                    let _ = both!(self.output(&tenant(), id, Span { stream, attempt, offset: 2, max: 6 }));
                }
            }
        }
        let sorted = |mut depth: Vec<(State, u8, u64)>| {
            depth.sort();
            depth
        };
        let (queue, other) = (self.database.store.queue(&tenant()).await, self.memory.queue(&tenant()).await);
        let (queue, other) = (queue.expect("counts"), other.expect("counts"));
        assert_eq!(
            (sorted(queue.depth), queue.oldest.map(|(_, at)| at)),
            (sorted(other.depth), other.oldest.map(|(_, at)| at))
        );
        for batch in &self.batches {
            let told = |record: Result<hood_store::BatchRecord, hood_store::FindError>| {
                record.ok().map(|mut record| {
                    record.counts.sort();
                    record
                })
            };
            let stored = told(self.database.store.batch(&tenant(), *batch).await);
            assert_eq!(stored, told(self.memory.batch(&tenant(), *batch).await));
        }
        self.database.check().await;
    }
}

/// Lives that are tried: a database on a server takes longer to make.
const fn cases(on: Engine) -> u32 {
    match on {
        Engine::Sqlite => 48,
        Engine::Postgres => 16,
    }
}

#[rstest]
fn the_same_calls_have_the_same_answers(#[values(Engine::Sqlite, Engine::Postgres)] on: Engine) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let config = ProptestConfig { cases: cases(on), failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(deeds in prop::collection::vec(deed(), 1..80))| {
        runtime.block_on(async {
            let database = TestStore::new(on).await;
            let memory = Memory::new(database.config.clone());
            let (clock, leases, commits) = (at(0), Vec::new(), Vec::new());
            let mut both = Both { database, memory, clock, ids: Vec::new(), batches: Vec::new(), leases, commits };
            for deed in deeds {
                both.perform(deed).await;
            }
            both.check().await;
        });
    });
}
