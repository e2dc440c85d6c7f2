//! One thread, made-up time, and chance that comes from a seed: it decides which of the tasks that
//! could go on goes on. A task belongs to a process (a [`Node`]), and a process can be killed before
//! any of its polls, which is at any await of its code, or be frozen for a while.

mod time;
mod trace;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures::future::BoxFuture;
use hood_core::Timestamp;

use crate::rng::Rng;
pub(crate) use time::{NodeClock, NodeDice, NodeSpawner, Sleep};
pub(crate) use trace::Trace;

/// What a poll takes of the made-up time at most: so that no two things happen at one moment.
const POLL_TIME_MAX_US: u64 = 50;

/// A process, or a thing that lives and dies like one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Node {
    /// Whoever arranges the rest: never harmed.
    Fate,
    Store,
    Network,
    Client(u32),
    Worker(u32),
    Dispatcher(u32),
    Place(u32),
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fate => f.write_str("fate"),
            Self::Store => f.write_str("store"),
            Self::Network => f.write_str("network"),
            Self::Client(n) => write!(f, "client-{n}"),
            Self::Worker(n) => write!(f, "worker-{n}"),
            Self::Dispatcher(n) => write!(f, "dispatcher-{n}"),
            Self::Place(n) => write!(f, "place-{n}"),
        }
    }
}

/// What came of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// A task was polled.
    Polled,
    /// This process was killed instead of being polled: its doom had come.
    Killed(Node),
    /// Nothing can go on, now or later.
    Idle,
}

#[derive(Clone)]
pub(crate) struct Scheduler {
    core: Arc<Mutex<Core>>,
    ready: Arc<Mutex<BTreeSet<u64>>>,
}

impl fmt::Debug for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scheduler").field("now", &self.now()).finish_non_exhaustive()
    }
}

struct Core {
    rng: Rng,
    now: Timestamp,
    tasks: BTreeMap<u64, Task>,
    next_task: u64,
    timers: BTreeMap<(Timestamp, u64), Waker>,
    next_timer: u64,
    frozen: BTreeMap<Node, Timestamp>,
    /// What of it is being dropped; it does nothing more by that.
    dying: Option<Node>,
    /// Polls that a process has left.
    doomed: BTreeMap<Node, u64>,
    polls: u64,
    trace: Trace,
}

struct Task {
    node: Node,
    /// `None` while it is polled.
    future: Option<BoxFuture<'static, ()>>,
}

/// Woken in whatever order, the ready ones are a set: what wakes them may have an order that is not
/// the seed's.
struct TaskWaker {
    id: u64,
    ready: Arc<Mutex<BTreeSet<u64>>>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner).insert(self.id);
    }
}

impl Scheduler {
    pub(crate) fn new(seed: u64, start: Timestamp, trace: Trace) -> Self {
        let core = Core {
            rng: Rng::new(seed),
            now: start,
            tasks: BTreeMap::new(),
            next_task: 0,
            timers: BTreeMap::new(),
            next_timer: 0,
            frozen: BTreeMap::new(),
            dying: None,
            doomed: BTreeMap::new(),
            polls: 0,
            trace,
        };
        Self { core: Arc::new(Mutex::new(core)), ready: Arc::default() }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.lock().now
    }

    pub(crate) fn polls(&self) -> u64 {
        self.lock().polls
    }

    /// Chance, for whoever needs some.
    pub(crate) fn draw<T>(&self, draw: impl FnOnce(&mut Rng) -> T) -> T {
        draw(&mut self.lock().rng)
    }

    pub(crate) fn spawn(&self, node: Node, future: BoxFuture<'static, ()>) {
        let mut core = self.lock();
        if core.dying == Some(node) {
            return;
        }
        let id = core.next_task;
        core.next_task += 1;
        core.tasks.insert(id, Task { node, future: Some(future) });
        drop(core);
        self.ready().insert(id);
    }

    pub(crate) fn sleep(&self, duration: Duration) -> Sleep {
        let until = self.now().after(duration);
        self.sleep_until(until)
    }

    pub(crate) fn sleep_until(&self, until: Timestamp) -> Sleep {
        Sleep::new(self.clone(), until)
    }

    /// Every task of the process is gone, wherever it stood.
    pub(crate) fn kill(&self, node: Node) {
        let mut core = self.lock();
        core.doomed.remove(&node);
        core.frozen.remove(&node);
        let of_node: Vec<u64> =
            core.tasks.iter().filter(|(_, task)| task.node == node).map(|(id, _)| *id).collect();
        let dead: Vec<Task> = of_node.iter().filter_map(|id| core.tasks.remove(id)).collect();
        core.dying = Some(node);
        drop(core);
        // What they held may wake others as it goes, as a connection that is closed does. It begins
        // nothing: a process that is killed runs none of its code.
        drop(dead);
        self.lock().dying = None;
    }

    /// Kills the process instead of its poll after so many.
    pub(crate) fn doom(&self, node: Node, polls: u64) {
        self.lock().doomed.insert(node, polls);
    }

    /// As by SIGSTOP: nothing of it goes on until then, and time does.
    pub(crate) fn freeze(&self, node: Node, until: Timestamp) {
        self.lock().frozen.insert(node, until);
    }

    /// Dooms and freezes are over.
    pub(crate) fn relent(&self) {
        let mut core = self.lock();
        core.doomed.clear();
        core.frozen.clear();
    }

    pub(crate) fn note(&self, text: fmt::Arguments<'_>) {
        let mut core = self.lock();
        let now = core.now;
        core.trace.note(now, text);
    }

    /// What the trace came to: the same for the same seed.
    pub(crate) fn trace_hash(&self) -> u64 {
        self.lock().trace.hash()
    }

    pub(crate) fn turn(&self) -> Turn {
        loop {
            self.fire_due();
            let Some(id) = self.pick() else {
                if !self.pass_time() {
                    return Turn::Idle;
                }
                continue;
            };
            if let Some(turn) = self.poll(id) {
                return turn;
            }
        }
    }

    fn fire_due(&self) {
        while let Some(waker) = self.due() {
            waker.wake();
        }
    }

    fn due(&self) -> Option<Waker> {
        let mut core = self.lock();
        let (due, _) = *core.timers.first_key_value()?.0;
        if due > core.now {
            return None;
        }
        core.timers.pop_first().map(|(_, waker)| waker)
    }

    /// One of those that can go on.
    fn pick(&self) -> Option<u64> {
        let mut core = self.lock();
        let mut ready = self.ready();
        ready.retain(|id| core.tasks.contains_key(id));
        let thawed = |id: &u64| core.tasks.get(id).is_some_and(|task| !core.frozen.contains_key(&task.node));
        let able: Vec<u64> = ready.iter().copied().filter(thawed).collect();
        let which = usize::try_from(core.rng.below(able.len() as u64)).unwrap_or(0);
        let id = *able.get(which)?;
        ready.remove(&id);
        Some(id)
    }

    /// On to the next moment at which something happens; false where none is.
    fn pass_time(&self) -> bool {
        let mut core = self.lock();
        let timer = core.timers.first_key_value().map(|((due, _), _)| *due);
        let thaw = core.frozen.values().min().copied();
        let Some(next) = timer.into_iter().chain(thaw).min() else { return false };
        core.now = core.now.max(next);
        let now = core.now;
        core.frozen.retain(|_, until| *until > now);
        true
    }

    /// `None` where the task was gone.
    fn poll(&self, id: u64) -> Option<Turn> {
        let mut core = self.lock();
        let node = core.tasks.get(&id)?.node;
        core.trace.mix(id);
        if let Some(left) = core.doomed.get_mut(&node) {
            if *left == 0 {
                drop(core);
                self.kill(node);
                return Some(Turn::Killed(node));
            }
            *left -= 1;
        }
        let mut future = core.tasks.get_mut(&id)?.future.take()?;
        core.polls += 1;
        let took = core.rng.below(POLL_TIME_MAX_US) + 1;
        core.now = core.now.after(Duration::from_micros(took));
        let now = core.now;
        core.frozen.retain(|_, until| *until > now);
        drop(core);
        let waker = Waker::from(Arc::new(TaskWaker { id, ready: Arc::clone(&self.ready) }));
        let done = future.as_mut().poll(&mut Context::from_waker(&waker)) == Poll::Ready(());
        let mut core = self.lock();
        match core.tasks.get_mut(&id) {
            Some(task) if !done => task.future = Some(future),
            _ => {
                core.tasks.remove(&id);
                drop(core);
                drop(future);
            }
        }
        Some(Turn::Polled)
    }

    fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ready(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
