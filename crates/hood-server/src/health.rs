//! Whether each thing that a role needs is there. Whoever needs a thing registers how to look at
//! it; a look is bounded in time, shared by all who ask at once, and its result kept for a while,
//! so that probing cannot become load.

mod pulse;
mod vitals;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use futures::future::join_all;
use hood_wire::api;
use tokio::sync::Mutex;

use crate::figures::{Figure, Figures};

pub use pulse::Pulse;
pub use vitals::Vitals;

/// A store that cannot write within this time cannot serve either.
pub const CHECK_TIMEOUT: Duration = Duration::from_secs(2);

/// Probes come every few seconds from each of several orchestrators; one look serves them all.
pub const CACHE_FOR: Duration = Duration::from_secs(2);

type Look = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// What is wrong, in words that say what to do.
type Check = Box<dyn Fn() -> Look + Send + Sync>;

/// The checks of this process. Cheap to clone.
#[derive(Clone)]
pub struct Health(Arc<Inner>);

struct Inner {
    timeout: Duration,
    cache_for: Duration,
    entries: RwLock<Vec<Arc<Entry>>>,
    vitals: Arc<Vitals>,
    figures: Figures,
}

struct Entry {
    name: &'static str,
    /// What it means where the look finds something wrong.
    otherwise: api::CheckState,
    check: Check,
    last: Mutex<Option<Looked>>,
}

#[derive(Clone)]
struct Looked {
    at: Instant,
    took: Duration,
    result: Result<(), String>,
    last_ok: Option<Instant>,
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.entries().iter().map(|entry| entry.name)).finish()
    }
}

impl Default for Health {
    fn default() -> Self {
        Self::new(CHECK_TIMEOUT, CACHE_FOR)
    }
}

impl Health {
    pub fn new(timeout: Duration, cache_for: Duration) -> Self {
        let (vitals, figures) = (Arc::new(Vitals::default()), Figures::default());
        Self(Arc::new(Inner { timeout, cache_for, entries: RwLock::default(), vitals, figures }))
    }

    /// Adds a check; a second one of the same name takes the first one's place. An `Err` says what
    /// is wrong and what to do about it.
    pub fn register<F, Fut>(&self, name: &'static str, check: F)
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), String>> + Send + 'static,
    {
        self.add(name, api::CheckState::Failed, Box::new(move || Box::pin(check())));
    }

    /// Adds a check of something that can be done without: an `Err` of it is told, and makes nobody
    /// send their requests elsewhere.
    pub fn register_spare<F, Fut>(&self, name: &'static str, check: F)
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), String>> + Send + 'static,
    {
        self.add(name, api::CheckState::Degraded, Box::new(move || Box::pin(check())));
    }

    /// Adds the check of a loop, under its own name.
    pub fn register_pulse(&self, pulse: Pulse) {
        self.register(pulse.name(), move || {
            let pulse = pulse.clone();
            async move { pulse.check() }
        });
    }

    fn add(&self, name: &'static str, otherwise: api::CheckState, check: Check) {
        let entry = Arc::new(Entry { name, otherwise, check, last: Mutex::default() });
        let mut entries = self.0.entries.write().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|known| known.name != name);
        entries.push(entry);
    }

    /// What the worker of this process reports of itself.
    pub fn vitals(&self) -> &Vitals {
        &self.0.vitals
    }

    /// This process has a worker: how much that holds is told.
    pub(crate) fn tell_leases(&self) {
        let vitals = Arc::clone(&self.0.vitals);
        self.figures().register(move || {
            let held = vitals.leases_held();
            async move { Figure::Leases(held) }
        });
    }

    /// What explains how it is.
    pub(crate) fn figures(&self) -> &Figures {
        &self.0.figures
    }

    /// Looks at everything whose last look is too old, all at once, each within the timeout.
    pub async fn check(&self) -> api::Health {
        let entries = self.entries();
        let checks = join_all(entries.iter().map(|entry| self.look(entry))).await;
        let any = |state| checks.iter().any(|check| check.status == state).then_some(state);
        let worst = any(api::CheckState::Failed).or_else(|| any(api::CheckState::Degraded));
        let status = worst.unwrap_or(api::CheckState::Ok);
        api::Health { status, checks }
    }

    fn entries(&self) -> Vec<Arc<Entry>> {
        self.0.entries.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn look(&self, entry: &Entry) -> api::Check {
        // Held while looking: whoever asks meanwhile gets the same look's result.
        let mut last = entry.last.lock().await;
        let looked = match &*last {
            Some(looked) if looked.at.elapsed() < self.0.cache_for => looked.clone(),
            _ => {
                let began = Instant::now();
                let result = match tokio::time::timeout(self.0.timeout, (entry.check)()).await {
                    Ok(result) => result,
                    Err(_) => Err(format!("no answer within {} ms", self.0.timeout.as_millis())),
                };
                let at = Instant::now();
                let before = last.as_ref().and_then(|looked| looked.last_ok);
                let last_ok = if result.is_ok() { Some(at) } else { before };
                let looked = Looked { at, took: at - began, result, last_ok };
                *last = Some(looked.clone());
                looked
            }
        };
        shown(entry, looked)
    }
}

fn shown(entry: &Entry, looked: Looked) -> api::Check {
    let age = |at: Instant| u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX);
    let (status, detail) = match looked.result {
        Ok(()) => (api::CheckState::Ok, String::new()),
        Err(detail) => (entry.otherwise, detail),
    };
    api::Check {
        name: entry.name.to_owned(),
        status,
        detail,
        age_ms: age(looked.at),
        took_ms: looked.took.as_micros() as f64 / 1e3,
        last_ok_age_ms: looked.last_ok.map(age),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    fn counting(health: &Health, result: Result<(), String>) -> Arc<AtomicU32> {
        let looks = Arc::new(AtomicU32::new(0));
        let counter = looks.clone();
        health.register("thing", move || {
            counter.fetch_add(1, Ordering::SeqCst);
            let result = result.clone();
            async move { result }
        });
        looks
    }

    #[tokio::test]
    async fn one_look_serves_all_who_ask_while_it_is_fresh() {
        let health = Health::new(CHECK_TIMEOUT, Duration::from_secs(3600));
        let looks = counting(&health, Ok(()));
        let answers = join_all((0..50).map(|_| health.check())).await;
        assert!(answers.iter().all(|answer| answer.status == api::CheckState::Ok));
        assert_eq!(looks.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_stale_look_is_looked_again_and_a_failure_says_what_is_wrong() {
        let health = Health::new(CHECK_TIMEOUT, Duration::ZERO);
        let looks = counting(&health, Err("the disk is full: free some".to_owned()));
        health.register("other", || async { Ok(()) });
        health.check().await;
        let answer = health.check().await;
        assert_eq!(looks.load(Ordering::SeqCst), 2);
        assert_eq!(answer.status, api::CheckState::Failed);
        assert_eq!(answer.checks[0].detail, "the disk is full: free some");
        assert_eq!(answer.checks[1].status, api::CheckState::Ok);
    }

    #[tokio::test]
    async fn what_can_be_done_without_degrades_and_fails_nothing() {
        let health = Health::new(CHECK_TIMEOUT, Duration::ZERO);
        health.register("store", || async { Ok(()) });
        health.register_spare("bus", || async { Err("it is away".to_owned()) });
        let answer = health.check().await;
        assert_eq!(answer.status, api::CheckState::Degraded);
        assert_eq!(answer.checks[1].status, api::CheckState::Degraded);
        health.register("store", || async { Err("it is away".to_owned()) });
        assert_eq!(health.check().await.status, api::CheckState::Failed);
    }

    #[tokio::test]
    async fn a_check_that_hangs_fails_and_does_not_hold_the_answer_up() {
        let health = Health::new(Duration::from_millis(5), Duration::ZERO);
        health.register("stuck", std::future::pending::<Result<(), String>>);
        let answer = health.check().await;
        assert_eq!(answer.checks[0].detail, "no answer within 5 ms");
        assert_eq!(answer.checks[0].last_ok_age_ms, None);
    }
}
