//! The documents that the store keeps for us as text: it never looks into them. They are versioned
//! by being tolerant: a field added later has a default, and one that is not known is ignored.

mod catalogue;
mod convert;
mod event;
mod outcome;
mod view;

use hood_wire::api;
use serde::{Deserialize, Serialize};

pub use catalogue::{CatalogueDocument, UnprovenDocument, environment_facts};
pub use convert::{
    limits_from_wire, limits_request_to_core, limits_to_wire, rfc3339, risk_to_core, source_to_core,
    start_to_core, state_to_core, state_to_wire, verdict_to_wire,
};
pub use event::event_views;
pub use outcome::{
    build_document, decision_document, degraded_to_wire, evidence_of, stream_document, usage_to_wire,
};
pub use view::{
    AcceptedSummary, Heads, RiskOnly, StreamHead, ViewError, batch_view, evaluation_view, summary_view,
};

/// A document as the store keeps it. Documents are text, numbers and lists: serialising one cannot
/// fail.
pub fn to_json<T: Serialize>(document: &T) -> String {
    serde_json::to_string(document).unwrap_or_default()
}

/// What was accepted: the submission, and what the server made of what it left open.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AcceptedDocument {
    pub submission: api::Submission,
    pub environment: String,
    /// Every limit, resolved: none is null.
    pub limits: api::Limits,
    pub grace_ms: u64,
    pub priority: u8,
    /// The environment's image as it was then, where it came from elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<api::ForeignImage>,
    /// How the environment runs `code`, as it was then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<api::CodeStart>,
    /// Every limit of the build, resolved, where something is built.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<api::Limits>,
    /// The W3C trace context that the submission came with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
}

impl AcceptedDocument {
    /// What is shown of it, where the whole is kept elsewhere.
    pub fn outline(&self) -> AcceptedSummary {
        AcceptedSummary {
            submission: RiskOnly { risk_level: self.submission.risk_level },
            limits: self.limits,
            grace_ms: self.grace_ms,
            build: self.build,
        }
    }
}

/// What came of it, written in the transaction that ends it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResultDocument {
    pub exit_code: Option<u8>,
    pub signal: Option<u8>,
    pub evidence: api::Evidence,
    pub usage: api::Usage,
    /// As enforced: null where the place could not hold one. `None` where it never ran: then those
    /// that were accepted stand.
    pub limits: Option<api::Limits>,
    pub stdout: StreamDocument,
    pub stderr: StreamDocument,
    /// What became of the build, where one was begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<BuildDocument>,
    #[serde(default)]
    pub moments: Moments,
}

/// A build's end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BuildDocument {
    /// How the build itself ended; `None` where nothing says.
    pub verdict: Option<api::Verdict>,
    pub exit_code: Option<u8>,
    pub signal: Option<u8>,
    pub evidence: api::Evidence,
    pub usage: api::Usage,
    pub limits: api::Limits,
    pub output: StreamDocument,
}

/// Moments of the last attempt that are no transitions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moments {
    /// Microseconds since 1970: the program was released.
    pub started_at: Option<i64>,
    /// The place had said its last word.
    pub ended_at: Option<i64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamDocument {
    /// Bytes that the program wrote.
    pub bytes: u64,
    pub complete: bool,
}

impl ResultDocument {
    /// The end of one that no attempt was under way for: there is nothing to measure, and nothing
    /// more can have been written.
    pub fn without_run(evidence: api::Evidence) -> Self {
        let nothing = StreamDocument { bytes: 0, complete: true };
        Self {
            exit_code: None,
            signal: None,
            evidence,
            usage: api::Usage::default(),
            limits: None,
            stdout: nothing,
            stderr: nothing,
            build: None,
            moments: Moments::default(),
        }
    }

    /// The end of one that was cancelled before an attempt took it.
    pub fn cancelled_in_queue() -> Self {
        Self::without_run(api::Evidence {
            decided_by: "cancelled_in_queue".into(),
            ..api::Evidence::default()
        })
    }
}
