//! A record of the store as the API shows it.

use std::collections::BTreeMap;

use hood_core::{State, Timestamp};
use hood_store::{AttemptRecord, BatchRecord, Record, RecordSummary};
use hood_wire::api;
use serde::{Deserialize, Serialize};

use super::{ResultDocument, StreamDocument, rfc3339, state_to_wire, verdict_to_wire};

/// A document in the store that this binary cannot read: written by a newer one, or damaged.
#[derive(Debug, thiserror::Error)]
#[error("the stored {what} of {id} cannot be read")]
pub struct ViewError {
    pub(super) what: &'static str,
    pub(super) id: String,
    #[source]
    pub(super) source: serde_json::Error,
}

/// The little of an accepted document that the resource shows: code and files, which may be
/// megabytes, are skipped and not copied. Of a document that is kept as a blob it is what the database
/// has in its place: no [`super::AcceptedDocument`] can be read from it, so that nobody who does not
/// know of blobs takes it for a program without code.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AcceptedSummary {
    pub submission: RiskOnly,
    pub limits: api::Limits,
    pub grace_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<api::Limits>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RiskOnly {
    #[serde(default)]
    pub risk_level: api::RiskLevel,
}

/// The beginning of a stream as the store has it, made safe to show.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamHead {
    pub text: String,
    /// Stored bytes beyond those that `text` was made of.
    pub shortened: bool,
    pub stored: u64,
    /// The storage was full: what came after was not kept.
    pub cut: bool,
}

/// The beginnings of everything that an attempt wrote.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heads {
    pub stdout: StreamHead,
    pub stderr: StreamHead,
    pub build: StreamHead,
}

/// The whole resource. What was written is read from the store apart from the record.
pub fn evaluation_view(record: &Record, heads: Heads) -> Result<api::Evaluation, ViewError> {
    let Heads { stdout, stderr, build } = heads;
    let unreadable = |what, id: String| move |source: serde_json::Error| ViewError { what, id, source };
    let id = record.id.to_string();
    let accepted: AcceptedSummary =
        serde_json::from_str(&record.request).map_err(unreadable("submission", id.clone()))?;
    let result: Option<ResultDocument> = record
        .result
        .as_deref()
        .map(serde_json::from_str)
        .transpose()
        .map_err(unreadable("result", id.clone()))?;
    let attempts = record.attempts.iter().map(attempt_view).collect::<Result<_, _>>();
    let stream =
        |head: StreamHead, of: fn(&ResultDocument) -> StreamDocument| preview(head, result.as_ref().map(of));
    Ok(api::Evaluation {
        state: state_to_wire(record.state),
        verdict: record.verdict.map(verdict_to_wire),
        exit_code: result.as_ref().and_then(|result| result.exit_code),
        signal: result.as_ref().and_then(|result| result.signal),
        build: accepted.build.map(|limits| build_view(result.as_ref(), limits, build)),
        stdout: stream(stdout, |result| result.stdout),
        stderr: stream(stderr, |result| result.stderr),
        environment: api::EnvironmentRef {
            name: record.environment.clone(),
            digest: record.environment_digest.clone(),
        },
        limits: result.as_ref().and_then(|result| result.limits).unwrap_or(accepted.limits),
        risk_level: accepted.submission.risk_level,
        grace_ms: accepted.grace_ms,
        priority: record.priority,
        usage: result.as_ref().map(|result| result.usage.clone()).unwrap_or_default(),
        evidence: result.map(|result| result.evidence),
        timings: timings(record),
        attempts: attempts.map_err(unreadable("attempts", id.clone()))?,
        labels: record.labels.clone(),
        batch: record.batch.map(|batch| batch.to_string()),
        cancel_requested: record.cancel_requested.is_some(),
        created_at: rfc3339(record.created_at),
        leased_at: record.leased_at.map(rfc3339),
        started_at: record.started_at.map(rfc3339),
        finished_at: record.finished_at.map(rfc3339),
        archived: record.archived,
        id,
    })
}

fn build_view(result: Option<&ResultDocument>, limits: api::Limits, head: StreamHead) -> api::BuildReport {
    let Some(result) = result else {
        let output = preview(head, None);
        let (verdict, exit_code, signal, evidence) = (None, None, None, None);
        let usage = api::Usage::default();
        return api::BuildReport { verdict, exit_code, signal, evidence, output, limits, usage };
    };
    match &result.build {
        Some(build) => api::BuildReport {
            verdict: build.verdict,
            exit_code: build.exit_code,
            signal: build.signal,
            evidence: Some(build.evidence.clone()),
            output: preview(head, Some(build.output)),
            limits: build.limits,
            usage: build.usage.clone(),
        },
        // It ended before anything was built.
        None => api::BuildReport {
            verdict: None,
            exit_code: None,
            signal: None,
            evidence: None,
            output: preview(head, Some(StreamDocument { bytes: 0, complete: true })),
            limits,
            usage: api::Usage::default(),
        },
    }
}

fn preview(head: StreamHead, end: Option<StreamDocument>) -> api::Preview {
    // Until the end is known, what was written is what was stored, and more may come.
    let end = end.unwrap_or(StreamDocument { bytes: head.stored, complete: false });
    api::Preview {
        preview: head.text,
        preview_truncated: head.shortened,
        // A lost attempt's output is there, though the end that was found later counts none of it.
        bytes: end.bytes.max(head.stored),
        kept_bytes: head.stored,
        truncated: head.cut || end.bytes > head.stored,
        // What the storage had no room for is not there, whatever the place had sent.
        complete: end.complete && !head.cut,
    }
}

fn attempt_view(attempt: &AttemptRecord) -> Result<api::AttemptSummary, serde_json::Error> {
    Ok(api::AttemptSummary {
        number: attempt.number,
        leased_at: rfc3339(attempt.leased_at),
        started_at: attempt.started_at.map(rfc3339),
        ended_at: attempt.ended_at.map(rfc3339),
        lost: attempt.lost.as_deref().map(serde_json::from_str).transpose()?,
        decision: attempt.decision.as_deref().map(serde_json::from_str).transpose()?,
    })
}

fn timings(record: &Record) -> api::Timings {
    let between =
        |from: Option<Timestamp>, to: Option<Timestamp>| Some(to?.since(from?).as_micros() as f64 / 1e3);
    let created = Some(record.created_at);
    api::Timings {
        queued_ms: between(created, record.leased_at),
        provisioning_ms: between(record.leased_at, record.started_at),
        running_ms: between(record.started_at, record.finished_at),
        total_ms: between(created, record.finished_at),
    }
}

pub fn summary_view(record: &RecordSummary) -> Result<api::EvaluationSummary, ViewError> {
    let result: Option<ResultDocument> = record
        .result
        .as_deref()
        .map(serde_json::from_str)
        .transpose()
        .map_err(|source| ViewError { what: "result", id: record.id.to_string(), source })?;
    Ok(api::EvaluationSummary {
        id: record.id.to_string(),
        state: state_to_wire(record.state),
        verdict: record.verdict.map(verdict_to_wire),
        exit_code: result.as_ref().and_then(|result| result.exit_code),
        signal: result.as_ref().and_then(|result| result.signal),
        environment: record.environment.clone(),
        priority: record.priority,
        attempts: record.history.attempts,
        labels: record.labels.clone(),
        batch: record.batch.map(|batch| batch.to_string()),
        created_at: rfc3339(record.created_at),
        started_at: record.started_at.map(rfc3339),
        finished_at: record.finished_at.map(rfc3339),
    })
}

pub fn batch_view(batch: &BatchRecord) -> api::Batch {
    let mut counts: BTreeMap<String, u64> =
        State::ALL.iter().map(|state| (state.as_str().to_owned(), 0)).collect();
    for (state, count) in &batch.counts {
        *counts.entry(state.as_str().to_owned()).or_default() += count;
    }
    let live = batch.counts.iter().any(|(state, count)| !state.is_terminal() && *count > 0);
    api::Batch {
        id: batch.id.to_string(),
        created_at: rfc3339(batch.created_at),
        total: counts.values().sum(),
        counts,
        done: !live,
    }
}
