//! Every metric, with who serves it. `docs/metrics.md` lists them; a test reads that page, asks a process
//! of each role, and holds the two together.

use hood_core::{State, Verdict};
use metrics::Label;

use Kind::{Counter, Gauge, Histogram};
use Process::{Api, Dispatcher, Notifier, Serve, Worker};

pub const INFO: &str = "fumehood_info";
pub const QUEUE_DEPTH: &str = "fumehood_queue_depth";
pub const QUEUE_OLDEST_AGE: &str = "fumehood_queue_oldest_age_seconds";
pub const STORAGE_BYTES: &str = "fumehood_storage_bytes";
pub const SUBMISSIONS: &str = "fumehood_submissions_total";
pub const FINISHED: &str = "fumehood_evaluations_finished_total";
pub const EVALUATION_SECONDS: &str = "fumehood_evaluation_duration_seconds";
pub const ATTEMPTS: &str = "fumehood_attempts_total";
pub const ATTEMPTS_LOST: &str = "fumehood_attempts_lost_total";
pub const RETRIES: &str = "fumehood_retries_total";
pub const LEASES_HELD: &str = "fumehood_leases_held";
pub const LEASES_TAKEN_OVER: &str = "fumehood_leases_taken_over_total";
pub const LEASES_LOST: &str = "fumehood_leases_lost_total";
pub const DISPATCHERS: &str = "fumehood_dispatchers";
pub const PLACES: &str = "fumehood_places";
pub const PLACES_OPENED: &str = "fumehood_places_opened_total";
pub const PLACE_OPEN_SECONDS: &str = "fumehood_place_open_duration_seconds";
pub const HTTP_REQUESTS: &str = "fumehood_http_requests_total";
pub const HTTP_SECONDS: &str = "fumehood_http_request_duration_seconds";
pub const HTTP_STREAMS: &str = "fumehood_http_streams_open";
pub const EVENT_COMMIT: &str = "fumehood_event_commit_seconds";
pub const EVENT_DELIVERY: &str = "fumehood_event_delivery_seconds";
pub const BUS_POLLING: &str = "fumehood_bus_polling";
pub const BUS_OUTAGES: &str = "fumehood_bus_outages_total";
pub const BUS_GAPS: &str = "fumehood_bus_gaps_total";
pub const WEBHOOKS: &str = "fumehood_webhook_tries_total";
pub const WEBHOOK_SECONDS: &str = "fumehood_webhook_duration_seconds";
pub const WEBHOOKS_PENDING: &str = "fumehood_webhooks_pending";
pub const WEBHOOKS_OVERDUE: &str = "fumehood_webhooks_overdue_seconds";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// What a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Process {
    Api,
    Worker,
    Dispatcher,
    Notifier,
    /// All of them in one.
    Serve,
}

impl Process {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Worker => "worker",
            Self::Dispatcher => "dispatcher",
            Self::Notifier => "notifier",
            Self::Serve => "serve",
        }
    }
}

/// What a label may say: nothing that a stranger chooses.
#[derive(Clone, Copy, Debug)]
pub enum Values {
    These(&'static [&'static str]),
    Verdicts,
    /// Those that are not terminal.
    States,
    /// One of a few, known once something was counted: a route, its method, its status.
    AsTheyCome,
}

/// One metric as the documentation shows it.
#[derive(Clone, Copy, Debug)]
pub struct Description {
    pub name: &'static str,
    pub kind: Kind,
    pub labels: &'static [(&'static str, Values)],
    pub of: &'static [Process],
    pub help: &'static str,
}

impl Description {
    /// The labels of each series that is known beforehand.
    pub(super) fn series(&self) -> Vec<Vec<Label>> {
        let mut all = vec![Vec::new()];
        for (name, values) in self.labels {
            let values = values.known();
            let with = |labels: &Vec<Label>, value| {
                labels.iter().cloned().chain([Label::from_static_parts(name, value)]).collect()
            };
            all = all.iter().flat_map(|labels| values.iter().map(|value| with(labels, value))).collect();
        }
        all
    }
}

impl Values {
    fn known(self) -> Vec<&'static str> {
        match self {
            Self::These(values) => values.to_vec(),
            Self::Verdicts => Verdict::ALL.iter().map(|verdict| verdict.as_str()).collect(),
            Self::States => STATES.iter().map(|state| state.as_str()).collect(),
            Self::AsTheyCome => Vec::new(),
        }
    }
}

pub const STATES: [State; 3] = [State::Queued, State::Provisioning, State::Running];

/// Classes of the queue: every priority that can be asked for.
pub const PRIORITIES: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
const PRIORITY: (&str, Values) = ("priority", Values::These(&PRIORITIES));

const EACH: &[Process] = &[Api, Worker, Dispatcher, Notifier, Serve];
const WITH_STORE: &[Process] = &[Api, Worker, Notifier, Serve];
const QUEUE: &[Process] = &[Api, Worker, Serve];
const API: &[Process] = &[Api, Serve];
const WORKER: &[Process] = &[Worker, Serve];
const DISPATCHER: &[Process] = &[Dispatcher, Serve];
const NOTIFIER: &[Process] = &[Notifier, Serve];

const fn metric(name: &'static str, kind: Kind, of: &'static [Process], help: &'static str) -> Description {
    Description { name, kind, labels: &[], of, help }
}

impl Description {
    const fn by(self, labels: &'static [(&'static str, Values)]) -> Self {
        Self { labels, ..self }
    }
}

pub const ALL: [Description; 29] = [
    metric(INFO, Gauge, EACH, "Always 1: which version this is, and which role it plays.")
        .by(&[("version", Values::AsTheyCome), ("role", Values::AsTheyCome)]),
    metric(QUEUE_DEPTH, Gauge, QUEUE, "Evaluations that are not terminal.")
        .by(&[("state", Values::States), PRIORITY]),
    metric(
        QUEUE_OLDEST_AGE,
        Gauge,
        QUEUE,
        "For how long the oldest of the 32 that are next in line has waited since it was queued; 0 if none waits.",
    )
    .by(&[PRIORITY]),
    metric(STORAGE_BYTES, Gauge, API, "Storage: `used`, `limit` and `reserve`.")
        .by(&[("what", Values::These(&["used", "limit", "reserve"]))]),
    metric(SUBMISSIONS, Counter, API, "Evaluations submitted: `accepted`, `replayed`, `refused`.")
        .by(&[("outcome", Values::These(&["accepted", "replayed", "refused"]))]),
    metric(HTTP_REQUESTS, Counter, API, "Requests answered.").by(&[
        ("method", Values::AsTheyCome),
        ("route", Values::AsTheyCome),
        ("status", Values::AsTheyCome),
    ]),
    metric(HTTP_SECONDS, Histogram, API, "From a request's head to its answer's head.")
        .by(&[("method", Values::AsTheyCome), ("route", Values::AsTheyCome)]),
    metric(HTTP_STREAMS, Gauge, API, "Open long answers: `events`, `output`, `wait`.")
        .by(&[("kind", Values::These(&["events", "output", "wait"]))]),
    metric(EVENT_DELIVERY, Histogram, API, "From a transition to its event's way to a listener."),
    metric(EVENT_COMMIT, Histogram, WORKER, "From a transition to its event being durable and hinted at."),
    metric(FINISHED, Counter, WORKER, "Evaluations that ended on this worker.")
        .by(&[("verdict", Values::Verdicts)]),
    metric(EVALUATION_SECONDS, Histogram, WORKER, "From acceptance to the end.")
        .by(&[("verdict", Values::Verdicts)]),
    metric(ATTEMPTS, Counter, WORKER, "Attempts begun by this worker."),
    metric(ATTEMPTS_LOST, Counter, WORKER, "Attempts lost: `infrastructure`, `own_death`, `suspect`.")
        .by(&[("kind", Values::These(&["infrastructure", "own_death", "suspect"]))]),
    metric(RETRIES, Counter, WORKER, "Evaluations that went back to the queue after a loss."),
    metric(LEASES_HELD, Gauge, WORKER, "Leases that this worker holds."),
    metric(LEASES_TAKEN_OVER, Counter, WORKER, "Leases of others that had lapsed and that this worker took."),
    metric(LEASES_LOST, Counter, WORKER, "Leases of this worker that another one took."),
    metric(DISPATCHERS, Gauge, &[Worker], "Dispatchers of this worker: `answering` or `away`.")
        .by(&[("state", Values::These(&["answering", "away"]))]),
    metric(PLACES, Gauge, DISPATCHER, "Places: `live` ones, and the `most` there may be at once.")
        .by(&[("what", Values::These(&["live", "most"]))]),
    metric(PLACES_OPENED, Counter, DISPATCHER, "Places asked for: `opened`, `failed`.")
        .by(&[("outcome", Values::These(&["opened", "failed"]))]),
    metric(PLACE_OPEN_SECONDS, Histogram, DISPATCHER, "From an order to its place."),
    metric(
        BUS_POLLING,
        Gauge,
        WITH_STORE,
        "1 while other processes are heard by polling alone, since Redis is away.",
    ),
    metric(BUS_OUTAGES, Counter, WITH_STORE, "Times that Redis could not be reached any more."),
    metric(
        BUS_GAPS,
        Counter,
        WITH_STORE,
        "Times that hints were missing and everything was looked at instead.",
    ),
    metric(WEBHOOKS, Counter, NOTIFIER, "Webhooks sent: `delivered`, `failed` (tried again), `dead`.")
        .by(&[("outcome", Values::These(&["delivered", "failed", "dead"]))]),
    metric(WEBHOOK_SECONDS, Histogram, NOTIFIER, "From the beginning of a try to its outcome."),
    metric(WEBHOOKS_PENDING, Gauge, NOTIFIER, "Webhooks still to be delivered, counted up to 10000."),
    metric(WEBHOOKS_OVERDUE, Gauge, NOTIFIER, "For how long the one that is due the longest has been."),
];
