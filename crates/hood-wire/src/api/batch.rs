use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Submission;

/// Many at once: all are accepted, or none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BatchSubmission {
    pub evaluations: Vec<Submission>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BatchCreated {
    /// `ba_` and 32 lowercase hexadecimal digits.
    pub id: String,
    /// Ids in the order of the request.
    pub evaluations: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Batch {
    pub id: String,
    pub created_at: String,
    /// Evaluations that were accepted with it and not deleted since.
    pub total: u64,
    /// State → number of evaluations in it; states with none are there with 0.
    pub counts: BTreeMap<String, u64>,
    /// Every evaluation is terminal.
    pub done: bool,
}
