//! The documentation that the server carries: the OpenAPI document, a page to browse it that needs
//! nothing from elsewhere, and the list of error codes. None of it needs a key, since none of it
//! says anything of this server or its evaluations.

use std::fmt::Write;
use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::http::header;
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::get;
use utoipa_swagger_ui::Config;

use super::error::{ApiError, ErrorCode};
use super::openapi::openapi;
use super::path::Segment;
use super::state::ApiState;

const DOCUMENT: &str = "/openapi/v1.json";

/// The page runs its own scripts and talks to this server alone. Its scripts write styles into
/// elements, which is why styles may stand in the page.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
    img-src 'self' data:; font-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'";

static OPENAPI: LazyLock<String> = LazyLock::new(openapi);

static ERRORS: LazyLock<String> = LazyLock::new(errors_page);

static PAGE: LazyLock<Arc<Config<'static>>> = LazyLock::new(|| {
    Arc::new(
        Config::from(DOCUMENT).try_it_out_enabled(true).validator_url("none").persist_authorization(false),
    )
});

pub(super) fn router() -> Router<ApiState> {
    Router::new()
        .route("/", get(async || Redirect::to("/docs/")))
        .route(DOCUMENT, get(async || ([(header::CONTENT_TYPE, "application/json")], OPENAPI.as_str())))
        .route("/docs", get(async || Redirect::to("/docs/")))
        .route("/docs/", get(async || page("")))
        .route("/docs/errors", get(async || Html(ERRORS.as_str())))
        .route("/docs/{*file}", get(async |Segment(file): Segment| page(&file)))
}

fn page(file: &str) -> Response {
    match utoipa_swagger_ui::serve(file, PAGE.clone()) {
        Ok(Some(found)) => {
            let headers = [
                (header::CONTENT_TYPE, found.content_type),
                (header::CONTENT_SECURITY_POLICY, PAGE_POLICY.to_owned()),
            ];
            let encoding = found.gzpipped.then_some([(header::CONTENT_ENCODING, "gzip")]);
            match encoding {
                Some(encoding) => (headers, encoding, found.bytes).into_response(),
                None => (headers, found.bytes).into_response(),
            }
        }
        Ok(None) => ApiError::new(ErrorCode::NotFound, "the documentation has no such file").into_response(),
        Err(error) => ApiError::internal(PageError(error.to_string())).into_response(),
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the page could not be made: {0}")]
struct PageError(String);

/// `type` of a problem points here. Codes and their texts are ours, and hold nothing to escape but
/// the code marks.
fn errors_page() -> String {
    let mut page = String::from(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Fumehood: errors</title><h1>Errors</h1>\n",
    );
    for code in ErrorCode::ALL {
        let (text, status) = (code.as_str(), code.status().as_u16());
        let (title, explanation) = (code.title(), code.explanation());
        // Writing to a String cannot fail.
        let _ = writeln!(page, "<h2 id=\"{text}\">{text}</h2><p>{status} {title}. {explanation}</p>");
    }
    page
}

/// The page of the documentation that lists the codes, for `docs/errors.md`.
pub fn errors_markdown() -> String {
    let mut page = String::from(
        "# Errors\n\n\
         Every error is RFC 9457 `application/problem+json`: `type`, `title`, `status`, `detail`, a stable `code`, the\n\
         `request_id` that the server's log has too, and `errors` [{`path`, `message`}] where fields are wrong. Programs match\n\
         on `code`: codes are added, never renamed. Where waiting helps, the header `Retry-After` says for how long.\n\n\
         This page is made from the code; a test holds the two together.\n\n\
         | code | status | what it means and what to do |\n|---|---|---|\n",
    );
    for code in ErrorCode::ALL {
        let (text, status) = (code.as_str(), code.status().as_u16());
        // Writing to a String cannot fail.
        let _ = writeln!(page, "| `{text}` | {status} | {}. {} |", code.title(), code.explanation());
    }
    page
}
