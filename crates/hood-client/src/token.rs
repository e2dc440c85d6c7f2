//! The API key that a client holds.

use std::fmt;

/// A secret: `Debug` does not show it, and only the request's header ever does.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Leading and trailing white space, which a file may hold, is no part of it.
    pub fn new(text: &str) -> Self {
        Self(text.trim().to_owned())
    }

    pub(crate) fn header(&self) -> Option<reqwest::header::HeaderValue> {
        let mut value = reqwest::header::HeaderValue::from_str(&format!("Bearer {}", self.0)).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}
