//! Whatever the tests see the server answer must be in its OpenAPI document: the status, and the
//! type of the body.

use std::sync::LazyLock;

use reqwest::header::{CONTENT_TYPE, HeaderMap};
use serde_json::Value;

static DOCUMENT: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(&hood_server::api::openapi()).expect("JSON"));

/// Fails where the document has the operation and not this answer of it. Statuses of a request that
/// reaches no operation (421, 403, 405, 404 of a path) are the guards'.
#[track_caller]
pub(crate) fn check(method: &str, path: &str, status: u16, headers: &HeaderMap) {
    let Some(operation) = operation(method, path) else { return };
    let responses = &operation["responses"];
    if matches!(status, 403 | 421) {
        return;
    }
    let response = &responses[status.to_string()];
    assert!(response.is_object(), "{method} {path} answered {status}, which its document does not know");
    let Some(content) = response["content"].as_object() else { return };
    let given = headers.get(CONTENT_TYPE).map_or("", |value| value.to_str().expect("visible"));
    let essence = given.split(';').next().unwrap_or_default();
    assert!(content.contains_key(essence), "{method} {path} {status} came as `{given}`, not in its document");
}

fn operation(method: &str, path: &str) -> Option<&'static Value> {
    let paths = DOCUMENT["paths"].as_object()?;
    let (_, item) = paths.iter().find(|(template, _)| matches(template, path))?;
    Some(&item[method.to_lowercase()]).filter(|operation| operation.is_object())
}

fn matches(template: &str, path: &str) -> bool {
    let (mut template, mut path) = (template.split('/'), path.split('/'));
    loop {
        match (template.next(), path.next()) {
            (None, None) => return true,
            (Some(expected), Some(given)) if expected.starts_with('{') || expected == given => {}
            _ => return false,
        }
    }
}
