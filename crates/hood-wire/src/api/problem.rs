use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// An error, as RFC 9457 `application/problem+json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// A URI reference for the kind of problem: `/docs/errors#CODE`.
    #[serde(rename = "type")]
    pub kind: String,
    pub title: String,
    pub status: u16,
    /// What went wrong here, and what to do.
    pub detail: String,
    /// Stable; for programs to match on.
    pub code: String,
    /// The request's id, as in the header `x-request-id` and the server's log.
    pub request_id: String,
    /// The fields that are wrong, where the problem lies in fields.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FieldError {
    /// Path of the field: `limits.wall_ms`, `files[2].path`, `evaluations[7].code`.
    pub path: String,
    pub message: String,
}
