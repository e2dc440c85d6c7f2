use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{State, Verdict};

/// One transition. Numbers count from 1 without gaps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
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

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EventList {
    pub items: Vec<Event>,
    /// Pass it as `cursor` for the next page; null on the last.
    pub next_cursor: Option<String>,
}
