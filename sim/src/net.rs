//! The ways between workers and dispatchers: what is sent may be lost, come twice, late and out of
//! order; streams break; and a process that is not there answers nobody. Both ends are the shipped
//! ones, and what passes between them passes as the shipped bytes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt as _, StreamExt as _, stream};
use hood_dispatch::AttemptKey;
use hood_dispatch::remote::{self, Answer, Call, Failure, Frames, Said, Service, Transport};
use hood_wire::dispatch::{self as wire, FrameReader};
use tokio::sync::{mpsc, oneshot};

use crate::scheduler::Node;
use crate::world::{START, World};

/// Frames on their way in one stream.
const FRAMES_IN_FLIGHT: usize = 8;

/// How long a sender that hears nothing keeps a connection before it breaks.
const BREAKS_AFTER: Duration = Duration::from_secs(15);

/// Between two looks at whether a way that is cut is whole again.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Dispatchers that answer, by where they are. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Directory(Arc<Mutex<BTreeMap<Node, Service>>>);

impl Directory {
    pub(crate) fn enter(&self, node: Node, service: Service) {
        self.lock().insert(node, service);
    }

    pub(crate) fn leave(&self, node: Node) {
        self.lock().remove(&node);
    }

    fn find(&self, node: Node) -> Option<Service> {
        self.lock().get(&node).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Node, Service>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A process's time, chance and tasks, as the link wants them.
#[derive(Clone, Debug)]
pub(crate) struct Here {
    pub(crate) world: World,
    pub(crate) node: Node,
}

impl remote::World for Here {
    fn now(&self) -> Duration {
        self.world.scheduler.now().since(START)
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.world.scheduler.sleep(duration).boxed()
    }

    fn unit(&self) -> f64 {
        self.world.scheduler.draw(crate::rng::Rng::unit)
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.world.scheduler.spawn(self.node, task);
    }
}

/// From a worker to a dispatcher.
#[derive(Clone, Debug)]
pub(crate) struct Way {
    pub(crate) world: World,
    pub(crate) from: Node,
    pub(crate) to: Node,
    pub(crate) directory: Directory,
}

fn unreachable(why: &str) -> Failure {
    Failure::Unreachable(why.to_owned())
}

impl Way {
    /// One message's way in either direction: false where it does not arrive.
    async fn carry(&self, what: &'static str) -> bool {
        self.world.pause(self.world.weather.net_delay).await;
        if !self.world.strikes(what, self.world.weather.net_lost) && !self.world.is_apart(self.from, self.to)
        {
            return true;
        }
        // Some losses are noticed at once, and others only by the silence.
        if self.world.scheduler.draw(|rng| rng.chance(500)) {
            self.world.scheduler.sleep(BREAKS_AFTER).await;
        }
        false
    }

    /// Has the dispatcher do something in a task of its own, and carries its answer back.
    async fn ask<T, F>(&self, act: impl FnOnce(Service) -> F + Send + 'static) -> Result<Said<T>, Failure>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, wire::Problem>> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let way = self.clone();
        let there = async move {
            if !way.carry("a message lost").await {
                return;
            }
            let Some(service) = way.directory.find(way.to) else { return };
            let (back, name) = (way.clone(), service.name().to_owned());
            let acting = act(service);
            let doing = async move {
                let done = acting.await;
                if back.carry("an answer lost").await {
                    // Whoever asked may be gone.
                    let _ = reply.send(done.map(|what| Said { by: name, what }).map_err(Failure::Refused));
                }
            };
            way.world.scheduler.spawn(way.to, doing.boxed());
        };
        self.world.scheduler.spawn(Node::Network, there.boxed());
        answer.await.unwrap_or_else(|_| Err(unreachable("the connection broke")))
    }

    /// The same call once more, as whoever sends again without having heard does; its answer is
    /// nobody's.
    fn repeat(&self, call: &Call) {
        let (way, call) = (self.clone(), as_bytes(call.clone()));
        let late = async move {
            way.world.pause(way.world.weather.net_delay * 20).await;
            if let Some(service) = way.directory.find(way.to) {
                let acting = async move { drop(service.call(call).await) };
                way.world.scheduler.spawn(way.to, acting.boxed());
            }
        };
        self.world.scheduler.spawn(Node::Network, late.boxed());
    }

    /// Carries frames until one end is gone or the way breaks.
    async fn pump(self, mut frames: BoxStream<'static, wire::Frame>, arriving: mpsc::Sender<wire::Frame>) {
        let mut cut_for = Duration::ZERO;
        while let Some(frame) = frames.next().await {
            self.world.pause(self.world.weather.net_delay).await;
            while self.world.is_apart(self.from, self.to) {
                if cut_for >= BREAKS_AFTER {
                    return;
                }
                cut_for += LOOK_EVERY;
                self.world.scheduler.sleep(LOOK_EVERY).await;
            }
            cut_for = Duration::ZERO;
            if self.world.strikes("a stream broken", self.world.weather.stream_breaks) {
                return;
            }
            if arriving.send(frame).await.is_err() {
                return;
            }
        }
    }
}

/// An order as it is after its way as bytes.
fn as_bytes(call: Call) -> Call {
    let Call::Execute { key, order } = call else { return call };
    let passed = wire::encode_order(&order).ok().and_then(|bytes| wire::decode_order(&bytes).ok());
    Call::Execute { key, order: passed.map_or(order, Arc::new) }
}

fn frame_as_bytes(frame: &wire::Frame) -> Result<wire::Frame, Failure> {
    let (mut bytes, mut reader) = (Vec::new(), FrameReader::default());
    wire::encode_frame(frame, &mut bytes).map_err(|error| unreachable(&error.to_string()))?;
    reader.push(&bytes);
    let read = reader.next_frame().map_err(|error| unreachable(&error.to_string()))?;
    read.ok_or_else(|| unreachable("a frame is cut short"))
}

impl Transport for Way {
    fn call(&self, call: Call) -> BoxFuture<'_, Result<Said<Answer>, Failure>> {
        async move {
            if self.world.strikes("a message repeated", self.world.weather.net_repeated) {
                self.repeat(&call);
            }
            self.ask(async move |service| service.call(as_bytes(call)).await).await
        }
        .boxed()
    }

    fn listen(&self, key: AttemptKey, listen: wire::Listen) -> BoxFuture<'_, Result<Said<Frames>, Failure>> {
        async move {
            let way = self.clone();
            let opened = self.ask(async move |service| {
                let frames = service.listen(key, listen).await?;
                let (sender, receiver) = mpsc::channel(FRAMES_IN_FLIGHT);
                let (scheduler, node) = (way.world.scheduler.clone(), way.to);
                scheduler.spawn(node, way.pump(frames, sender).boxed());
                Ok(receiver)
            });
            let Said { by, what: receiver } = opened.await?;
            let what = stream::unfold(receiver, async |mut receiver| {
                let frame = receiver.recv().await?;
                Some((frame_as_bytes(&frame), receiver))
            });
            Ok(Said { by, what: what.boxed() })
        }
        .boxed()
    }
}
