//! Figures that are looked at when somebody asks: gauges of `/metrics`, and what in `/health/detailed`
//! explains a state. Whoever has one registers how to look at it.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures::future::join_all;
use hood_store::{Backlog, DeliveryBacklog, Mishaps, Reach, Storage, Store, StoreError};
use metrics::gauge;
use serde_json::{Map, Value, json};

use crate::clock::Clock;
use crate::health::CHECK_TIMEOUT;
use crate::telemetry::metrics as names;

type Look = Box<dyn Fn() -> Pin<Box<dyn Future<Output = Figure> + Send>> + Send + Sync>;

/// Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Figures(Arc<RwLock<Vec<Arc<Look>>>>);

impl fmt::Debug for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Figures")
    }
}

/// What was seen. `None` where it could not be seen: then nobody is told what was so before.
pub(crate) enum Figure {
    Queue(Option<Queue>),
    Storage(Option<Storage>),
    Leases(u64),
    Dispatchers { answering: usize, away: usize },
    Places { live: usize, most: u32 },
    Bus { reach: Reach, mishaps: Mishaps },
    Deliveries(Option<Deliveries>),
}

pub(crate) struct Queue {
    depth: Vec<(hood_core::State, u8, u64)>,
    oldest: Vec<(u8, Duration)>,
}

pub(crate) struct Deliveries {
    pending: u64,
    overdue: Duration,
}

impl Figures {
    pub(crate) fn register<F, Fut>(&self, look: F)
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Figure> + Send + 'static,
    {
        let look: Look = Box::new(move || Box::pin(look()));
        self.0.write().unwrap_or_else(PoisonError::into_inner).push(Arc::new(look));
    }

    /// Looks at everything at once.
    async fn look(&self) -> Vec<Figure> {
        let looks = self.0.read().unwrap_or_else(PoisonError::into_inner).clone();
        join_all(looks.iter().map(|look| look())).await
    }

    /// Brings the gauges up to date.
    pub(crate) async fn measure(&self) {
        self.look().await.iter().for_each(Figure::show);
    }

    /// For people.
    pub(crate) async fn told(&self) -> Map<String, Value> {
        self.look().await.iter().filter_map(Figure::told).collect()
    }

    /// Every role that has a store hears the others, or does not.
    pub(crate) fn of_bus(&self, store: &Store) {
        let wake = store.wake().clone();
        self.register(move || {
            let (reach, mishaps) = (wake.reach(), wake.mishaps());
            async move { Figure::Bus { reach, mishaps } }
        });
    }

    pub(crate) fn of_queue(&self, store: &Store, clock: &Arc<dyn Clock>) {
        let (store, clock) = (store.clone(), Arc::clone(clock));
        self.register(move || {
            let (store, clock) = (store.clone(), Arc::clone(&clock));
            async move {
                let Some(backlog) = in_time(store.backlog()).await else { return Figure::Queue(None) };
                let Backlog { depth, oldest } = backlog;
                let now = clock.now();
                let oldest =
                    oldest.into_iter().map(|(priority, since)| (priority, now.since(since))).collect();
                Figure::Queue(Some(Queue { depth, oldest }))
            }
        });
    }

    pub(crate) fn of_storage(&self, store: &Store) {
        let store = store.clone();
        self.register(move || {
            let store = store.clone();
            async move { Figure::Storage(in_time(store.storage()).await) }
        });
    }

    pub(crate) fn of_deliveries(&self, store: &Store, clock: &Arc<dyn Clock>) {
        let (store, clock) = (store.clone(), Arc::clone(clock));
        self.register(move || {
            let (store, clock) = (store.clone(), Arc::clone(&clock));
            async move {
                let waiting = in_time(store.delivery_backlog()).await;
                Figure::Deliveries(waiting.map(|DeliveryBacklog { pending, due_at }| Deliveries {
                    pending,
                    overdue: due_at.map_or(Duration::ZERO, |due_at| clock.now().since(due_at)),
                }))
            }
        });
    }
}

/// Who asks is answered though the store is not.
async fn in_time<T>(look: impl Future<Output = Result<T, StoreError>>) -> Option<T> {
    tokio::time::timeout(CHECK_TIMEOUT, look).await.ok()?.ok()
}

/// Of what could not be seen.
const UNKNOWN: f64 = f64::NAN;

impl Figure {
    fn show(&self) {
        match self {
            Self::Queue(queue) => show_queue(queue.as_ref()),
            Self::Storage(seen) => {
                let bytes = |of: fn(&Storage) -> u64| seen.as_ref().map_or(UNKNOWN, |seen| of(seen) as f64);
                let used = bytes(|storage| storage.used_bytes);
                gauge!(names::STORAGE_BYTES, "what" => "used").set(used);
                gauge!(names::STORAGE_BYTES, "what" => "limit").set(bytes(|storage| storage.limit_bytes));
                gauge!(names::STORAGE_BYTES, "what" => "reserve").set(bytes(|storage| storage.reserve_bytes));
            }
            Self::Leases(held) => gauge!(names::LEASES_HELD).set(*held as f64),
            Self::Dispatchers { answering, away } => {
                gauge!(names::DISPATCHERS, "state" => "answering").set(*answering as f64);
                gauge!(names::DISPATCHERS, "state" => "away").set(*away as f64);
            }
            Self::Places { live, most } => {
                gauge!(names::PLACES, "what" => "live").set(*live as f64);
                gauge!(names::PLACES, "what" => "most").set(*most);
            }
            Self::Bus { reach, mishaps } => {
                let polling = matches!(reach, Reach::CutOff { .. });
                gauge!(names::BUS_POLLING).set(f64::from(u8::from(polling)));
                metrics::counter!(names::BUS_OUTAGES).absolute(mishaps.outages);
                metrics::counter!(names::BUS_GAPS).absolute(mishaps.gaps);
            }
            Self::Deliveries(seen) => {
                let of = |of: fn(&Deliveries) -> f64| seen.as_ref().map_or(UNKNOWN, of);
                gauge!(names::WEBHOOKS_PENDING).set(of(|seen| seen.pending as f64));
                gauge!(names::WEBHOOKS_OVERDUE).set(of(|seen| seen.overdue.as_secs_f64()));
            }
        }
    }

    fn told(&self) -> Option<(String, Value)> {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let (name, value) = match self {
            Self::Queue(seen) => {
                let queue = |Queue { depth, oldest }: &Queue| {
                    let depth = depth.iter().map(|(state, priority, count)| {
                        json!({ "state": state.as_str(), "priority": priority, "count": count })
                    });
                    let oldest = oldest
                        .iter()
                        .map(|(priority, age)| json!({ "priority": priority, "age_ms": millis(*age) }));
                    json!({ "depth": depth.collect::<Value>(), "oldest": oldest.collect::<Value>() })
                };
                ("queue", seen.as_ref().map_or(Value::Null, queue))
            }
            Self::Leases(held) => ("leases_held", json!(held)),
            Self::Dispatchers { answering, away } => {
                ("dispatchers", json!({ "answering": answering, "away": away }))
            }
            Self::Places { live, most } => ("places", json!({ "live": live, "most": most })),
            Self::Bus { mishaps, .. } => ("bus", json!({ "outages": mishaps.outages, "gaps": mishaps.gaps })),
            Self::Deliveries(seen) => {
                let told = |seen: &Deliveries| json!({ "pending": seen.pending, "overdue_ms": millis(seen.overdue) });
                ("deliveries", seen.as_ref().map_or(Value::Null, told))
            }
            Self::Storage(_) => return None,
        };
        Some((name.to_owned(), value))
    }
}

/// Each state and priority, those that are empty included: a series that is not set again would stand
/// at its last value for ever.
fn show_queue(queue: Option<&Queue>) {
    for (priority, label) in (0..).zip(names::PRIORITIES) {
        for state in names::STATES {
            let depth = queue.map_or(UNKNOWN, |queue| {
                let found = queue.depth.iter().find(|(s, p, _)| *s == state && *p == priority);
                found.map_or(0.0, |(_, _, count)| *count as f64)
            });
            gauge!(names::QUEUE_DEPTH, "state" => state.as_str(), "priority" => label).set(depth);
        }
        let age = queue.map_or(UNKNOWN, |queue| {
            let found = queue.oldest.iter().find(|(p, _)| *p == priority);
            found.map_or(0.0, |(_, age)| age.as_secs_f64())
        });
        gauge!(names::QUEUE_OLDEST_AGE, "priority" => label).set(age);
    }
}
