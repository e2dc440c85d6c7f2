//! One made-up world: its parts, what may go wrong in it, and how often it did.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hood_core::Timestamp;

use crate::history::{Chronicle, Deed};
use crate::rng::Rng;
use crate::scheduler::{Node, Scheduler, Trace};

/// When every world begins: its ids and times are real ones.
pub(crate) const START: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);

/// What a seed makes of a world, drawn before anything happens in it.
#[derive(Clone, Debug)]
pub(crate) struct Weather {
    /// Of a thousand calls to the store: how many fail and are not heard of, and how many are done
    /// and only their answer is lost.
    pub(crate) store_fails: u32,
    pub(crate) store_answer_lost: u32,
    pub(crate) store_delay: Duration,
    /// Of a thousand messages between worker and dispatcher, how many get lost or come twice.
    pub(crate) net_lost: u32,
    pub(crate) net_repeated: u32,
    pub(crate) net_delay: Duration,
    /// Of a thousand frames, how many break their stream.
    pub(crate) stream_breaks: u32,
    /// Of a thousand hints of the bus, how many get lost.
    pub(crate) hint_lost: u32,
    /// Of a thousand places, how many cannot be made, and how many die by themselves.
    pub(crate) place_fails: u32,
    pub(crate) place_dies: u32,
    /// Of a thousand clients, how many change their minds.
    pub(crate) cancels: u32,
}

impl Weather {
    fn random(rng: &mut Rng) -> Self {
        // Some worlds are calm in one respect or another, or what is rare would always be hidden
        // behind what is not.
        let mut often = |most: u64| {
            let rough = rng.chance(600);
            let drawn = u32::try_from(rng.below(most)).unwrap_or(0);
            if rough { drawn } else { 0 }
        };
        Self {
            store_fails: often(150),
            store_answer_lost: often(150),
            hint_lost: often(1000),
            place_fails: often(200),
            place_dies: often(200),
            cancels: often(400),
            net_lost: often(150),
            net_repeated: often(300),
            stream_breaks: often(200),
            net_delay: Duration::from_millis(rng.below(60) + 1),
            store_delay: Duration::from_millis(rng.below(40) + 1),
        }
    }
}

/// Everything that the parts of a world share. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) scheduler: Scheduler,
    pub(crate) chronicle: Chronicle,
    pub(crate) weather: Arc<Weather>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    counts: BTreeMap<&'static str, u64>,
    /// Pairs that do not reach each other.
    apart: Vec<(Node, Node)>,
    /// Nothing goes wrong any more.
    calm: bool,
}

impl World {
    pub(crate) fn new(seed: u64, printed: bool) -> Self {
        let weather = Weather::random(&mut Rng::new(seed ^ 0x77EA_7432));
        Self {
            scheduler: Scheduler::new(seed, START, Trace::new(START, printed)),
            chronicle: Chronicle::default(),
            weather: Arc::new(weather),
            state: Arc::default(),
        }
    }

    /// Writes a deed down, and says so in the trace.
    pub(crate) fn tell(&self, deed: Deed) {
        self.scheduler.note(format_args!("{deed:?}"));
        self.chronicle.write(self.scheduler.now(), deed);
    }

    /// Whether something goes wrong now, which is counted where it does.
    pub(crate) fn strikes(&self, what: &'static str, per_mille: u32) -> bool {
        if self.is_calm() || !self.scheduler.draw(|rng| rng.chance(per_mille)) {
            return false;
        }
        self.count(what);
        true
    }

    pub(crate) fn count(&self, what: &'static str) {
        self.scheduler.note(format_args!("* {what}"));
        *self.lock().counts.entry(what).or_default() += 1;
    }

    pub(crate) fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.lock().counts.clone()
    }

    pub(crate) async fn pause(&self, most: Duration) {
        let pause = self.scheduler.draw(|rng| rng.delay(most));
        self.scheduler.sleep(pause).await;
    }

    pub(crate) fn part(&self, one: Node, other: Node) {
        self.lock().apart.push((one, other));
    }

    pub(crate) fn join(&self, one: Node, other: Node) {
        let mut state = self.lock();
        if let Some(at) = state.apart.iter().position(|pair| *pair == (one, other)) {
            state.apart.remove(at);
        }
    }

    pub(crate) fn is_apart(&self, one: Node, other: Node) -> bool {
        let state = self.lock();
        state.apart.iter().any(|pair| *pair == (one, other) || *pair == (other, one))
    }

    /// From now on nothing goes wrong, and what did is over.
    pub(crate) fn calm_down(&self) {
        let mut state = self.lock();
        state.calm = true;
        state.apart.clear();
        drop(state);
        self.scheduler.relent();
        self.scheduler.note(format_args!("* calm"));
    }

    pub(crate) fn is_calm(&self) -> bool {
        self.lock().calm
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
