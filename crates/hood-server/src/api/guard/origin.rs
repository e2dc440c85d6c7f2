//! A page of another origin gets nothing, whatever it asks for: a browser says where a request
//! comes from, and programs do not send these headers at all.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::Response;

use super::HostPolicy;
use crate::api::ApiState;
use crate::api::error::{ApiError, ErrorCode};

const SEC_FETCH_SITE: &str = "sec-fetch-site";

pub(crate) async fn check_origin(
    State(state): State<ApiState>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    if is_foreign(request.headers(), &state.config().hosts) {
        return Err(ApiError::new(
            ErrorCode::ForeignOrigin,
            "a web page of another origin may not use this server",
        ));
    }
    Ok(next.run(request).await)
}

fn is_foreign(headers: &HeaderMap, hosts: &HostPolicy) -> bool {
    let origin_foreign = headers.get_all(header::ORIGIN).iter().any(|origin| {
        let authority = origin
            .to_str()
            .ok()
            .and_then(|origin| origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://")));
        !authority.is_some_and(|authority| hosts.allows(authority))
    });
    // `same-site` is another port of the same machine: another program, and no friend.
    let site_foreign = headers
        .get_all(SEC_FETCH_SITE)
        .iter()
        .any(|site| !matches!(site.as_bytes(), b"same-origin" | b"none"));
    origin_foreign || site_foreign
}

#[cfg(test)]
mod tests {
    use super::*;

    fn foreign(name: &'static str, value: &str) -> bool {
        let hosts = HostPolicy::new("127.0.0.1:8080".parse().expect("an address"), &[]);
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().expect("a header can hold it"));
        is_foreign(&headers, &hosts)
    }

    #[test]
    fn only_our_own_pages_pass() {
        assert!(!foreign("origin", "http://localhost:8080"));
        assert!(!foreign("origin", "http://127.0.0.1:8080"));
        for origin in
            ["null", "", "http://localhost:3000", "http://evil.example", "file://", "localhost:8080"]
        {
            assert!(foreign("origin", origin), "{origin}");
        }
        assert!(!foreign("sec-fetch-site", "same-origin") && !foreign("sec-fetch-site", "none"));
        assert!(foreign("sec-fetch-site", "cross-site") && foreign("sec-fetch-site", "same-site"));
    }
}
