//! The metrics that a scrape of `/metrics` finds. `docs/metrics.md` lists them, and a test holds it
//! to the table here.

use std::sync::OnceLock;
use std::time::Duration;

use hood_core::{Loss, State, Verdict};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

pub const QUEUE_DEPTH: &str = "fumehood_queue_depth";
pub const QUEUE_OLDEST_AGE: &str = "fumehood_queue_oldest_age_seconds";
pub const STORAGE_BYTES: &str = "fumehood_storage_bytes";
pub const SUBMISSIONS: &str = "fumehood_submissions_total";
pub const FINISHED: &str = "fumehood_evaluations_finished_total";
pub const EVALUATION_SECONDS: &str = "fumehood_evaluation_duration_seconds";
pub const ATTEMPTS: &str = "fumehood_attempts_total";
pub const ATTEMPTS_LOST: &str = "fumehood_attempts_lost_total";
pub const LEASES_HELD: &str = "fumehood_leases_held";
pub const HTTP_REQUESTS: &str = "fumehood_http_requests_total";
pub const HTTP_SECONDS: &str = "fumehood_http_request_duration_seconds";
pub const HTTP_STREAMS: &str = "fumehood_http_streams_open";
pub const WEBHOOKS: &str = "fumehood_webhook_tries_total";
pub const EVENT_DELIVERY: &str = "fumehood_event_delivery_seconds";

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

/// One metric as the documentation shows it.
#[derive(Clone, Copy, Debug)]
pub struct Description {
    pub name: &'static str,
    pub kind: Kind,
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

const fn metric(
    name: &'static str,
    kind: Kind,
    labels: &'static [&'static str],
    help: &'static str,
) -> Description {
    Description { name, kind, labels, help }
}

pub const ALL: [Description; 14] = [
    metric(QUEUE_DEPTH, Kind::Gauge, &["state", "priority"], "Evaluations that are not terminal."),
    metric(QUEUE_OLDEST_AGE, Kind::Gauge, &[], "Age of the oldest queued evaluation; 0 if none waits."),
    metric(STORAGE_BYTES, Kind::Gauge, &["what"], "Storage: `used`, `limit` and `reserve`."),
    metric(
        SUBMISSIONS,
        Kind::Counter,
        &["outcome"],
        "Evaluations submitted: `accepted`, `replayed`, `refused`.",
    ),
    metric(FINISHED, Kind::Counter, &["verdict"], "Evaluations that ended on this worker."),
    metric(EVALUATION_SECONDS, Kind::Histogram, &["verdict"], "From acceptance to the end."),
    metric(ATTEMPTS, Kind::Counter, &[], "Attempts begun by this worker."),
    metric(
        ATTEMPTS_LOST,
        Kind::Counter,
        &["kind"],
        "Attempts lost: `infrastructure`, `own_death`, `suspect`.",
    ),
    metric(LEASES_HELD, Kind::Gauge, &[], "Leases that this worker holds."),
    metric(HTTP_REQUESTS, Kind::Counter, &["method", "route", "status"], "Requests answered."),
    metric(
        HTTP_SECONDS,
        Kind::Histogram,
        &["method", "route"],
        "From a request's head to its answer's head.",
    ),
    metric(HTTP_STREAMS, Kind::Gauge, &["kind"], "Open long answers: `events`, `output`, `wait`."),
    metric(WEBHOOKS, Kind::Counter, &["outcome"], "Webhooks sent: `delivered`, `failed`, `dead`."),
    metric(EVENT_DELIVERY, Kind::Histogram, &[], "From an event's commit time to its way to a listener."),
];

/// Bounds for every histogram of seconds: from a query's time to the longest evaluation's.
const SECONDS: [f64; 18] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0, 600.0,
    3600.0,
];

/// How often what histograms have gathered is folded into their buckets where nobody scrapes.
pub const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// The process's metrics. One recorder serves the process, however many servers a test starts.
#[derive(Clone)]
pub struct Metrics(PrometheusHandle);

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    #[error("the metrics' buckets are not sound")]
    Buckets(#[source] BuildError),
    #[error("another recorder of metrics was installed before")]
    Installed,
}

static INSTALLED: OnceLock<Option<Metrics>> = OnceLock::new();

impl Metrics {
    /// Installs the recorder, or returns the one that this process has.
    pub fn install() -> Result<Self, MetricsError> {
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)
            .map_err(MetricsError::Buckets)?
            .build_recorder();
        let installed = INSTALLED.get_or_init(|| {
            let handle = recorder.handle();
            metrics::set_global_recorder(recorder).ok()?;
            ALL.iter().for_each(describe);
            Some(Self(handle))
        });
        installed.clone().ok_or(MetricsError::Installed)
    }

    /// The text that Prometheus reads.
    pub fn render(&self) -> String {
        self.0.render()
    }

    pub fn upkeep(&self) {
        self.0.run_upkeep();
    }
}

fn describe(metric: &Description) {
    match metric.kind {
        Kind::Counter => metrics::describe_counter!(metric.name, metric.help),
        Kind::Gauge => metrics::describe_gauge!(metric.name, metric.help),
        Kind::Histogram => metrics::describe_histogram!(metric.name, metric.help),
    }
}

/// An evaluation ended, `took` after it was accepted.
pub fn record_finished(verdict: Verdict, took: Duration) {
    metrics::counter!(FINISHED, "verdict" => verdict.as_str()).increment(1);
    metrics::histogram!(EVALUATION_SECONDS, "verdict" => verdict.as_str()).record(took.as_secs_f64());
}

/// A webhook was sent: `delivered`, `failed`, or `dead`.
pub fn record_delivery(outcome: &'static str) {
    metrics::counter!(WEBHOOKS, "outcome" => outcome).increment(1);
}

pub fn record_attempt() {
    metrics::counter!(ATTEMPTS).increment(1);
}

pub fn record_lost(loss: Loss) {
    metrics::counter!(ATTEMPTS_LOST, "kind" => loss.as_str()).increment(1);
}

/// What became of `count` submitted evaluations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubmissionOutcome {
    Accepted,
    Replayed,
    Refused,
}

pub fn record_submissions(outcome: SubmissionOutcome, count: usize) {
    let outcome = match outcome {
        SubmissionOutcome::Accepted => "accepted",
        SubmissionOutcome::Replayed => "replayed",
        SubmissionOutcome::Refused => "refused",
    };
    metrics::counter!(SUBMISSIONS, "outcome" => outcome).increment(count as u64);
}

/// Sets the depth of every state and priority, those that are empty included: a series that is not
/// set again would stand at its last value for ever.
pub fn set_queue(depth: &[(State, u8, u64)], priorities: u8, oldest_age: Duration) {
    for state in State::ALL.into_iter().filter(|state| !state.is_terminal()) {
        for priority in 0..=priorities {
            let found = depth.iter().find(|(s, p, _)| *s == state && *p == priority);
            let count = found.map_or(0, |(_, _, count)| *count);
            metrics::gauge!(QUEUE_DEPTH, "state" => state.as_str(), "priority" => priority.to_string())
                .set(count as f64);
        }
    }
    metrics::gauge!(QUEUE_OLDEST_AGE).set(oldest_age.as_secs_f64());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_lists_every_metric() {
        let page = include_str!("../../../../docs/metrics.md");
        for metric in ALL {
            let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
            let labels = labels.join(", ");
            let row =
                format!("| `{}` | {} | {labels} | {} |", metric.name, metric.kind.as_str(), metric.help);
            assert!(page.contains(&row), "docs/metrics.md lacks the line\n{row}");
        }
    }

    #[test]
    fn what_is_recorded_is_rendered() {
        let metrics = Metrics::install().expect("the only recorder");
        record_finished(Verdict::TimedOut, Duration::from_millis(300));
        record_lost(Loss::Suspect);
        set_queue(&[(State::Queued, 5, 3)], 9, Duration::from_secs(2));
        let text = metrics.render();
        for line in [
            r#"fumehood_evaluations_finished_total{verdict="timed_out"}"#,
            r#"fumehood_evaluation_duration_seconds_bucket{verdict="timed_out",le="0.5"}"#,
            r#"fumehood_attempts_lost_total{kind="suspect"}"#,
            r#"fumehood_queue_depth{state="queued",priority="5"} 3"#,
            r#"fumehood_queue_depth{state="running",priority="0"} 0"#,
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert!(Metrics::install().is_ok(), "a second server of the process shares it");
    }
}
