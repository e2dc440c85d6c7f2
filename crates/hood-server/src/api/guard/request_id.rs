//! Each request's id: the client's own where it is harmless, else one of ours.

use std::fmt;

use axum::http::{HeaderMap, HeaderValue};
use hood_wire::api::REQUEST_ID;

/// A client's id longer than this is not echoed.
const LENGTH_MAX: usize = 64;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RequestId(HeaderValue);

impl RequestId {
    pub(crate) fn of(headers: &HeaderMap, random: [u8; 16]) -> Self {
        match headers.get(REQUEST_ID) {
            Some(given) if harmless(given.as_bytes()) => Self(given.clone()),
            _ => Self(ours(random)),
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }

    pub(crate) fn to_header(&self) -> HeaderValue {
        self.0.clone()
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// `[A-Za-z0-9._-]{1,64}`: what can stand in a log, a shell and a page without a meaning of its own.
fn harmless(id: &[u8]) -> bool {
    (1..=LENGTH_MAX).contains(&id.len())
        && id.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

fn ours(random: [u8; 16]) -> HeaderValue {
    let text = format!("{:032x}", u128::from_be_bytes(random));
    HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static("unknown"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id_for(given: &[u8]) -> RequestId {
        let mut headers = HeaderMap::new();
        headers.insert(REQUEST_ID, HeaderValue::from_bytes(given).expect("a header can hold it"));
        RequestId::of(&headers, [7; 16])
    }

    #[test]
    fn a_harmless_id_is_kept_and_any_other_replaced() {
        let longest = "a".repeat(LENGTH_MAX);
        for kept in ["a", "A-1_b.c", &longest] {
            assert_eq!(id_for(kept.as_bytes()).as_str(), kept);
        }
        let too_long = "a".repeat(LENGTH_MAX + 1);
        for replaced in ["", "a b", "<script>", "a\"b", "\u{e9}", &too_long] {
            assert_eq!(id_for(replaced.as_bytes()).as_str(), "07".repeat(16), "{replaced}");
        }
        assert_eq!(RequestId::of(&HeaderMap::new(), [0; 16]).as_str().len(), 32);
    }
}
