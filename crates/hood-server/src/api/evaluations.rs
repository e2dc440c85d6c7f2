//! Evaluations: submitted, looked at, listened to, cancelled, deleted.

mod building;
pub(crate) mod cancel;
pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod events;
mod follow;
pub(crate) mod get;
pub(crate) mod list;
pub(crate) mod output;
mod range;
mod resource;

use hood_core::EvaluationId;

use super::error::{ApiError, ErrorCode};

/// The id in a path. What is no id is nobody's.
fn parse_id(text: &str) -> Result<EvaluationId, ApiError> {
    text.parse().map_err(|error: hood_core::id::IdError| {
        ApiError::new(ErrorCode::EvaluationNotFound, error.to_string())
    })
}
