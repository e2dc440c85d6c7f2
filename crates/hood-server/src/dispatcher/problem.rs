use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hood_wire::dispatch::{Problem, ProblemCode};

/// A refusal on its way out.
#[derive(Clone, Debug)]
pub(super) struct Refused(pub(super) Problem);

impl Refused {
    pub(super) fn new(code: ProblemCode, detail: impl Into<String>) -> Self {
        Self(Problem { title: code.title().to_owned(), status: code.status(), code, detail: detail.into() })
    }
}

impl From<Problem> for Refused {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self.0)).into_response();
        let media_type = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, media_type);
        response
    }
}
