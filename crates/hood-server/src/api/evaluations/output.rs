use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::StreamExt;
use hood_core::outcome::Stream;
use hood_core::{EvaluationId, Tenant};
use hood_store::{FindError, OutputSlice, Span};
use utoipa::{IntoParams, IntoResponses, ToSchema};

use super::range::{self, Asked};
use super::{follow, parse_id};
use crate::api::error::{ApiError, ErrorCode, problems};
use crate::api::guard::Caller;
use crate::api::path::Segment;
use crate::api::query::Query;
use crate::api::state::ApiState;

problems!(InvalidParameter, EvaluationNotFound, AttemptNotFound, RangeNotSatisfiable, TooManyStreams);

/// Which attempt the bytes are of.
pub(super) const ATTEMPT: HeaderName = HeaderName::from_static("fumehood-attempt");

/// Get standard output, byte for byte.
///
/// What is stored of the current attempt, or of the one named. Once that attempt has ended, one
/// `Range` is honoured. `follow=true` streams from `offset` on, live, and ends with the attempt; an
/// interrupted transfer goes on at the offset that was reached.
#[utoipa::path(
    get, path = "/v1/evaluations/{id}/stdout", tag = "evaluations", operation_id = "get_stdout",
    params(
        ("id" = String, Path, description = "`ev_` and 32 lowercase hexadecimal digits."),
        OutputQuery, OutputHeaders,
    ),
    responses(OutputAnswers, Problems),
)]
pub(crate) async fn stdout(
    State(state): State<ApiState>,
    caller: Caller,
    Segment(id): Segment,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    output(state, caller, Target::parse(&id, Stream::Stdout, &uri)?, headers).await
}

/// Get standard error, byte for byte.
///
/// As for standard output.
#[utoipa::path(
    get, path = "/v1/evaluations/{id}/stderr", tag = "evaluations", operation_id = "get_stderr",
    params(
        ("id" = String, Path, description = "`ev_` and 32 lowercase hexadecimal digits."),
        OutputQuery, OutputHeaders,
    ),
    responses(OutputAnswers, Problems),
)]
pub(crate) async fn stderr(
    State(state): State<ApiState>,
    caller: Caller,
    Segment(id): Segment,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    output(state, caller, Target::parse(&id, Stream::Stderr, &uri)?, headers).await
}

/// Get what the build wrote, byte for byte.
///
/// Both of its streams as one, in the order in which they were read; empty where nothing is built.
/// As for standard output.
#[utoipa::path(
    get, path = "/v1/evaluations/{id}/build", tag = "evaluations", operation_id = "get_build",
    params(
        ("id" = String, Path, description = "`ev_` and 32 lowercase hexadecimal digits."),
        OutputQuery, OutputHeaders,
    ),
    responses(OutputAnswers, Problems),
)]
pub(crate) async fn build(
    State(state): State<ApiState>,
    caller: Caller,
    Segment(id): Segment,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    output(state, caller, Target::parse(&id, Stream::Build, &uri)?, headers).await
}

/// What may be asked of each stream; read by [`Target::parse`].
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "it stands for the document alone")]
struct OutputQuery {
    /// Stream live until the attempt ends.
    follow: Option<bool>,
    /// With `follow`: bytes that you have already.
    offset: Option<u64>,
    /// The current one if left out; with `follow`, the coming one while the evaluation is queued.
    attempt: Option<u32>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "it stands for the document alone")]
struct OutputHeaders {
    /// One range of bytes.
    #[param(rename = "Range", example = "bytes=0-1023")]
    range: Option<String>,
}

#[derive(IntoResponses)]
#[expect(dead_code, reason = "it stands for the document alone")]
enum OutputAnswers {
    /// The bytes. `fumehood-attempt` says of which attempt.
    #[response(status = 200, content_type = "application/octet-stream")]
    Whole(OutputBytes),
    /// The range asked for.
    #[response(status = 206, content_type = "application/octet-stream")]
    Part(OutputBytes),
}

/// Bytes of any kind.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
pub(crate) struct OutputBytes(#[expect(dead_code, reason = "it stands for the schema alone")] Vec<u8>);

/// What is wanted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    pub id: EvaluationId,
    pub stream: Stream,
    pub attempt: Option<u32>,
    pub follow: Option<u64>,
}

impl Target {
    fn parse(id: &str, stream: Stream, uri: &Uri) -> Result<Self, ApiError> {
        let mut query = Query::of(uri)?;
        let follow = query.flag("follow");
        let offset: Option<u64> = query.number("offset");
        let attempt: Option<u32> = query.number("attempt");
        query.finish()?;
        if offset.is_some() && !follow {
            return Err(ApiError::parameter(
                "offset",
                "goes with `follow=true`; for a part of what is stored use `Range`",
            ));
        }
        if attempt == Some(0) {
            return Err(ApiError::parameter("attempt", "counts from 1"));
        }
        let follow = follow.then_some(offset.unwrap_or(0));
        Ok(Self { id: parse_id(id)?, stream, attempt, follow })
    }

    /// The name that a browser saves the bytes under: ours, never the program's.
    const fn disposition(&self) -> &'static str {
        match self.stream {
            Stream::Stdout => r#"attachment; filename="stdout.bin""#,
            Stream::Stderr => r#"attachment; filename="stderr.bin""#,
            Stream::Build => r#"attachment; filename="build.bin""#,
        }
    }
}

async fn output(
    state: ApiState,
    caller: Caller,
    target: Target,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let mut response = match target.follow {
        Some(offset) => follow::follow(&state, &caller, target, offset).await?,
        None => stored(state, caller.tenant, target, &headers).await?,
    };
    let fixed = [
        (header::CONTENT_TYPE, "application/octet-stream"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CONTENT_DISPOSITION, target.disposition()),
        (header::CONTENT_SECURITY_POLICY, "sandbox; default-src 'none'"),
    ];
    for (name, value) in fixed {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}

pub(super) fn attempt_not_found(attempt: u32) -> ApiError {
    ApiError::new(ErrorCode::AttemptNotFound, format!("the evaluation has had no attempt {attempt}"))
}

/// What is stored now: a snapshot, whatever is written meanwhile.
async fn stored(
    state: ApiState,
    tenant: Tenant,
    target: Target,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    if let Some(attempt) = target.attempt {
        let record = state.store().get(&tenant, target.id).await.map_err(ApiError::find)?;
        if attempt > record.history.attempts {
            return Err(attempt_not_found(attempt));
        }
    }
    let reader = Reader { state, tenant, target };
    let head = reader.read(target.attempt, 0).await.map_err(ApiError::find)?;
    let (attempt, length) = (head.attempt, head.stored);
    let etag = format!(r#""{}-{attempt}-{}""#, target.id, target.stream.as_str());
    let asked = if head.ended { range_asked(headers, &etag, length) } else { Asked::Whole };
    let (status, range) = match asked {
        Asked::Whole => (StatusCode::OK, 0..length),
        Asked::Part(range) => (StatusCode::PARTIAL_CONTENT, range),
        Asked::Unsatisfiable => return Ok(unsatisfiable(length)),
    };
    let ended = head.ended;
    let size = range.end - range.start;
    let mut response = (status, reader.body(head, range.clone())).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(size));
    headers.insert(ATTEMPT, HeaderValue::from(attempt));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static(if ended { "bytes" } else { "none" }));
    if status == StatusCode::PARTIAL_CONTENT {
        let content = format!("bytes {}-{}/{length}", range.start, range.end - 1);
        headers.extend(HeaderValue::try_from(content).map(|value| (header::CONTENT_RANGE, value)));
    }
    if ended {
        headers.extend(HeaderValue::try_from(etag).map(|value| (header::ETAG, value)));
    }
    Ok(response)
}

fn range_asked(headers: &HeaderMap, etag: &str, length: u64) -> Asked {
    let same = headers.get(header::IF_RANGE).is_none_or(|value| value.as_bytes() == etag.as_bytes());
    let mut ranges = headers.get_all(header::RANGE).iter().filter(|_| same);
    match (ranges.next(), ranges.next()) {
        (None, _) => Asked::Whole,
        (Some(one), None) => range::parse(Some(one.to_str().unwrap_or_default()), length),
        (Some(_), Some(_)) => Asked::Unsatisfiable,
    }
}

fn unsatisfiable(length: u64) -> Response {
    let detail = format!("one range within {length} bytes is answered");
    let mut response = ApiError::new(ErrorCode::RangeNotSatisfiable, detail).into_response();
    let content = HeaderValue::try_from(format!("bytes */{length}"));
    response.headers_mut().extend(content.map(|value| (header::CONTENT_RANGE, value)));
    response
}

/// Reads a stream from the store, a bounded piece at a time.
#[derive(Clone, Debug)]
struct Reader {
    state: ApiState,
    tenant: Tenant,
    target: Target,
}

/// Why a body ends before its length: the client sees a broken transfer, never a short whole.
#[derive(Debug, thiserror::Error)]
pub(super) enum OutputError {
    #[error("output could not be read")]
    Find(#[from] FindError),
    #[error("output is shorter than it was")]
    Short,
    #[error("the server is about to end")]
    Shutdown,
}

impl Reader {
    async fn read(&self, attempt: Option<u32>, offset: u64) -> Result<OutputSlice, FindError> {
        let max = self.state.config().limits.stream.chunk_bytes;
        let Target { id, stream, .. } = self.target;
        let span = Span { stream, attempt, offset, max };
        self.state.store().output(&self.tenant, id, span).await
    }

    /// The bytes of `range`; `head` is the stream's first piece.
    fn body(self, head: OutputSlice, range: std::ops::Range<u64>) -> Body {
        let (attempt, known) = (head.attempt, head.bytes.len() as u64);
        if range.end <= known {
            // Both ends lie within a piece that is in memory.
            return Body::from(Bytes::from(head.bytes).slice(range.start as usize..range.end as usize));
        }
        let pieces = futures::stream::unfold(range.start, move |offset| {
            let reader = self.clone();
            async move {
                if offset >= range.end {
                    return None;
                }
                match reader.read(Some(attempt), offset).await {
                    Ok(slice) if slice.bytes.is_empty() => Some((Err(OutputError::Short), range.end)),
                    Ok(slice) => {
                        let mut bytes = slice.bytes;
                        let rest = range.end - offset;
                        bytes.truncate(usize::try_from(rest).unwrap_or(usize::MAX));
                        let next = offset + bytes.len() as u64;
                        Some((Ok(Bytes::from(bytes)), next))
                    }
                    Err(error) => Some((Err(error.into()), range.end)),
                }
            }
        });
        Body::from_stream(pieces.fuse())
    }
}
