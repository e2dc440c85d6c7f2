//! Reading a request's body: its type, its size, its time, the memory it may take, and its JSON.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::Request;
use axum::http::{HeaderMap, header};
use hood_wire::api::FieldError;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use serde_json::error::Category;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::config::BodyLimits;
use super::error::{ApiError, ErrorCode};
use super::state::ApiState;

/// The unit in which room is handed out: permits are counted in 32 bits.
pub(super) const UNIT: usize = 1024;

/// What is made of a body takes at most so many times its length: the strings that are read from it, the
/// room in which the reader undoes their escapes, and the document that is stored.
const COPIES: usize = 3;

/// A body in memory, and its share of the memory for bodies.
#[derive(Debug)]
pub(crate) struct Body {
    pub bytes: Bytes,
    _share: OwnedSemaphorePermit,
}

impl BodyLimits {
    /// Half of the memory is for what arrives and half for what is made of it.
    pub(super) fn units(&self) -> u32 {
        u32::try_from(self.all_bytes_max / 2 / UNIT).unwrap_or(u32::MAX).max(1)
    }
}

/// Reads a body of at most `max` bytes. An empty one needs no content type.
pub(crate) async fn read(state: &ApiState, request: Request, max: usize) -> Result<Body, ApiError> {
    let limits = &state.config().limits.body;
    let length = content_length(request.headers())?;
    if length.is_some_and(|length| length > max as u64) {
        return Err(too_large(max));
    }
    let json = is_json(request.headers()) && is_plain(request.headers());
    if !json && length.is_some_and(|length| length > 0) {
        return Err(no_json());
    }
    // What does not say how long it is may become as long as it can.
    let room = length.map_or(max, |length| usize::try_from(length).unwrap_or(max));
    let share = share(state, state.bodies(), room).await?;
    let reading = Limited::new(request.into_body(), max).collect();
    let bytes = match tokio::time::timeout(limits.timeout, reading).await {
        Ok(Ok(collected)) => collected.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => return Err(too_large(max)),
        Ok(Err(_)) => return Err(ApiError::new(ErrorCode::MalformedRequest, "the body ended early")),
        Err(_) => {
            let ms = limits.timeout.as_millis();
            return Err(ApiError::new(ErrorCode::BodyTimeout, format!("the body took longer than {ms} ms")));
        }
    };
    if !json && !bytes.is_empty() {
        return Err(no_json());
    }
    if nests_deeper(&bytes, limits.json_depth_max) {
        let most = limits.json_depth_max;
        let detail = format!("the body nests deeper than {most} levels; nothing that is asked for does");
        return Err(ApiError::new(ErrorCode::MalformedJson, detail));
    }
    Ok(Body { bytes, _share: share })
}

/// Whether brackets nest deeper than `most`, those within strings left aside. Right for JSON; what
/// is no JSON is refused by the parser.
fn nests_deeper(bytes: &[u8], most: usize) -> bool {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                if depth > most {
                    return true;
                }
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

fn content_length(headers: &HeaderMap) -> Result<Option<u64>, ApiError> {
    let Some(value) = headers.get(header::CONTENT_LENGTH) else { return Ok(None) };
    let length = value.to_str().ok().and_then(|text| text.parse().ok());
    length.map(Some).ok_or_else(|| ApiError::new(ErrorCode::MalformedRequest, "Content-Length is no number"))
}

/// `application/json`, with no charset or the only one that JSON has.
fn is_json(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return false };
    let mut parts = value.to_str().unwrap_or_default().split(';').map(str::trim);
    let json = parts.next().is_some_and(|essence| essence.eq_ignore_ascii_case("application/json"));
    json && parts.all(|parameter| {
        let charset = parameter.split_once('=').map(|(name, value)| (name.trim(), value.trim_matches('"')));
        charset.is_some_and(|(name, value)| {
            name.eq_ignore_ascii_case("charset") && value.eq_ignore_ascii_case("utf-8")
        })
    })
}

/// Not compressed: a few bytes must not become many.
fn is_plain(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::CONTENT_ENCODING)
        .iter()
        .all(|coding| coding.as_bytes().eq_ignore_ascii_case(b"identity"))
}

/// Memory for what is made of a body of this length: to be held until that is stored.
pub(crate) async fn room(state: &ApiState, length: usize) -> Result<OwnedSemaphorePermit, ApiError> {
    share(state, state.work(), length.saturating_mul(COPIES)).await
}

async fn share(
    state: &ApiState,
    of: &Arc<Semaphore>,
    bytes: usize,
) -> Result<OwnedSemaphorePermit, ApiError> {
    let limits = &state.config().limits.body;
    let units = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).min(limits.units());
    let waiting = Arc::clone(of).acquire_many_owned(units);
    match tokio::time::timeout(limits.share_timeout, waiting).await {
        Ok(Ok(share)) => Ok(share),
        // The semaphore is never closed: both mean that there is no room.
        Ok(Err(_)) | Err(_) => Err(ApiError::new(
            ErrorCode::Overloaded,
            "other requests' bodies fill the memory that is set aside for them",
        )
        .retry_soon()),
    }
}

fn no_json() -> ApiError {
    ApiError::new(
        ErrorCode::UnsupportedMediaType,
        "the body must come with `Content-Type: application/json`, and not compressed",
    )
}

fn too_large(max: usize) -> ApiError {
    ApiError::new(ErrorCode::BodyTooLarge, format!("this endpoint takes bodies of at most {max} bytes"))
}

/// Parses JSON strictly. What is not JSON is told from JSON that is not what was asked for, whose
/// field is named.
pub(crate) fn json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(ApiError::new(ErrorCode::MalformedJson, "the body is empty; a JSON object is needed"));
    }
    // The parser would take an array for an object, field by field in the order of our source.
    if bytes.trim_ascii_start().first() == Some(&b'[') {
        let message = "the body is an array; a JSON object is needed".to_owned();
        let error = FieldError { path: String::new(), message: message.clone() };
        return Err(ApiError::new(ErrorCode::InvalidFields, message).with_errors(vec![error]));
    }
    // Most bodies are right: the path is looked for only once one is not.
    serde_json::from_slice(bytes).or_else(|_| json_with_path(bytes))
}

fn json_with_path<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let parsed = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        let inner = error.into_inner();
        match inner.classify() {
            Category::Data => invalid_field(path, &inner),
            Category::Io | Category::Syntax | Category::Eof => malformed(&inner),
        }
    })?;
    deserializer.end().map_err(|error| malformed(&error))?;
    Ok(parsed)
}

fn malformed(error: &serde_json::Error) -> ApiError {
    ApiError::new(ErrorCode::MalformedJson, format!("the body is not JSON: {error}"))
}

fn invalid_field(path: String, error: &serde_json::Error) -> ApiError {
    // The path of a body that is no object at all is `.`.
    let path = if path == "." { String::new() } else { path };
    let message = error.to_string();
    let detail = if path.is_empty() { message.clone() } else { format!("{path}: {message}") };
    ApiError::new(ErrorCode::InvalidFields, detail).with_errors(vec![FieldError { path, message }])
}

#[cfg(test)]
mod tests {
    use hood_wire::api::{BatchSubmission, Submission};

    use super::*;

    fn refused<T: DeserializeOwned + std::fmt::Debug>(text: &str) -> (ErrorCode, Vec<String>) {
        let error = json::<T>(text.as_bytes()).expect_err("wrong");
        (error.code, error.errors.into_iter().map(|error| error.path).collect())
    }

    #[test]
    fn a_wrong_field_is_named_by_its_path() {
        for (text, path) in [
            (r#"{"code": 1}"#, "code"),
            (r#"{"code": "", "colour": 1}"#, "colour"),
            (r#"{"limits": {"wall_ms": "10"}}"#, "limits.wall_ms"),
            (r#"{"limits": {"wall_ms": -1}}"#, "limits.wall_ms"),
            (r#"{"limits": {"wall": 1}}"#, "limits.wall"),
            (r#"{"files": [{"path": "a"}, {"path": 1}]}"#, "files[1].path"),
            (r#"{"files": [{}]}"#, "files[0]"),
            (r#"{"network": "all"}"#, "network"),
            (r#"{"priority": 256}"#, "priority"),
            (r#"[]"#, ""),
        ] {
            assert_eq!(
                refused::<Submission>(text),
                (ErrorCode::InvalidFields, vec![path.to_owned()]),
                "{text}"
            );
        }
        let batch = r#"{"evaluations": [{"code": ""}, {"x": 1}]}"#;
        let expected = vec!["evaluations[1].x".to_owned()];
        assert_eq!(refused::<BatchSubmission>(batch), (ErrorCode::InvalidFields, expected));
    }

    #[test]
    fn what_is_not_json_is_said_to_be_none() {
        for text in ["", " ", "{", "{}x", r#"{"code": "a}"#, "{'code': 1}", "\u{feff}{}", "nul"] {
            assert_eq!(refused::<Submission>(text), (ErrorCode::MalformedJson, vec![]), "{text}");
        }
        assert_eq!(
            json::<Submission>(b"{\"code\": \"\xff\"}").expect_err("no UTF-8").code,
            ErrorCode::MalformedJson
        );
    }

    #[test]
    fn nesting_is_bounded() {
        let nested = |depth| "[".repeat(depth) + &"]".repeat(depth);
        assert!(!nests_deeper(nested(32).as_bytes(), 32));
        assert!(nests_deeper(nested(33).as_bytes(), 32));
        assert!(!nests_deeper(br#"{"code": "[[[[\"[[[["}"#, 1), "strings do not count");
        assert!(json::<Submission>(nested(1_000_000).as_bytes()).is_err(), "and no stack overflows");
    }

    #[test]
    fn json_is_recognised_by_its_type() {
        let with = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, value.parse().expect("a header can hold it"));
            is_json(&headers)
        };
        for json in [
            "application/json",
            "Application/JSON",
            "application/json; charset=utf-8",
            "application/json;charset=\"UTF-8\"",
        ] {
            assert!(with(json), "{json}");
        }
        for other in [
            "",
            "text/plain",
            "application/jsonp",
            "application/json; charset=latin1",
            "application/x-www-form-urlencoded",
            "text/plain; a=application/json",
        ] {
            assert!(!with(other), "{other}");
        }
        assert!(!is_json(&HeaderMap::new()));
    }
}
