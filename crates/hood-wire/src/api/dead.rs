use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{AttemptSummary, Evidence};

/// One evaluation that infrastructure failed, with every attempt at it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DeadEvaluation {
    pub id: String,
    pub environment: String,
    pub priority: u8,
    pub labels: BTreeMap<String, String>,
    pub batch: Option<String>,
    pub created_at: String,
    pub finished_at: Option<String>,
    pub attempts: Vec<AttemptSummary>,
    pub evidence: Option<Evidence>,
    /// The evaluation that it was requeued as.
    pub requeued_as: Option<String>,
    /// The evaluation that it was itself a requeue of.
    pub requeue_of: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DeadList {
    pub items: Vec<DeadEvaluation>,
    /// Pass it as `cursor` for the next page; null on the last.
    pub next_cursor: Option<String>,
}

/// Which to requeue: `ids`, or all that `filter` matches and that were not requeued before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RequeueRequest {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ids: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<RequeueFilter>,
    /// With `filter`: how many it is to match. Where it matches another number nothing is requeued.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expect: Option<u64>,
    /// Say what would be done, and do nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// All of it must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RequeueFilter {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Accepted then or later; RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RequeueReport {
    pub dry_run: bool,
    /// How many were named, or matched.
    pub matched: u64,
    pub items: Vec<Requeue>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Requeue {
    pub id: String,
    pub outcome: RequeueOutcome,
    /// The evaluation that has its request now.
    pub requeued_as: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RequeueOutcome {
    Requeued,
    /// In a dry run: it would be.
    WouldRequeue,
    /// It was before.
    AlreadyRequeued,
    /// It has not ended, or not as an infrastructure error.
    NotDead,
    /// It is in the archive: submit its request again.
    Archived,
    NotFound,
}
