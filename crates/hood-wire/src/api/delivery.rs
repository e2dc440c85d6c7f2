use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Evidence, Hops, State, Usage, Verdict};

/// The body of a webhook.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WebhookMessage {
    /// `evaluation.finished`.
    #[serde(rename = "type")]
    pub kind: String,
    /// When the evaluation ended, RFC 3339.
    pub timestamp: String,
    pub data: WebhookData,
}

/// What is told of an evaluation that has ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WebhookData {
    pub id: String,
    /// The event's number.
    pub event: u64,
    pub state: State,
    pub verdict: Verdict,
    pub exit_code: Option<u8>,
    pub signal: Option<u8>,
    pub evidence: Evidence,
    pub usage: Usage,
    pub attempts: u32,
    pub labels: BTreeMap<String, String>,
    pub batch: Option<String>,
    pub hops: Hops,
}

/// One event that is told to one URL, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Delivery {
    /// As in the header `webhook-id`.
    pub id: String,
    pub evaluation: String,
    pub event: u64,
    pub url: String,
    pub state: DeliveryState,
    /// Times it was sent.
    pub tries: u32,
    pub created_at: String,
    /// When it is tried next; null unless `pending`.
    pub due_at: Option<String>,
    pub settled_at: Option<String>,
    /// The last answer's status; null where none came.
    pub last_status: Option<u16>,
    /// Why the last try was in vain.
    pub last_reason: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryState {
    Pending,
    Delivered,
    /// Tried often enough; `POST …/redeliver` begins anew.
    Dead,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeliveryList {
    pub items: Vec<Delivery>,
    /// Pass it as `cursor` for the next page; null on the last.
    pub next_cursor: Option<String>,
}
