//! The one variable segment of a path.

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;

use super::error::{ApiError, ErrorCode};
use super::state::ApiState;

/// What stands in the path, decoded. What cannot be decoded names nothing that there is.
#[derive(Debug)]
pub(crate) struct Segment(pub(crate) String);

impl FromRequestParts<ApiState> for Segment {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, ApiError> {
        match Path::from_request_parts(parts, state).await {
            Ok(Path(segment)) => Ok(Self(segment)),
            Err(_) => Err(ApiError::new(ErrorCode::NotFound, "the path is not percent-encoded UTF-8")),
        }
    }
}
