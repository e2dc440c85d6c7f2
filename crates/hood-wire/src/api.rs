//! The public HTTP API, version 1. Unknown fields are errors in what clients send; what they are
//! sent may gain fields.

mod batch;
mod dead;
mod delivery;
mod environment;
mod evaluation;
mod event;
mod names;
mod problem;
mod result;
mod service;
mod submission;

pub use batch::{Batch, BatchCreated, BatchSubmission};
pub use dead::{
    DeadEvaluation, DeadList, Requeue, RequeueFilter, RequeueOutcome, RequeueReport, RequeueRequest,
};
pub use delivery::{Delivery, DeliveryList, DeliveryState, WebhookData, WebhookMessage};
pub use environment::{
    BuildProgress, Building, CodeStart, Environment, EnvironmentList, EnvironmentState, ForeignImage,
    Package, Variable,
};
pub use evaluation::{
    AttemptSummary, BuildReport, Decision, EnvironmentRef, Evaluation, EvaluationList, EvaluationSummary,
    Limits, State, Timings,
};
pub use event::{Event, EventDetail, EventList, EventType, Hops};
pub use problem::{FieldError, Problem};
pub use result::{Degraded, Evidence, ExecError, Kill, LimitHit, Lost, Preview, Refusal, Usage, Verdict};
pub use service::{
    CapacityStatus, Check, CheckState, Health, HealthDetail, OldestQueued, Proof, QueueDepth, QueueStatus,
    StorageStatus, Version,
};
pub use submission::{
    Build, CancelRequest, InputFile, LimitsRequest, Network, OnOutputLimit, RiskLevel, Submission,
};

/// Header that makes a submission safe to send again.
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// Header with the W3C trace context of whoever asks.
pub const TRACEPARENT: &str = "traceparent";

/// Header under which every answer carries its request's id.
pub const REQUEST_ID: &str = "x-request-id";
