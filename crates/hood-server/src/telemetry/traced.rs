//! The dispatcher's part of a trace: the making of a place, and what the agent in it says of the run.
//! Nothing inside a sandbox exports anything.
//!
//! Whoever listens to a place may go, and another come: a worker listens in a call of its own, again
//! after each break, and so does the one that takes over. The spans are therefore the place's, and
//! whoever passes something of it on notes what it hears.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use hood_core::Observation;
use hood_core::outcome::WaitStatus;
use hood_dispatch::{AttemptKey, Catalogue, Dispatch, DispatchError, Link, LinkEnd, Order, ReportBody, link};

use super::metrics::record_place;
use super::traces::{Part, Trace};

/// Places whose spans are open at which it is looked for those that ended unheard.
const SWEEP_AT: usize = 1024;

/// A dispatch whose places are counted, and traced where somebody records.
#[derive(Debug)]
pub struct Traced<D> {
    inner: Arc<D>,
    open: Arc<Open>,
}

/// Places of which the last word was not heard yet.
#[derive(Debug, Default)]
struct Open(Mutex<HashMap<AttemptKey, Place>>);

#[derive(Debug)]
struct Place {
    span: Trace,
    /// From the program's release on.
    run: Option<Trace>,
}

impl<D: Dispatch + 'static> Traced<D> {
    pub fn new(inner: D) -> Self {
        Self { inner: Arc::new(inner), open: Arc::default() }
    }

    async fn open(&self, order: Order) -> Result<Link, DispatchError> {
        let began = Instant::now();
        let opened = self.inner.execute(order).await;
        record_place(opened.is_ok(), began.elapsed());
        opened
    }

    async fn open_traced(&self, order: Order, span: Trace, context: String) -> Result<Link, DispatchError> {
        let key = order.key;
        span.note("evaluation.id", key.evaluation.to_string());
        span.note("attempt", i64::from(key.attempt));
        span.note("environment", order.assignment.environment.clone());
        match self.open(Order { traceparent: Some(context), ..order }).await {
            Ok(link) => {
                self.open.begin(key, span);
                self.sweep();
                Ok(self.overhear(key, link))
            }
            Err(error) => {
                span.fail(error.to_string());
                Err(error)
            }
        }
    }

    /// The same link, and what is said on it noted.
    fn overhear(&self, key: AttemptKey, inner: Link) -> Link {
        if !self.open.has(key) {
            return inner;
        }
        let (outer, end) = link(0);
        let outer = match inner.executor() {
            Some(executor) => outer.of(executor.to_owned()),
            None => outer,
        };
        tokio::spawn(pass_on(inner, end, key, Arc::clone(&self.open)));
        outer
    }

    /// Ends the spans of places that are gone and had no listener at their end.
    fn sweep(&self) {
        let keys = self.open.keys();
        if keys.len() < SWEEP_AT {
            return;
        }
        let this = Self { inner: Arc::clone(&self.inner), open: Arc::clone(&self.open) };
        tokio::spawn(async move {
            for key in keys {
                // It ends the span itself where there is no place any more.
                let _ = this.holds(key).await;
            }
        });
    }
}

impl<D: Dispatch + 'static> Dispatch for Traced<D> {
    fn execute(&self, order: Order) -> BoxFuture<'_, Result<Link, DispatchError>> {
        let key = order.key;
        if self.open.has(key) {
            // The same attempt twice is one execution, and one span.
            return async move { Ok(self.overhear(key, self.inner.execute(order).await?)) }.boxed();
        }
        let span = Trace::begin("place", Part::Server, order.traceparent.as_deref());
        match span.traceparent() {
            Some(context) => self.open_traced(order, span, context).boxed(),
            None => self.open(order).boxed(),
        }
    }

    fn attach(&self, key: AttemptKey, token: u64, after: u64) -> BoxFuture<'_, Result<Link, DispatchError>> {
        async move {
            let attached = self.inner.attach(key, token, after).await;
            if matches!(attached, Err(DispatchError::Gone(_))) {
                self.open.lose(key);
            }
            Ok(self.overhear(key, attached?))
        }
        .boxed()
    }

    fn cancel(&self, key: AttemptKey, grace: Duration) {
        self.inner.cancel(key, grace);
    }

    fn holds(&self, key: AttemptKey) -> BoxFuture<'_, Result<bool, DispatchError>> {
        async move {
            let held = self.inner.holds(key).await?;
            if !held {
                self.open.lose(key);
            }
            Ok(held)
        }
        .boxed()
    }

    fn capacity(&self) -> Arc<Catalogue> {
        self.inner.capacity()
    }
}

impl Open {
    fn places(&self) -> MutexGuard<'_, HashMap<AttemptKey, Place>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has(&self, key: AttemptKey) -> bool {
        self.places().contains_key(&key)
    }

    fn keys(&self) -> Vec<AttemptKey> {
        self.places().keys().copied().collect()
    }

    fn begin(&self, key: AttemptKey, span: Trace) {
        self.places().insert(key, Place { span, run: None });
    }

    fn released(&self, key: AttemptKey) {
        if let Some(place) = self.places().get_mut(&key).filter(|place| place.run.is_none()) {
            let context = place.span.traceparent();
            place.run = Some(Trace::begin("agent.run", Part::Internal, context.as_deref()));
        }
    }

    fn heard(&self, key: AttemptKey, report: &ReportBody) {
        match report {
            ReportBody::Ready { environment_digest } => {
                if let Some(place) = self.places().get(&key) {
                    place.span.note("environment.digest", environment_digest.clone());
                }
            }
            ReportBody::Output { .. } => {}
            ReportBody::Ended(seen) => {
                if let Some(place) = self.places().remove(&key) {
                    ended(&place.span, place.run, seen);
                }
            }
        }
    }

    /// It is gone, and nobody heard how it ended.
    fn lose(&self, key: AttemptKey) {
        if let Some(place) = self.places().remove(&key) {
            place.span.fail("it ended unheard");
        }
    }
}

/// Passes reports up and acknowledgements down.
async fn pass_on(mut inner: Link, mut end: LinkEnd, key: AttemptKey, open: Arc<Open>) {
    loop {
        tokio::select! {
            biased;
            acknowledged = end.acknowledged.changed() => {
                if acknowledged.is_err() {
                    return;
                }
                let highest = *end.acknowledged.borrow_and_update();
                inner.acknowledge(highest);
                if highest > 0 {
                    open.released(key);
                }
            }
            report = inner.next() => {
                let Some(report) = report else { return };
                open.heard(key, &report.body);
                if end.reports.send(report).await.is_err() {
                    return;
                }
            }
        }
    }
}

fn ended(place: &Trace, run: Option<Trace>, seen: &Observation) {
    if let Some(lost) = &seen.lost {
        place.fail(lost.clone());
    }
    let Some(run) = run else { return };
    match seen.wait {
        Some(WaitStatus::Exited(code)) => run.note("exit_code", i64::from(code)),
        Some(WaitStatus::Signaled(signal)) => run.note("signal", i64::from(signal)),
        None => {}
    }
    for (key, value) in [("stdout.bytes", seen.stdout.written), ("stderr.bytes", seen.stderr.written)] {
        run.note(key, i64::try_from(value).unwrap_or(i64::MAX));
    }
}
