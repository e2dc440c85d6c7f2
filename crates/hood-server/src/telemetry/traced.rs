//! The dispatcher's part of a trace: the making of a place, and what the agent in it says of the run.
//! Nothing inside a sandbox exports anything.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use hood_core::Observation;
use hood_core::outcome::WaitStatus;
use hood_dispatch::{AttemptKey, Catalogue, Dispatch, DispatchError, Link, LinkEnd, Order, ReportBody, link};

use super::traces::{Part, Trace};

/// A dispatch whose places are traced.
#[derive(Debug)]
pub struct Traced<D>(pub D);

impl<D: Dispatch> Dispatch for Traced<D> {
    fn execute(&self, order: Order) -> BoxFuture<'_, Result<Link, DispatchError>> {
        let trace = Trace::begin("place", Part::Server, order.traceparent.as_deref());
        let Some(context) = trace.traceparent() else { return self.0.execute(order) };
        trace.note("evaluation.id", order.key.evaluation.to_string());
        trace.note("attempt", i64::from(order.key.attempt));
        trace.note("environment", order.assignment.environment.clone());
        let order = Order { traceparent: Some(context.clone()), ..order };
        async move {
            match self.0.execute(order).await {
                Ok(inner) => {
                    let (outer, end) = link(0);
                    tokio::spawn(pass_on(inner, end, trace, context));
                    Ok(outer)
                }
                Err(error) => {
                    trace.fail(error.to_string());
                    Err(error)
                }
            }
        }
        .boxed()
    }

    fn attach(&self, key: AttemptKey, token: u64, after: u64) -> BoxFuture<'_, Result<Link, DispatchError>> {
        self.0.attach(key, token, after)
    }

    fn cancel(&self, key: AttemptKey, grace: Duration) {
        self.0.cancel(key, grace);
    }

    fn holds(&self, key: AttemptKey) -> BoxFuture<'_, Result<bool, DispatchError>> {
        self.0.holds(key)
    }

    fn capacity(&self) -> Arc<Catalogue> {
        self.0.capacity()
    }
}

/// Passes reports up and acknowledgements down. The span of the run is the time from the program's
/// release to the place's last word.
async fn pass_on(mut inner: Link, mut end: LinkEnd, place: Trace, context: String) {
    let mut run = None;
    loop {
        tokio::select! {
            biased;
            acknowledged = end.acknowledged.changed() => {
                if acknowledged.is_err() {
                    return;
                }
                let highest = *end.acknowledged.borrow_and_update();
                inner.acknowledge(highest);
                if run.is_none() && highest > 0 {
                    run = Some(Trace::begin("agent.run", Part::Internal, Some(&context)));
                }
            }
            report = inner.next() => {
                let Some(report) = report else { return };
                match &report.body {
                    ReportBody::Ready { environment_digest } => {
                        place.note("environment.digest", environment_digest.clone());
                    }
                    ReportBody::Output { .. } => {}
                    ReportBody::Ended(seen) => ended(&place, run.take(), seen),
                }
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
