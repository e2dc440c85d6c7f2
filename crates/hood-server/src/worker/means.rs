//! What a worker works with: everything of the world that it touches, as traits, so that the very
//! code that is shipped also runs where time, chance, store and network are made up.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt as _, StreamExt as _, stream};
use hood_core::{EvaluationId, Timestamp};
use hood_dispatch::Dispatch;
use hood_store::{Claimed, Commit, CommitError, Lapsed, Lease, Renewed, Store, StoreError, Tenure};

use super::Dice;
use crate::clock::Clock;

#[derive(Clone, Debug)]
pub struct Means {
    pub store: Arc<dyn Ledger>,
    pub dispatch: Arc<dyn Dispatch>,
    pub clock: Arc<dyn Clock>,
    pub dice: Arc<dyn Dice>,
    pub spawner: Arc<dyn Spawner>,
}

/// What a worker asks of a store, word for word as [`Store`] has it.
pub trait Ledger: Send + Sync + fmt::Debug {
    fn claim<'a>(&'a self, tenure: &'a Tenure, limit: u32)
    -> BoxFuture<'a, Result<Vec<Claimed>, StoreError>>;

    fn reclaim<'a>(
        &'a self,
        tenure: &'a Tenure,
        limit: u32,
        which: Lapsed,
    ) -> BoxFuture<'a, Result<Vec<Claimed>, StoreError>>;

    fn renew<'a>(
        &'a self,
        leases: &'a [Lease],
        now: Timestamp,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<Vec<Renewed>, StoreError>>;

    fn commit<'a>(&'a self, lease: &'a Lease, commit: Commit) -> BoxFuture<'a, Result<(), CommitError>>;

    fn expire_queued<'a>(
        &'a self,
        older_than: Timestamp,
        now: Timestamp,
        limit: u32,
        result: &'a str,
    ) -> BoxFuture<'a, Result<u64, StoreError>>;

    /// All that was asked for, from the blob of this name.
    fn input<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<String, StoreError>>;

    /// A hint that something was queued after this call.
    fn work(&self) -> BoxFuture<'static, ()>;

    /// Hints that a cancel was asked for: of one, or (`None`) of any that are held.
    fn cancels(&self) -> BoxStream<'static, Option<EvaluationId>>;
}

impl Ledger for Store {
    fn claim<'a>(
        &'a self,
        tenure: &'a Tenure,
        limit: u32,
    ) -> BoxFuture<'a, Result<Vec<Claimed>, StoreError>> {
        Self::claim(self, tenure, limit).boxed()
    }

    fn reclaim<'a>(
        &'a self,
        tenure: &'a Tenure,
        limit: u32,
        which: Lapsed,
    ) -> BoxFuture<'a, Result<Vec<Claimed>, StoreError>> {
        Self::reclaim(self, tenure, limit, which).boxed()
    }

    fn renew<'a>(
        &'a self,
        leases: &'a [Lease],
        now: Timestamp,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<Vec<Renewed>, StoreError>> {
        Self::renew(self, leases, now, ttl).boxed()
    }

    fn commit<'a>(&'a self, lease: &'a Lease, commit: Commit) -> BoxFuture<'a, Result<(), CommitError>> {
        Self::commit(self, lease, commit).boxed()
    }

    fn expire_queued<'a>(
        &'a self,
        older_than: Timestamp,
        now: Timestamp,
        limit: u32,
        result: &'a str,
    ) -> BoxFuture<'a, Result<u64, StoreError>> {
        Self::expire_queued(self, older_than, now, limit, result).boxed()
    }

    fn input<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<String, StoreError>> {
        Self::input(self, name).boxed()
    }

    fn work(&self) -> BoxFuture<'static, ()> {
        self.wake().work().boxed()
    }

    fn cancels(&self) -> BoxStream<'static, Option<EvaluationId>> {
        let cancels = self.wake().cancels();
        stream::unfold(cancels, async |mut cancels| Some((cancels.recv().await, cancels))).boxed()
    }
}

/// Where tasks live. What is spawned runs until it ends or its whole process does.
pub trait Spawner: Send + Sync + fmt::Debug {
    fn spawn(&self, task: BoxFuture<'static, ()>);
}

/// The runtime that it is called within.
#[derive(Clone, Copy, Debug, Default)]
pub struct TokioSpawner;

impl Spawner for TokioSpawner {
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        tokio::spawn(task);
    }
}
