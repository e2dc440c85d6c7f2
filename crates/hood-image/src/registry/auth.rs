//! Who asks: a name and password, or a token; and the exchange of one for a token of the registry's.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Url;
use reqwest::header::HeaderValue;
use serde::Deserialize;

use super::{Registry, RegistryError, body, successful};

const TOKEN_BYTES_MAX: u64 = 64 * 1024;

/// Never shown.
#[derive(Clone)]
pub enum Credentials {
    Password {
        username: String,
        password: String,
    },
    /// Sent as it is.
    Token(String),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(…)")
    }
}

/// What a registry wants of whoever asks.
#[derive(Debug, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
}

impl Registry {
    /// The header that answers one of the challenges.
    pub(super) async fn authorize(&self, challenges: &[String]) -> Result<HeaderValue, RegistryError> {
        let challenge = challenges.iter().find_map(|text| parse(text));
        match (challenge, &self.credentials) {
            (_, Some(Credentials::Token(token))) => header(&format!("Bearer {token}")),
            (Some(Challenge::Basic), Some(Credentials::Password { username, password })) => {
                header(&basic(username, password))
            }
            (Some(Challenge::Basic), None) => {
                Err(RegistryError::Denied { host: self.reference.host().to_owned(), known: false })
            }
            (Some(Challenge::Bearer { realm, service, scope }), _) => {
                let token = self.token(&realm, service.as_deref(), scope.as_deref()).await?;
                header(&format!("Bearer {token}"))
            }
            (None, _) => Err(RegistryError::answer("asks for credentials of an unknown kind")),
        }
    }

    async fn token(
        &self,
        realm: &str,
        service: Option<&str>,
        scope: Option<&str>,
    ) -> Result<String, RegistryError> {
        const STEP: &str = "get a token";
        let mut url: Url = realm.parse().map_err(|_| RegistryError::answer("names no address for tokens"))?;
        // A password that was sent with TLS is not passed on without; nor is one that was sent without to
        // another host, which nobody said that plain HTTP is good enough for.
        let as_plain = url.scheme() == "http" && self.base.scheme() == "http";
        let at_home = url.host() == self.base.host() || self.credentials.is_none();
        if url.scheme() != "https" && !(as_plain && at_home) {
            return Err(RegistryError::answer("sends for tokens to an address without TLS"));
        }
        for (name, value) in [("service", service), ("scope", scope)] {
            if let Some(value) = value {
                url.query_pairs_mut().append_pair(name, value);
            }
        }
        let mut request = self.http.get(url);
        if let Some(Credentials::Password { username, password }) = &self.credentials {
            request = request.header(reqwest::header::AUTHORIZATION, header(&basic(username, password))?);
        }
        let answer = request.send().await.map_err(RegistryError::http(STEP))?;
        if matches!(answer.status().as_u16(), 401 | 403) {
            let host = self.reference.host().to_owned();
            return Err(RegistryError::Denied { host, known: self.credentials.is_some() });
        }
        let text = body(STEP, successful(STEP, answer).await?, TOKEN_BYTES_MAX).await?;
        let answer: TokenAnswer =
            serde_json::from_slice(&text).map_err(|_| RegistryError::answer("gives a token that is none"))?;
        answer.token.or(answer.access_token).ok_or_else(|| RegistryError::answer("gives no token"))
    }
}

fn basic(username: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{username}:{password}")))
}

fn header(text: &str) -> Result<HeaderValue, RegistryError> {
    let mut value = HeaderValue::from_str(text)
        .map_err(|_| RegistryError::answer("would need a token or password that no header can hold"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// `Bearer realm="…",service="…",scope="…"`.
fn parse(text: &str) -> Option<Challenge> {
    let (scheme, rest) = text.split_once(' ').unwrap_or((text, ""));
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let (mut realm, mut service, mut scope) = (None, None, None);
    let mut rest = rest.trim_start();
    while let Some((name, after)) = rest.split_once("=\"") {
        let (value, after) = after.split_once('"')?;
        match name.trim_matches([' ', ',']).to_ascii_lowercase().as_str() {
            "realm" => realm = Some(value.to_owned()),
            "service" => service = Some(value.to_owned()),
            "scope" => scope = Some(value.to_owned()),
            _ => {}
        }
        rest = after;
    }
    Some(Challenge::Bearer { realm: realm?, service, scope })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read() {
        let bearer =
            parse(r#"Bearer realm="https://a/t",service="s",scope="repository:a/b:pull,push",error="x""#);
        let expected = Challenge::Bearer {
            realm: "https://a/t".into(),
            service: Some("s".into()),
            scope: Some("repository:a/b:pull,push".into()),
        };
        assert_eq!(bearer, Some(expected));
        assert_eq!(parse("Basic realm=\"x\""), Some(Challenge::Basic));
        for text in ["", "Bearer", "Bearer service=\"x\"", "Bearer realm=\"x", "Digest realm=\"x\""] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let secret = Credentials::Password { username: "u".into(), password: "hunter2".into() };
        assert!(!format!("{secret:?}").contains("hunter2"));
    }
}
