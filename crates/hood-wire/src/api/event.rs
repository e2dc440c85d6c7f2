use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Lost, State, Usage, Verdict};

/// One transition. Numbers count from 1 without gaps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    pub number: u64,
    #[serde(rename = "type")]
    pub kind: EventType,
    /// RFC 3339, UTC.
    pub at: String,
    /// The state that it led to.
    pub state: State,
    /// For `attempt_started`, `started` and `retry_scheduled`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// For `retry_scheduled`: the next attempt begins no earlier.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_before: Option<String>,
    /// For `finished`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// An older server sends none.
    #[serde(default)]
    pub detail: EventDetail,
}

/// What is known with an event, besides the transition itself. A field that does not apply is left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EventDetail {
    /// The attempt that it is about; for `finished` the last one, if there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// The kind of place that the attempt was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub executor: Option<String>,
    pub hops: Hops,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<u8>,
    /// Why the attempt was lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost: Option<Lost>,
    /// What the attempt used; for `finished`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
}

/// When each hop up to this event was reached, RFC 3339 in UTC to the microsecond.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Hops {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accepted_at: Option<String>,
    /// The attempt began to wait: with the acceptance, or with the loss of the one before it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queued_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leased_at: Option<String>,
    /// The place was ready, and the program about to be released into it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready_at: Option<String>,
    /// The program was released, after `running` was durable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
    /// The worker had the place's last word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<String>,
    /// The transition was handed to the store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub committed_at: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EventType {
    Submitted,
    /// Whoever follows output discards what it has and begins at 0.
    AttemptStarted,
    /// The program was released.
    Started,
    RetryScheduled,
    Finished,
}

impl EventType {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Submitted => "submitted",
            Self::AttemptStarted => "attempt_started",
            Self::Started => "started",
            Self::RetryScheduled => "retry_scheduled",
            Self::Finished => "finished",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EventList {
    pub items: Vec<Event>,
    /// Pass it as `cursor` for the next page; null on the last.
    pub next_cursor: Option<String>,
}
