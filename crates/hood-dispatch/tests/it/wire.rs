//! Grey box: a wire in memory between the two halves of [`hood_dispatch::remote`], with the weather
//! that real ones have: what is sent may be lost, and come twice, and late.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _, stream};
use hood_dispatch::remote::{
    ALIVE_EVERY, Answer, Call, Failure, Frames, Remote, Said, Service, ServiceConfig, Transport, World,
};
use hood_dispatch::{AttemptKey, Dispatch};
use hood_wire::dispatch::{self as wire, FrameReader};

use crate::bench::{Another, Bench};

/// Of a thousand.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weather {
    /// Calls that do not arrive.
    pub(crate) lost: u64,
    /// Calls that arrive and whose answers do not.
    pub(crate) unanswered: u64,
    /// Calls that arrive a second time, later.
    pub(crate) repeated: u64,
    /// Streams that break at a frame.
    pub(crate) cut: u64,
}

impl Weather {
    pub(crate) const CALM: Self = Self { lost: 0, unanswered: 0, repeated: 0, cut: 0 };
    pub(crate) const BAD: Self = Self { lost: 100, unanswered: 150, repeated: 300, cut: 200 };
}

/// Orders that each dispatcher carries out at once.
pub(crate) const PLACES: usize = 4;

/// How late a call comes the second time.
const LATE: Duration = Duration::from_millis(15);

/// The test's time and tasks, and chance from a seed.
#[derive(Debug)]
pub(crate) struct Here {
    began: Instant,
    state: AtomicU64,
}

impl Here {
    pub(crate) fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self { began: Instant::now(), state: AtomicU64::new(seed) })
    }

    fn below(&self, most: u64) -> u64 {
        // SplitMix64.
        let mut z = self.state.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % most
    }

    fn happens(&self, of_a_thousand: u64) -> bool {
        self.below(1000) < of_a_thousand
    }
}

impl World for Here {
    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        tokio::time::sleep(duration).boxed()
    }

    fn unit(&self) -> f64 {
        self.below(1000) as f64 / 1000.0
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        tokio::spawn(task);
    }
}

/// The way to one dispatcher, which may be replaced by a successor or be away.
#[derive(Debug)]
pub(crate) struct Way {
    world: Arc<Here>,
    weather: Weather,
    outlives: bool,
    service: Mutex<Service>,
    /// Dispatchers that have answered here, one after the other.
    lives: AtomicU64,
    /// The last order that was sent.
    ordered: Mutex<Option<Call>>,
    pub(crate) away: AtomicBool,
}

impl Way {
    pub(crate) fn new(dispatch: Arc<dyn Dispatch>, name: &str, weather: Weather) -> Arc<Self> {
        Self::to(dispatch, name, weather, false)
    }

    /// To one whose places outlive it.
    pub(crate) fn to_pods(dispatch: Arc<dyn Dispatch>, name: &str, weather: Weather) -> Arc<Self> {
        Self::to(dispatch, name, weather, true)
    }

    fn to(dispatch: Arc<dyn Dispatch>, name: &str, weather: Weather, outlives: bool) -> Arc<Self> {
        let world = Here::new(7);
        let service = Mutex::new(service(dispatch, (name, outlives), 1, &world));
        let (lives, ordered, away) = (AtomicU64::new(1), Mutex::default(), AtomicBool::new(false));
        Arc::new(Self { world, weather, outlives, service, lives, ordered, away })
    }

    /// Another dispatcher answers here from now on, and streams of the one before it break.
    pub(crate) fn replace(&self, dispatch: Arc<dyn Dispatch>, name: &str) {
        let life = self.lives.fetch_add(1, Ordering::Relaxed) + 1;
        let service = service(dispatch, (name, self.outlives), life, &self.world);
        *self.service.lock().expect("never poisoned") = service;
    }

    pub(crate) fn service(&self) -> Service {
        self.service.lock().expect("never poisoned").clone()
    }

    /// The last order, as it was sent.
    pub(crate) fn ordered(&self) -> Call {
        self.ordered.lock().expect("never poisoned").clone().expect("something was ordered")
    }

    fn lost(&self) -> bool {
        self.away.load(Ordering::Relaxed) || self.world.happens(self.weather.lost)
    }
}

fn service(
    dispatch: Arc<dyn Dispatch>,
    (name, outlives): (&str, bool),
    life: u64,
    world: &Arc<Here>,
) -> Service {
    let (name, life) = (name.to_owned(), life.to_string());
    let config = ServiceConfig { name, life, alive_every: ALIVE_EVERY, places: PLACES, outlives };
    let world: Arc<dyn World> = Arc::<Here>::clone(world);
    Service::new(dispatch, world, config)
}

fn unreachable(why: &str) -> Failure {
    Failure::Unreachable(why.to_owned())
}

/// An order as it is after its way as bytes.
fn as_bytes(call: Call) -> Call {
    match call {
        Call::Execute { key, order } => {
            let bytes = wire::encode_order(&order).expect("fits");
            Call::Execute { key, order: Arc::new(wire::decode_order(&bytes).expect("sound")) }
        }
        other => other,
    }
}

impl Transport for Way {
    fn call(&self, call: Call) -> BoxFuture<'_, Result<Said<Answer>, Failure>> {
        async move {
            if self.lost() {
                return Err(unreachable("lost"));
            }
            if matches!(call, Call::Execute { .. }) {
                *self.ordered.lock().expect("never poisoned") = Some(call.clone());
            }
            let service = self.service();
            if self.world.happens(self.weather.repeated) {
                let (service, call) = (service.clone(), as_bytes(call.clone()));
                tokio::spawn(async move {
                    tokio::time::sleep(LATE).await;
                    let _ = service.call(call).await;
                });
            }
            let answer = service.call(as_bytes(call)).await.map_err(Failure::Refused)?;
            if self.world.happens(self.weather.unanswered) {
                return Err(unreachable("no answer"));
            }
            Ok(Said { by: service.name().to_owned(), what: answer })
        }
        .boxed()
    }

    fn listen(&self, key: AttemptKey, listen: wire::Listen) -> BoxFuture<'_, Result<Said<Frames>, Failure>> {
        async move {
            if self.lost() {
                return Err(unreachable("lost"));
            }
            let service = self.service();
            let frames = service.listen(key, listen).await.map_err(Failure::Refused)?;
            let (world, cut) = (Arc::clone(&self.world), self.weather.cut);
            let broken = move || world.happens(cut);
            let arriving = frames.map(move |frame| {
                if broken() {
                    return Err(unreachable("cut"));
                }
                let (mut bytes, mut reader) = (Vec::new(), FrameReader::default());
                wire::encode_frame(&frame, &mut bytes).expect("fits");
                bytes.chunks(1000).for_each(|piece| reader.push(piece));
                Ok(reader.next_frame().expect("sound").expect("whole"))
            });
            // Nothing comes after what broke.
            let what = stream::unfold(Some(arriving.boxed()), |arriving| async move {
                let mut arriving = arriving?;
                let frame = arriving.next().await?;
                let more = frame.is_ok().then_some(arriving);
                Some((frame, more))
            });
            Ok(Said { by: service.name().to_owned(), what: what.boxed() })
        }
        .boxed()
    }
}

/// A worker's end, once it has heard what is offered.
pub(crate) async fn worker(ways: &[Arc<Way>]) -> Remote {
    let ways = ways.iter().enumerate().map(|(n, way)| {
        let way: Arc<dyn Transport> = Arc::<Way>::clone(way);
        (format!("way {n}"), way)
    });
    let remote = Remote::new(Here::new(11), ways.collect());
    while remote.capacity().offers.is_empty() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    remote
}

impl Bench {
    pub(crate) async fn over_the_wire(weather: Weather) -> Self {
        Self::behind(|local| {
            let way = Way::new(Arc::new(local), "one", weather);
            let another: Another = Box::new(move || {
                let way = Arc::clone(&way);
                async move { Arc::new(worker(&[way]).await) as Arc<dyn Dispatch> }.boxed()
            });
            another
        })
        .await
    }
}
