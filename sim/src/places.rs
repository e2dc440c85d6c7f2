//! Places, and the dispatcher's side of them: what the local executor is to the rest, with programs
//! that are made up. A place does as its contract says; what it says goes through the shipped outbox.

mod life;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use hood_core::Limits;
use hood_core::plan::{
    Capacity, EnvironmentFacts, ExecutorClass, Isolation, Layer, Offer, PlaceKind, SystemCalls,
};
use hood_dispatch::catalogue::{EnvironmentEntry, EnvironmentStatus};
use hood_dispatch::environment::Base;
use hood_dispatch::{AttemptKey, Catalogue, Dispatch, DispatchError, Link, Order};
use tokio::sync::{mpsc, oneshot};

use crate::history::Deed;
use crate::scheduler::Node;
use crate::world::{START, World};

/// The one environment that is offered.
pub(crate) const ENVIRONMENT: &str = "minimal";

/// More than there are evaluations in a world: that places are short is other tests' concern.
const PLACES: u32 = 1000;

const COMMANDS_IN_FLIGHT: usize = 8;

/// Those of one dispatcher. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    world: World,
    live: Arc<Mutex<BTreeMap<AttemptName, Entry>>>,
    next: Arc<Mutex<u32>>,
    catalogue: Arc<Catalogue>,
}

/// An attempt's key, with an order.
type AttemptName = (hood_core::EvaluationId, u32);

const fn name(key: AttemptKey) -> AttemptName {
    (key.evaluation, key.attempt)
}

#[derive(Debug)]
struct Entry {
    node: Node,
    highest_token: u64,
    commands: mpsc::Sender<Command>,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// No instruction of the program was executed yet.
    Provisioning,
    Running,
    /// The program is no more, and not all that it did is acknowledged.
    Ended,
}

impl Phase {
    /// What it is called when somebody is killed while a place is so far.
    pub(crate) const fn killed(self, worker: bool) -> &'static str {
        match (self, worker) {
            (Self::Provisioning, true) => "a worker killed while a place was provisioned",
            (Self::Running, true) => "a worker killed while a program ran",
            (Self::Ended, true) => "a worker killed between a program's end and the record of it",
            (Self::Provisioning, false) => "a dispatcher killed while a place was provisioned",
            (Self::Running, false) => "a dispatcher killed while a program ran",
            (Self::Ended, false) => "a dispatcher killed between a program's end and the record of it",
        }
    }
}

#[derive(Debug)]
enum Command {
    Attach { after: u64, reply: oneshot::Sender<Link> },
    Cancel { grace: Duration },
}

impl Places {
    /// `first`: where the numbers of its places begin.
    pub(crate) fn new(world: World, executor: &str, first: u32) -> Self {
        let (live, next) = (Arc::default(), Arc::new(Mutex::new(first)));
        Self { world, live, next, catalogue: Arc::new(catalogue(executor)) }
    }

    /// As when the process that owns them dies and takes them along: proven dead when this returns.
    pub(crate) fn bury(&self) {
        let dead = std::mem::take(&mut *self.lock());
        for ((evaluation, attempt), entry) in dead {
            self.world.scheduler.kill(entry.node);
            self.over(AttemptKey { evaluation, attempt }, entry.phase == Phase::Running);
        }
    }

    fn over(&self, key: AttemptKey, ran: bool) {
        if ran {
            self.world.tell(Deed::Died { key });
        }
    }

    /// Its place is no more.
    fn forget(&self, key: AttemptKey) {
        let gone = self.lock().remove(&name(key));
        if let Some(entry) = gone {
            self.over(key, entry.phase == Phase::Running);
        }
    }

    fn begin(&self, key: AttemptKey) {
        self.reach(key, Phase::Running);
        self.world.tell(Deed::Began { key });
    }

    /// The program's end, which the place outlives until it has told.
    fn ended(&self, key: AttemptKey) {
        let before = self.reach(key, Phase::Ended);
        self.over(key, before == Some(Phase::Running));
    }

    fn reach(&self, key: AttemptKey, phase: Phase) -> Option<Phase> {
        let mut live = self.lock();
        live.get_mut(&name(key)).map(|entry| std::mem::replace(&mut entry.phase, phase))
    }

    /// How far those that are there have come.
    pub(crate) fn phases(&self) -> Vec<Phase> {
        self.lock().values().map(|entry| entry.phase).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<AttemptName, Entry>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_node(&self) -> Node {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        *next += 1;
        Node::Place(*next)
    }

    /// `None` where the attempt has its place already.
    fn enter(
        &self,
        key: AttemptKey,
        token: u64,
    ) -> Result<Option<(Node, mpsc::Receiver<Command>)>, DispatchError> {
        let node = self.next_node();
        let mut live = self.lock();
        if let Some(entry) = live.get(&name(key)) {
            return if token < entry.highest_token { Err(DispatchError::Stale(key)) } else { Ok(None) };
        }
        let (commands, receiver) = mpsc::channel(COMMANDS_IN_FLIGHT);
        live.insert(name(key), Entry { node, highest_token: token, commands, phase: Phase::Provisioning });
        Ok(Some((node, receiver)))
    }
}

impl Dispatch for Places {
    fn execute(&self, order: Order) -> BoxFuture<'_, Result<Link, DispatchError>> {
        async move {
            let (key, token) = (order.key, order.token);
            let Some((node, commands)) = self.enter(key, token)? else {
                return self.attach(key, token, 0).await;
            };
            let (opened, outcome) = oneshot::channel();
            let life = life::run(self.clone(), order, commands, opened);
            self.world.scheduler.spawn(node, life.boxed());
            outcome.await.unwrap_or(Err(DispatchError::Gone(key)))
        }
        .boxed()
    }

    fn attach(&self, key: AttemptKey, token: u64, after: u64) -> BoxFuture<'_, Result<Link, DispatchError>> {
        async move {
            let commands = {
                let mut live = self.lock();
                let entry = live.get_mut(&name(key)).ok_or(DispatchError::Gone(key))?;
                if token < entry.highest_token {
                    return Err(DispatchError::Stale(key));
                }
                entry.highest_token = token;
                entry.commands.clone()
            };
            let (reply, link) = oneshot::channel();
            commands.send(Command::Attach { after, reply }).await.map_err(|_| DispatchError::Gone(key))?;
            link.await.map_err(|_| DispatchError::Gone(key))
        }
        .boxed()
    }

    fn cancel(&self, key: AttemptKey, grace: Duration) {
        let commands = self.lock().get(&name(key)).map(|entry| entry.commands.clone());
        if let Some(commands) = commands {
            // One that is full holds cancels already, and one that is closed has ended.
            let _ = commands.try_send(Command::Cancel { grace });
        }
    }

    fn holds(&self, key: AttemptKey) -> BoxFuture<'_, Result<bool, DispatchError>> {
        std::future::ready(Ok(self.lock().contains_key(&name(key)))).boxed()
    }

    fn capacity(&self) -> Arc<Catalogue> {
        Arc::clone(&self.catalogue)
    }
}

fn catalogue(executor: &str) -> Catalogue {
    let facts = EnvironmentFacts {
        name: ENVIRONMENT.to_owned(),
        allowed_classes: vec![ExecutorClass::Cpu],
        isolation: Isolation::default(),
        system_calls: SystemCalls::default(),
    };
    let status =
        EnvironmentStatus::Ready { digest: "made:up".to_owned(), size_bytes: 1, interpreter: String::new() };
    let capacity = Capacity {
        version: 1,
        taken_at: START,
        kind: PlaceKind::LocalRoot,
        classes: vec![ExecutorClass::Cpu],
        proven: Layer::ALL.to_vec(),
        unproven: Vec::new(),
        memory_bytes_max: u64::MAX,
        places: PLACES,
    };
    let offer =
        Offer { executor: executor.to_owned(), free: PLACES, open: true, environments: None, capacity };
    Catalogue {
        version: 1,
        silent: Vec::new(),
        offers: vec![offer],
        environments: vec![EnvironmentEntry {
            facts,
            description: String::new(),
            security: None,
            base: Base::HostPython,
            packages: Vec::new(),
            code: Some(hood_core::program::Code::python()),
            imported: None,
            default_limits: Limits::DEFAULT,
            maximum_limits: Limits::MAXIMUM,
            status,
        }],
    }
}
