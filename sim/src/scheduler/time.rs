//! Clock, chance and tasks as a process has them.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use hood_core::Timestamp;
use hood_server::clock::Clock;
use hood_server::worker::{Dice, Spawner};

use super::{Node, Scheduler};

/// Ends at its time, whoever was frozen meanwhile.
pub(crate) struct Sleep {
    scheduler: Scheduler,
    until: Timestamp,
    timer: Option<(Timestamp, u64)>,
}

impl Sleep {
    pub(super) const fn new(scheduler: Scheduler, until: Timestamp) -> Self {
        Self { scheduler, until, timer: None }
    }
}

impl fmt::Debug for Sleep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sleep").field("until", &self.until).finish_non_exhaustive()
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let mut core = this.scheduler.lock();
        if let Some(timer) = this.timer.take() {
            core.timers.remove(&timer);
        }
        if core.now >= this.until {
            return Poll::Ready(());
        }
        let timer = (this.until, core.next_timer);
        core.next_timer += 1;
        core.timers.insert(timer, context.waker().clone());
        this.timer = Some(timer);
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(timer) = self.timer.take() {
            self.scheduler.lock().timers.remove(&timer);
        }
    }
}

/// A process's clock: the made-up time, and how far this machine's is off.
#[derive(Clone, Debug)]
pub(crate) struct NodeClock {
    scheduler: Scheduler,
    ahead: Duration,
}

impl NodeClock {
    pub(crate) const fn new(scheduler: Scheduler, ahead: Duration) -> Self {
        Self { scheduler, ahead }
    }
}

impl Clock for NodeClock {
    fn now(&self) -> Timestamp {
        self.scheduler.now().after(self.ahead)
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.scheduler.sleep(duration).boxed()
    }
}

#[derive(Clone, Debug)]
pub(crate) struct NodeDice(pub(crate) Scheduler);

impl Dice for NodeDice {
    fn unit(&self) -> f64 {
        self.0.draw(crate::rng::Rng::unit)
    }
}

#[derive(Clone, Debug)]
pub(crate) struct NodeSpawner {
    pub(crate) scheduler: Scheduler,
    pub(crate) node: Node,
}

impl Spawner for NodeSpawner {
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.scheduler.spawn(self.node, task);
    }
}
