//! What every way to run something looks like from the worker's side.
//!
//! A value goes forward ([`Order`]), a numbered stream comes back ([`Report`]). The worker
//! acknowledges a report once it is durable; the place keeps it until then. The first report says
//! that the place is ready, and its acknowledgement releases the program: no instruction of the
//! program runs before the record says `running`.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use hood_core::outcome::Stream;
use hood_core::{Assignment, EvaluationId, Observation, Program};
use tokio::sync::{mpsc, watch};

use crate::catalogue::Catalogue;

/// Reports on their way to the worker. Small: what does not fit waits in the agent, which has room
/// for all of it.
const REPORTS_IN_FLIGHT: usize = 16;

/// One attempt of one evaluation: the name of its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AttemptKey {
    pub evaluation: EvaluationId,
    pub attempt: u32,
}

impl fmt::Display for AttemptKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.evaluation, self.attempt)
    }
}

/// How the program is to be treated at its end, beside its limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conduct {
    /// Between SIGTERM and the kill.
    pub grace: Duration,
    /// Past `output_bytes` the program is ended; otherwise the rest is dropped.
    pub fail_on_output_limit: bool,
}

/// Everything a place needs. Code and files arrive here and nowhere else.
#[derive(Clone, Debug)]
pub struct Order {
    pub key: AttemptKey,
    /// The lease's token. A place obeys the highest that it has seen.
    pub token: u64,
    pub assignment: Assignment,
    pub program: Program,
    pub conduct: Conduct,
    /// W3C trace context of whoever gives the order.
    pub traceparent: Option<String>,
}

/// What a place says, numbered from 1 without gaps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub number: u64,
    pub body: ReportBody,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReportBody {
    /// Inputs are written and limits set. The acknowledgement of this releases the program.
    Ready {
        environment_digest: String,
    },
    Output {
        stream: Stream,
        offset: u64,
        bytes: Vec<u8>,
    },
    /// Terminal.
    Ended(Box<Observation>),
}

#[derive(Debug, thiserror::Error)]
pub enum DispatchError {
    /// The environment cannot be had, and trying again will not change that.
    #[error("environment `{name}`: {reason}")]
    Environment { name: String, reason: String },
    #[error("cannot make a place: {0}")]
    Place(String),
    /// It asks for more than a place of this executor may be given. Whoever decided that it fits knew
    /// of another bound: deciding again with what is offered now ends it, or finds another executor.
    #[error("the order does not fit: {0}")]
    TooLarge(String),
    /// No place of this attempt is here, and none will be: it is proven dead.
    #[error("no place of {0} is here")]
    Gone(AttemptKey),
    /// Somebody with a higher token holds this place.
    #[error("{0} obeys a higher token")]
    Stale(AttemptKey),
}

/// A way to run evaluations.
pub trait Dispatch: Send + Sync + fmt::Debug {
    /// Makes a place and runs the order there. The same attempt twice is one execution: the second
    /// call attaches to the first's place.
    fn execute(&self, order: Order) -> BoxFuture<'_, Result<Link, DispatchError>>;

    /// Goes on listening to a place that exists, from the first report after `after`.
    fn attach(&self, key: AttemptKey, token: u64, after: u64) -> BoxFuture<'_, Result<Link, DispatchError>>;

    /// SIGTERM now, the kill after `grace`; zero kills at once. Of a place that is gone or that has
    /// ended: nothing.
    fn cancel(&self, key: AttemptKey, grace: Duration);

    /// Whether a place of the attempt is here, or is being made. `false` is proof that it is dead or
    /// never was; where that cannot be found out, it is an error.
    fn holds(&self, key: AttemptKey) -> BoxFuture<'_, Result<bool, DispatchError>>;

    /// What the places offer, as last proven. Cheap: it is asked before every decision.
    fn capacity(&self) -> Arc<Catalogue>;
}

/// The worker's end of a place's stream.
#[derive(Debug)]
pub struct Link {
    executor: Option<String>,
    reports: mpsc::Receiver<Report>,
    acknowledged: watch::Sender<u64>,
}

impl Link {
    /// The next report; `None` once the place has nothing more to say, which without a terminal
    /// report before it means that the place was lost.
    pub async fn next(&mut self) -> Option<Report> {
        self.reports.recv().await
    }

    /// One that is there already.
    pub fn try_next(&mut self) -> Option<Report> {
        self.reports.try_recv().ok()
    }

    /// Names who has the place.
    #[must_use]
    pub fn of(self, executor: String) -> Self {
        Self { executor: Some(executor), ..self }
    }

    /// Who has the place, where there is more than one who could.
    pub fn executor(&self) -> Option<&str> {
        self.executor.as_deref()
    }

    /// Everything up to `number` is durable.
    pub fn acknowledge(&self, number: u64) {
        self.acknowledged.send_if_modified(|highest| {
            let higher = number > *highest;
            *highest = (*highest).max(number);
            higher
        });
    }
}

/// The place's end.
#[derive(Debug)]
pub struct LinkEnd {
    pub reports: mpsc::Sender<Report>,
    pub acknowledged: watch::Receiver<u64>,
}

/// Both ends of a new link on which everything up to `after` is acknowledged.
pub fn link(after: u64) -> (Link, LinkEnd) {
    let (report_sender, report_receiver) = mpsc::channel(REPORTS_IN_FLIGHT);
    let (ack_sender, ack_receiver) = watch::channel(after);
    (
        Link { executor: None, reports: report_receiver, acknowledged: ack_sender },
        LinkEnd { reports: report_sender, acknowledged: ack_receiver },
    )
}
