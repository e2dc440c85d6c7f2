//! The metrics that a scrape of `/metrics` finds.

mod table;

use std::sync::OnceLock;
use std::time::Duration;

use hood_core::{Loss, Timestamp, Transition, Verdict};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

pub use table::*;

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

    /// The same, with every series of that process there from the beginning: what never happened is
    /// a zero, not a gap.
    pub fn of(process: Process) -> Result<Self, MetricsError> {
        let metrics = Self::install()?;
        let ours = ALL.iter().filter(|metric| metric.of.contains(&process));
        ours.for_each(begin);
        let labels = [("version", env!("CARGO_PKG_VERSION")), ("role", process.as_str())];
        metrics::gauge!(INFO, &labels).set(1.0);
        Ok(metrics)
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

fn begin(metric: &Description) {
    for labels in metric.series() {
        match metric.kind {
            Kind::Counter => drop(metrics::counter!(metric.name, labels)),
            Kind::Gauge => drop(metrics::gauge!(metric.name, labels)),
            Kind::Histogram => drop(metrics::histogram!(metric.name, labels)),
        }
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

/// A webhook was sent, and answered or not.
pub fn record_send(took: Duration) {
    metrics::histogram!(WEBHOOK_SECONDS).record(took.as_secs_f64());
}

/// Transitions are durable, and whoever follows is told to look.
pub fn record_committed(transitions: &[Transition], now: Timestamp) {
    for transition in transitions {
        metrics::histogram!(EVENT_COMMIT).record(now.since(transition.event().at).as_secs_f64());
    }
}

/// Went back to the queue after a loss.
pub fn record_retry() {
    metrics::counter!(RETRIES).increment(1);
}

pub fn record_taken_over() {
    metrics::counter!(LEASES_TAKEN_OVER).increment(1);
}

pub fn record_lease_lost() {
    metrics::counter!(LEASES_LOST).increment(1);
}

/// A place was asked for, and is there after so long, or is not.
pub fn record_place(opened: bool, took: Duration) {
    let outcome = if opened { "opened" } else { "failed" };
    metrics::counter!(PLACES_OPENED, "outcome" => outcome).increment(1);
    if opened {
        metrics::histogram!(PLACE_OPEN_SECONDS).record(took.as_secs_f64());
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_recorded_is_rendered_and_what_never_was_is_zero() {
        let metrics = Metrics::of(Process::Serve).expect("the only recorder");
        record_finished(Verdict::TimedOut, Duration::from_millis(300));
        let text = metrics.render();
        for line in [
            r#"fumehood_evaluations_finished_total{verdict="timed_out"} 1"#,
            r#"fumehood_evaluation_duration_seconds_bucket{verdict="timed_out",le="0.5"} 1"#,
            r#"fumehood_attempts_lost_total{kind="suspect"} 0"#,
            r#"fumehood_queue_depth{state="running",priority="0"} 0"#,
            r#"fumehood_event_commit_seconds_count 0"#,
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert!(Metrics::install().is_ok(), "a second server of the process shares it");
    }
}
