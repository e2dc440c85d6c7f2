//! Processes: the shipped worker and the shipped ends of its link to dispatchers, with everything
//! around them made up. Whoever dies comes back.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use hood_core::plan::PolicyMode;
use hood_core::retry::RetryPolicy;
use hood_dispatch::Dispatch;
use hood_dispatch::remote::{ALIVE_EVERY, Remote, Service, ServiceConfig, Transport};
use hood_server::health::Health;
use hood_server::worker::{Means, Worker, WorkerConfig};
use hood_store::memory::Memory;
use tokio_util::sync::CancellationToken;

use crate::ledger::RemoteStore;
use crate::net::{Directory, Here, Way};
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

/// Evaluations that a worker has at once.
const PLACES_PER_WORKER: u32 = 4;

/// Numbers of places that one dispatcher's life has for itself.
const PLACES_PER_LIFE: u32 = 10_000;

/// Which processes there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// One that is worker and dispatcher: its places die with it, and its successor takes over all
    /// that it held.
    Serve,
    /// Roles apart. The places of a dispatcher die with it, or (`pods`) outlive it and are whoever's
    /// who asks for them.
    Apart { workers: u32, dispatchers: u32, pods: bool },
}

impl Shape {
    pub(crate) fn random(rng: &mut Rng) -> Self {
        let mut up_to = |n| u32::try_from(rng.below(n)).unwrap_or(0) + 1;
        match up_to(5) {
            1 => Self::Serve,
            n => Self::Apart { workers: up_to(3), dispatchers: up_to(2), pods: n == 2 },
        }
    }

    pub(crate) fn workers(self) -> Vec<Node> {
        match self {
            Self::Serve => vec![Node::Worker(0)],
            Self::Apart { workers, .. } => (0..workers).map(Node::Worker).collect(),
        }
    }

    pub(crate) fn dispatchers(self) -> Vec<Node> {
        match self {
            Self::Serve => Vec::new(),
            Self::Apart { dispatchers, .. } => (0..dispatchers).map(Node::Dispatcher).collect(),
        }
    }
}

/// Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Processes {
    world: World,
    memory: Memory,
    shape: Shape,
    queue_ttl: Duration,
    directory: Directory,
    places: Arc<Mutex<BTreeMap<Node, Places>>>,
    lives: Arc<Mutex<u32>>,
}

impl Processes {
    pub(crate) fn new(world: World, memory: Memory, shape: Shape, queue_ttl: Duration) -> Self {
        let directory = Directory::default();
        Self { world, memory, shape, queue_ttl, directory, places: Arc::default(), lives: Arc::default() }
    }

    pub(crate) fn start_all(&self) {
        let all = self.shape.dispatchers().into_iter().chain(self.shape.workers());
        all.for_each(|node| self.start(node));
    }

    /// Counts how far what was under way had come, and brings it back after a while.
    pub(crate) fn died(&self, node: Node) {
        let is_worker = matches!(node, Node::Worker(_));
        let under_way: Vec<Phase> = self.lock().values().flat_map(Places::phases).collect();
        for phase in under_way {
            self.world.count(phase.killed(is_worker));
        }
        self.world.count(if is_worker { "a worker killed" } else { "a dispatcher killed" });
        self.directory.leave(node);
        if let Some(places) = self.dying_with(node) {
            places.bury();
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

    /// What does not outlive it.
    fn dying_with(&self, node: Node) -> Option<Places> {
        match (self.shape, node) {
            (Shape::Serve, _) | (Shape::Apart { pods: false, .. }, Node::Dispatcher(_)) => {
                self.lock().remove(&node)
            }
            _ => None,
        }
    }

    fn start(&self, node: Node) {
        self.world.scheduler.note(format_args!("{node} starts"));
        match node {
            Node::Dispatcher(_) => self.start_dispatcher(node),
            _ => self.start_worker(node),
        }
    }

    fn start_dispatcher(&self, node: Node) {
        let pods = matches!(self.shape, Shape::Apart { pods: true, .. });
        let (name, life) = (node.to_string(), self.world.scheduler.draw(Rng::next).to_string());
        let places = tokio::sync::Semaphore::MAX_PERMITS;
        let config = ServiceConfig { name, life, alive_every: ALIVE_EVERY, places, outlives: pods };
        let here = Here { world: self.world.clone(), node };
        let service = Service::new(Arc::new(self.places_of(node)), Arc::new(here), config);
        self.directory.enter(node, service.clone());
        // A process lives though nobody asks it anything: it can be killed at any time.
        let (world, idle) = (self.world.clone(), Duration::from_millis(500));
        self.world.scheduler.spawn(
            node,
            async move {
                loop {
                    world.scheduler.sleep(idle).await;
                }
            }
            .boxed(),
        );
    }

    fn start_worker(&self, node: Node) {
        let store = RemoteStore { world: self.world.clone(), memory: self.memory.reopen(), node };
        let scheduler = self.world.scheduler.clone();
        let ahead = scheduler.draw(|rng| rng.delay(SKEW_MAX));
        let means = Means {
            store: Arc::new(store),
            dispatch: self.dispatch_of(node),
            clock: Arc::new(NodeClock::new(scheduler.clone(), ahead)),
            dice: Arc::new(NodeDice(scheduler.clone())),
            spawner: Arc::new(NodeSpawner { scheduler: scheduler.clone(), node }),
        };
        let worker = Worker::new(means, Health::default(), self.config(node));
        let (world, recovers) = (self.world.clone(), self.shape == Shape::Serve);
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

    fn dispatch_of(&self, node: Node) -> Arc<dyn Dispatch> {
        if self.shape == Shape::Serve {
            return Arc::new(self.places_of(node));
        }
        let ways = self.shape.dispatchers().into_iter().map(|to| {
            let way = Way { world: self.world.clone(), from: node, to, directory: self.directory.clone() };
            (to.to_string(), Arc::new(way) as Arc<dyn Transport>)
        });
        Arc::new(Remote::new(Arc::new(Here { world: self.world.clone(), node }), ways.collect()))
    }

    fn config(&self, node: Node) -> WorkerConfig {
        WorkerConfig {
            name: node.to_string(),
            places: PLACES_PER_WORKER,
            lease_ttl: LEASE_TTL,
            queue_ttl: self.queue_ttl,
            drain: Duration::from_secs(30),
            retry: RetryPolicy::DEFAULT,
            policy: PolicyMode::Strict,
        }
    }

    /// Pods are all dispatchers'; others are each one's own.
    fn places_of(&self, node: Node) -> Places {
        let owner = if matches!(self.shape, Shape::Apart { pods: true, .. }) { Node::Fate } else { node };
        let mut places = self.lock();
        let new = || {
            let mut lives = self.lives.lock().unwrap_or_else(PoisonError::into_inner);
            *lives += 1;
            Places::new(self.world.clone(), &node.to_string(), *lives * PLACES_PER_LIFE)
        };
        places.entry(owner).or_insert_with(new).clone()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Node, Places>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
