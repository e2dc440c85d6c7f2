//! The one error of the API: status, stable code, what the client is told, and what only the log
//! is. It becomes RFC 9457 problem+json at the router's edge, where the request's id is known.

mod code;

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, Response, header};
use axum::response::IntoResponse;
use hood_store::{FindError, StoreError, SubmitError};
use hood_wire::api::{FieldError, Problem};
use utoipa::openapi::{ContentBuilder, Ref, RefOr, ResponseBuilder};

pub(crate) use code::ErrorCode;

pub(crate) const PROBLEM_JSON: &str = "application/problem+json";

/// When to come again where nothing says more exactly.
const RETRY_SOON: Duration = Duration::from_secs(1);

/// Space comes back when somebody deletes, which takes a person or their cleaning job.
const RETRY_STORAGE: Duration = Duration::from_secs(30);

#[derive(Clone, Debug)]
pub(crate) struct ApiError {
    pub code: ErrorCode,
    /// What went wrong here and what to do; the client reads it.
    pub detail: String,
    pub errors: Vec<FieldError>,
    pub retry_after: Option<Duration>,
    /// For the log alone.
    pub cause: Option<Arc<dyn Error + Send + Sync>>,
}

impl ApiError {
    pub(crate) fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), errors: Vec::new(), retry_after: None, cause: None }
    }

    /// Something of ours broke. The client learns that it did, and the log learns what.
    pub(crate) fn internal(cause: impl Error + Send + Sync + 'static) -> Self {
        Self {
            cause: Some(Arc::new(cause)),
            ..Self::new(
                ErrorCode::Internal,
                "something failed on our side; the server's log says what, under this request's id",
            )
        }
    }

    /// One wrong parameter of the query or header of the request.
    pub(crate) fn parameter(name: &str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self::new(ErrorCode::InvalidParameter, format!("`{name}` {message}"))
            .with_errors(vec![FieldError { path: name.to_owned(), message }])
    }

    #[must_use]
    pub(crate) fn with_errors(self, errors: Vec<FieldError>) -> Self {
        Self { errors, ..self }
    }

    #[must_use]
    pub(crate) fn retry_after(self, after: Duration) -> Self {
        Self { retry_after: Some(after), ..self }
    }

    #[must_use]
    pub(crate) fn retry_soon(self) -> Self {
        self.retry_after(RETRY_SOON)
    }

    /// A store error where the evaluation that it speaks of is named in the URL.
    pub(crate) fn find(error: FindError) -> Self {
        match error {
            FindError::NotFound => Self::new(
                ErrorCode::EvaluationNotFound,
                "no such evaluation, or it was deleted; ids are `ev_` and 32 lowercase hexadecimal digits",
            ),
            FindError::Store(source) => source.into(),
        }
    }

    /// The body that the client reads.
    pub(crate) fn problem(&self, request_id: &str) -> Problem {
        Problem {
            kind: format!("/docs/errors#{}", self.code.as_str()),
            title: self.code.title().to_owned(),
            status: self.code.status().as_u16(),
            detail: shortened(&self.detail),
            code: self.code.as_str().to_owned(),
            request_id: request_id.to_owned(),
            errors: self.errors.iter().map(shortened_field).collect(),
        }
    }

    /// The whole chain of causes, for the log.
    pub(crate) fn causes(&self) -> String {
        let mut text = String::new();
        let mut next = self.cause.as_deref().map(|cause| cause as &dyn Error);
        while let Some(cause) = next {
            let separator = if text.is_empty() { "" } else { ": " };
            // Writing to a String cannot fail.
            let _ = write!(text, "{separator}{cause}");
            next = cause.source();
        }
        text
    }
}

/// What a request brought may stand in an error, and be megabytes: it is repeated up to here.
const ECHO_CHARS: usize = 512;

fn shortened(text: &str) -> String {
    match text.char_indices().nth(ECHO_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn shortened_field(error: &FieldError) -> FieldError {
    FieldError { path: shortened(&error.path), message: shortened(&error.message) }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        if error.is_disk_full() {
            let detail =
                "the disk beneath the server's data is full; it goes on by itself once there is room";
            return Self::new(ErrorCode::StorageFull, detail).retry_after(RETRY_STORAGE);
        }
        if error.is_away() {
            let detail = "the database cannot be used at the moment; it is tried again and again";
            return Self {
                cause: Some(std::sync::Arc::new(error)),
                ..Self::new(ErrorCode::StoreAway, detail).retry_soon()
            };
        }
        if matches!(&error, StoreError::Blob(error) if error.is_away()) {
            let detail = "the blob store, which long output and large submissions are kept in, cannot be used at \
                 the moment; it is tried again and again";
            return Self {
                cause: Some(std::sync::Arc::new(error)),
                ..Self::new(ErrorCode::BlobsAway, detail).retry_soon()
            };
        }
        Self::internal(error)
    }
}

impl From<SubmitError> for ApiError {
    fn from(error: SubmitError) -> Self {
        let detail = error.to_string();
        match error {
            SubmitError::IdempotencyConflict => Self::new(
                ErrorCode::IdempotencyConflict,
                "this Idempotency-Key came before with another body: use a new key for a new submission",
            ),
            SubmitError::QueueFull { .. } => Self::new(ErrorCode::QueueFull, detail).retry_soon(),
            SubmitError::StorageFull { .. } => Self::new(
                ErrorCode::StorageFull,
                format!("{detail}; delete finished evaluations or raise `storage_bytes`"),
            )
            .retry_after(RETRY_STORAGE),
            SubmitError::Malformed => Self::internal(SubmitError::Malformed),
            SubmitError::Store(source) => source.into(),
        }
    }
}

impl IntoResponse for ApiError {
    /// The body is written at the router's edge, which finds the error among the extensions.
    fn into_response(self) -> Response<Body> {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.code.status();
        let headers = response.headers_mut();
        if let Some(after) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(after.as_secs().max(1)));
        }
        if self.code == ErrorCode::Unauthenticated {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(r#"Bearer realm="fumehood""#));
        }
        response.extensions_mut().insert(self);
        response
    }
}

/// What the guards may answer on every route that needs a key.
const OF_GUARDS: &[ErrorCode] = &[
    ErrorCode::Unauthenticated,
    ErrorCode::ForeignOrigin,
    ErrorCode::MisdirectedRequest,
    ErrorCode::RateLimited,
    ErrorCode::Internal,
    ErrorCode::StoreAway,
];

/// The problems that an operation may answer with, as OpenAPI responses: one for each status, its
/// codes in the description.
pub(crate) fn responses(codes: &[ErrorCode]) -> BTreeMap<String, RefOr<utoipa::openapi::Response>> {
    let mut by_status: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for code in OF_GUARDS.iter().chain(codes) {
        by_status.entry(code.status().as_str().to_owned()).or_default().push(code.as_str());
    }
    let response = |codes: Vec<&str>| {
        let codes: Vec<String> = codes.into_iter().map(|code| format!("`{code}`")).collect();
        let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
        ResponseBuilder::new().description(codes.join(", ")).content(PROBLEM_JSON, content).build()
    };
    by_status.into_iter().map(|(status, codes)| (status, RefOr::T(response(codes)))).collect()
}

/// Makes a type of what one handler may refuse with besides the guards, for its `responses(…)`.
macro_rules! problems {
    ($($code:ident),* $(,)?) => {
        struct Problems;

        impl utoipa::IntoResponses for Problems {
            fn responses() -> std::collections::BTreeMap<
                String,
                utoipa::openapi::RefOr<utoipa::openapi::Response>,
            > {
                $crate::api::error::responses(&[$($crate::api::error::ErrorCode::$code),*])
            }
        }
    };
}
pub(crate) use problems;
