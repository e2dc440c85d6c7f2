//! Processes: the shipped worker with everything around it made up. Whoever dies comes back.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use hood_core::plan::PolicyMode;
use hood_core::retry::RetryPolicy;
use hood_server::health::Health;
use hood_server::worker::{Means, Worker, WorkerConfig};
use hood_store::memory::Memory;
use tokio_util::sync::CancellationToken;

use crate::ledger::RemoteStore;
use crate::places::{Phase, Places};
use crate::rng::Rng;
use crate::scheduler::{Node, NodeClock, NodeDice, NodeSpawner};
use crate::world::World;

/// Short, so that much of it fits into a world.
pub(crate) const LEASE_TTL: Duration = Duration::from_secs(3);

/// Between a death and the next start at most.
const RESTART_AFTER_MAX: Duration = Duration::from_secs(5);

/// How far a machine's clock may be off.
const SKEW_MAX: Duration = Duration::from_millis(200);

const PLACES_PER_PROCESS: u64 = 4;

/// Which processes there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// One that is worker and dispatcher: its places die with it, and its successor takes over all
    /// that it held.
    Serve,
    /// Workers beside each other, and places that outlive each of them.
    Workers(u32),
}

impl Shape {
    pub(crate) fn random(rng: &mut Rng) -> Self {
        match rng.below(3) {
            0 => Self::Serve,
            n => Self::Workers(u32::try_from(n).unwrap_or(1) + 1),
        }
    }

    pub(crate) fn workers(self) -> Vec<Node> {
        let count = match self {
            Self::Serve => 1,
            Self::Workers(count) => count,
        };
        (0..count).map(Node::Worker).collect()
    }
}

/// Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Processes {
    world: World,
    memory: Memory,
    shape: Shape,
    queue_ttl: Duration,
    places: Arc<Mutex<BTreeMap<Node, Places>>>,
    /// Places of one number are of one incarnation.
    lives: Arc<Mutex<u32>>,
}

impl Processes {
    pub(crate) fn new(world: World, memory: Memory, shape: Shape, queue_ttl: Duration) -> Self {
        Self { world, memory, shape, queue_ttl, places: Arc::default(), lives: Arc::default() }
    }

    pub(crate) fn start_all(&self) {
        self.shape.workers().into_iter().for_each(|node| self.start(node));
    }

    /// Counts how far what it was at had come, and brings it back after a while.
    pub(crate) fn died(&self, node: Node) {
        let dispatcher = self.dispatcher_of(node);
        let places = self.lock().get(&dispatcher).cloned();
        for phase in places.iter().flat_map(Places::phases) {
            self.world.count(match phase {
                Phase::Provisioning => "a worker killed while a place was provisioned",
                Phase::Running => "a worker killed while a program ran",
                Phase::Ended => "a worker killed between a program's end and the record of it",
            });
        }
        self.world.count("a worker killed");
        if self.shape == Shape::Serve
            && let Some(places) = places
        {
            places.bury();
            self.lock().remove(&dispatcher);
        }
        let (again, world) = (self.clone(), self.world.clone());
        self.world.scheduler.spawn(
            Node::Fate,
            async move {
                world.pause(RESTART_AFTER_MAX).await;
                again.start(node);
            }
            .boxed(),
        );
    }

    fn start(&self, node: Node) {
        let dispatch = self.places_of(node);
        let store = RemoteStore { world: self.world.clone(), memory: self.memory.reopen(), node };
        let scheduler = self.world.scheduler.clone();
        let ahead = scheduler.draw(|rng| rng.delay(SKEW_MAX));
        let means = Means {
            store: Arc::new(store),
            dispatch: Arc::new(dispatch),
            clock: Arc::new(NodeClock::new(scheduler.clone(), ahead)),
            dice: Arc::new(NodeDice(scheduler.clone())),
            spawner: Arc::new(NodeSpawner { scheduler: scheduler.clone(), node }),
        };
        let worker = Worker::new(means, Health::default(), self.config(node));
        let (world, recovers) = (self.world.clone(), self.shape == Shape::Serve);
        world.scheduler.note(format_args!("{node} starts"));
        scheduler.spawn(
            node,
            async move {
                while recovers && worker.recover().await.is_err() {
                    world.pause(RESTART_AFTER_MAX).await;
                }
                worker.run(CancellationToken::new()).await;
            }
            .boxed(),
        );
    }

    fn config(&self, node: Node) -> WorkerConfig {
        WorkerConfig {
            name: node.to_string(),
            places: u32::try_from(PLACES_PER_PROCESS).unwrap_or(1),
            lease_ttl: LEASE_TTL,
            queue_ttl: self.queue_ttl,
            drain: Duration::from_secs(30),
            retry: RetryPolicy::DEFAULT,
            policy: PolicyMode::Strict,
        }
    }

    const fn dispatcher_of(&self, node: Node) -> Node {
        match self.shape {
            Shape::Serve => node,
            Shape::Workers(_) => Node::Dispatcher(0),
        }
    }

    fn places_of(&self, node: Node) -> Places {
        let dispatcher = self.dispatcher_of(node);
        let mut places = self.lock();
        let new = || {
            let mut lives = self.lives.lock().unwrap_or_else(PoisonError::into_inner);
            *lives += 1;
            Places::new(self.world.clone(), u32::MAX, *lives * 10_000)
        };
        places.entry(dispatcher).or_insert_with(new).clone()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Node, Places>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
