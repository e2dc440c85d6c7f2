//! The store as a process reaches it: over a way that delays, loses calls, loses answers to calls
//! that were done, and is cut now and then. A call that was sent arrives though its sender has died.

use std::time::Duration;

use futures::FutureExt as _;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use hood_core::{EvaluationId, Timestamp, Transition};
use hood_dispatch::AttemptKey;
use hood_server::worker::Ledger;
use hood_store::memory::Memory;
use hood_store::{Claimed, Commit, CommitError, Lapsed, Lease, Renewed, StoreError, Tenure};
use tokio::sync::oneshot;

use crate::history::{Deed, Extent};
use crate::scheduler::Node;
use crate::world::World;

/// How long a caller waits for a store that does not answer.
const GIVE_UP_AFTER: Duration = Duration::from_secs(5);

#[derive(Clone, Debug)]
pub(crate) struct RemoteStore {
    pub(crate) world: World,
    pub(crate) memory: Memory,
    pub(crate) node: Node,
}

impl RemoteStore {
    /// Has the store do something, and gives its answer if one arrives.
    pub(crate) async fn call<T, F>(&self, act: impl FnOnce(Memory, World) -> F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let (world, node) = (self.world.clone(), self.node);
        let acting = act(self.memory.clone(), world.clone());
        let (reply, answer) = oneshot::channel();
        self.world.scheduler.spawn(
            Node::Store,
            async move {
                world.pause(world.weather.store_delay).await;
                let fails = world.strikes("a call to the store lost", world.weather.store_fails);
                if fails || world.is_apart(node, Node::Store) {
                    return;
                }
                let done = acting.await;
                world.pause(world.weather.store_delay).await;
                let lost = world.strikes("an answer of the store lost", world.weather.store_answer_lost);
                if !lost && !world.is_apart(node, Node::Store) {
                    // Whoever asked may have died meanwhile.
                    let _ = reply.send(done);
                }
            }
            .boxed(),
        );
        let give_up = self.world.scheduler.sleep(GIVE_UP_AFTER);
        tokio::select! {
            biased;
            answer = answer => answer.map_err(|_| away()),
            () = give_up => Err(away()),
        }
    }
}

fn away() -> StoreError {
    StoreError::Corrupt { what: "the way to the store is cut".to_owned() }
}

fn leased(world: &World, claimed: &[Claimed], tenure: &Tenure, takes_over: bool) {
    for Claimed { lease, .. } in claimed {
        let key = AttemptKey { evaluation: lease.evaluation, attempt: lease.attempt };
        let worker = tenure.worker.clone();
        world.tell(Deed::Leased { key, token: lease.token, worker, takes_over });
    }
}

fn committed(world: &World, lease: &Lease, commit: &Commit) {
    let key = AttemptKey { evaluation: lease.evaluation, attempt: lease.attempt };
    let end = |chunk: &hood_store::Chunk| chunk.offset + chunk.bytes.len() as u64;
    world.tell(Deed::Committed {
        key,
        token: lease.token,
        events: commit.transitions.iter().map(Transition::event).copied().collect(),
        output: commit.output.iter().map(|chunk| Extent { stream: chunk.stream, end: end(chunk) }).collect(),
    });
}

impl Ledger for RemoteStore {
    fn claim<'a>(
        &'a self,
        tenure: &'a Tenure,
        limit: u32,
    ) -> BoxFuture<'a, Result<Vec<Claimed>, StoreError>> {
        let tenure = tenure.clone();
        async move {
            self.call(async move |memory, world| {
                let claimed = memory.claim(&tenure, limit).await?;
                leased(&world, &claimed, &tenure, false);
                Ok(claimed)
            })
            .await?
        }
        .boxed()
    }

    fn reclaim<'a>(
        &'a self,
        tenure: &'a Tenure,
        limit: u32,
        which: Lapsed,
    ) -> BoxFuture<'a, Result<Vec<Claimed>, StoreError>> {
        let tenure = tenure.clone();
        async move {
            self.call(async move |memory, world| {
                let claimed = memory.reclaim(&tenure, limit, which).await?;
                leased(&world, &claimed, &tenure, true);
                Ok(claimed)
            })
            .await?
        }
        .boxed()
    }

    fn renew<'a>(
        &'a self,
        leases: &'a [Lease],
        now: Timestamp,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<Vec<Renewed>, StoreError>> {
        let leases = leases.to_vec();
        async move { self.call(async move |memory, _| memory.renew(&leases, now, ttl).await).await? }.boxed()
    }

    fn commit<'a>(&'a self, lease: &'a Lease, commit: Commit) -> BoxFuture<'a, Result<(), CommitError>> {
        let lease = lease.clone();
        async move {
            self.call(async move |memory, world| {
                memory.commit(&lease, commit.clone()).await?;
                committed(&world, &lease, &commit);
                Ok(())
            })
            .await?
        }
        .boxed()
    }

    fn expire_queued<'a>(
        &'a self,
        older_than: Timestamp,
        now: Timestamp,
        limit: u32,
        result: &'a str,
    ) -> BoxFuture<'a, Result<u64, StoreError>> {
        let result = result.to_owned();
        async move {
            self.call(async move |memory, _| memory.expire_queued(older_than, now, limit, &result).await)
                .await?
        }
        .boxed()
    }

    fn input<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<String, StoreError>> {
        // Memory keeps every request whole, and says so.
        let what = format!("{name}, in a store that has no blobs");
        async move { Err(StoreError::Corrupt { what }) }.boxed()
    }

    fn work(&self) -> BoxFuture<'static, ()> {
        let (world, work) = (self.world.clone(), self.memory.wake().work());
        async move {
            work.await;
            if world.strikes("a hint lost", world.weather.hint_lost) {
                std::future::pending::<()>().await;
            }
        }
        .boxed()
    }

    fn cancels(&self) -> BoxStream<'static, Option<EvaluationId>> {
        let world = self.world.clone();
        let cancels = stream::unfold(self.memory.wake().cancels(), async |mut cancels| {
            Some((cancels.recv().await, cancels))
        });
        let heard = move |_: &Option<EvaluationId>| {
            std::future::ready(!world.strikes("a hint lost", world.weather.hint_lost))
        };
        cancels.filter(heard).boxed()
    }
}
