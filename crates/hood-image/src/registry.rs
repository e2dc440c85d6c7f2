//! A registry, spoken to over HTTP: images come from it as a layout in a directory, and go to it from
//! one in a file. What it answers is as hostile as any archive: nothing is taken whose digest was not
//! asked for, and nothing beyond the size that was announced.

mod auth;
mod error;
mod reference;
mod transfer;

use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, LOCATION, WWW_AUTHENTICATE};
use reqwest::{Method, Response, StatusCode, Url};

pub use auth::Credentials;
pub use error::RegistryError;
pub use reference::Reference;
pub use transfer::Pulled;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two pieces of an answer.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(30);
/// Blobs are often kept elsewhere; an answer that leads on further leads nowhere.
const REDIRECTS_MAX: usize = 3;
/// What of an error's text is shown.
const SAID_MAX: u64 = 4096;

/// How a registry is reached.
#[derive(Clone, Debug, Default)]
pub struct Access {
    pub credentials: Option<Credentials>,
    /// Speak HTTP without TLS. A loopback address is spoken to so by itself, unless `authorities` are given.
    pub plain_http: bool,
    /// Certificates, in PEM, of authorities that are believed beside the system's.
    pub authorities: Option<Vec<u8>>,
}

/// One repository of a registry.
#[derive(Debug)]
pub struct Registry {
    http: reqwest::Client,
    reference: Reference,
    base: Url,
    credentials: Option<Credentials>,
    /// What the registry takes, once it said what that is.
    authorization: std::sync::Mutex<Option<HeaderValue>>,
}

/// What is asked for, ready to be asked again with a token.
struct Call<'a> {
    method: Method,
    url: Url,
    headers: HeaderMap,
    body: &'a dyn Fn() -> Result<reqwest::Body, RegistryError>,
}

impl Registry {
    pub fn new(reference: Reference, access: Access) -> Result<Self, RegistryError> {
        let mut http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(SILENCE_TIMEOUT)
            .user_agent(concat!("fumehood/", env!("CARGO_PKG_VERSION")));
        let with_authorities = access.authorities.is_some();
        if let Some(pem) = access.authorities {
            let authorities = reqwest::Certificate::from_pem_bundle(&pem)
                .map_err(RegistryError::http("read the certificates of authorities"))?;
            http = http.tls_certs_merge(authorities);
        }
        let http = http.build().map_err(RegistryError::http("prepare for HTTP"))?;
        let plain = access.plain_http || (reference.is_loopback() && !with_authorities);
        let scheme = if plain { "http" } else { "https" };
        let base = format!("{scheme}://{}/v2/{}/", reference.host(), reference.repository());
        let base = base.parse().map_err(|_| RegistryError::Reference {
            text: reference.to_string(),
            problem: "its host is none".to_owned(),
        })?;
        let authorization = std::sync::Mutex::default();
        Ok(Self { http, reference, base, credentials: access.credentials, authorization })
    }

    pub fn reference(&self) -> &Reference {
        &self.reference
    }

    fn url(&self, path: &str) -> Result<Url, RegistryError> {
        self.base.join(path).map_err(|_| RegistryError::answer("names a path that is none"))
    }

    /// Asks, with a token if one is wanted, and follows where the answer leads.
    async fn call(&self, step: &'static str, call: Call<'_>) -> Result<Response, RegistryError> {
        let mut answer = self.once(step, &call, &call.url).await?;
        if answer.status() == StatusCode::UNAUTHORIZED {
            let challenges: Vec<String> = answer
                .headers()
                .get_all(WWW_AUTHENTICATE)
                .iter()
                .filter_map(|value| value.to_str().ok().map(str::to_owned))
                .collect();
            let authorization = self.authorize(&challenges).await?;
            *self.known_authorization() = Some(authorization);
            answer = self.once(step, &call, &call.url).await?;
        }
        if answer.status() == StatusCode::UNAUTHORIZED || answer.status() == StatusCode::FORBIDDEN {
            return Err(RegistryError::Denied {
                host: self.reference.host().to_owned(),
                known: self.credentials.is_some(),
            });
        }
        let mut at = call.url.clone();
        for _ in 0..REDIRECTS_MAX {
            if !answer.status().is_redirection() || call.method != Method::GET {
                break;
            }
            let to = answer.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            let to = to.and_then(|to| at.join(to).ok()).filter(|to| matches!(to.scheme(), "http" | "https"));
            let to = to.ok_or_else(|| RegistryError::answer("leads to no address"))?;
            if at.scheme() == "https" && to.scheme() != "https" {
                return Err(RegistryError::answer("leads from HTTPS to HTTP"));
            }
            answer = self.once(step, &call, &to).await?;
            at = to;
        }
        if answer.status().is_redirection() {
            return Err(RegistryError::answer("leads on and on"));
        }
        Ok(answer)
    }

    async fn once(&self, step: &'static str, call: &Call<'_>, url: &Url) -> Result<Response, RegistryError> {
        let mut request = self
            .http
            .request(call.method.clone(), url.clone())
            .headers(call.headers.clone())
            .body((call.body)()?);
        // Only to whom it belongs: wherever else an answer leads, no key goes along.
        if url.origin() == self.base.origin()
            && let Some(authorization) = self.known_authorization().clone()
        {
            request = request.header(AUTHORIZATION, authorization);
        }
        request.send().await.map_err(RegistryError::http(step))
    }

    fn known_authorization(&self) -> std::sync::MutexGuard<'_, Option<HeaderValue>> {
        self.authorization.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// An answer's body, not longer than `maximum`.
async fn body(step: &'static str, mut answer: Response, maximum: u64) -> Result<Vec<u8>, RegistryError> {
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(RegistryError::http(step))? {
        if (bytes.len() + chunk.len()) as u64 > maximum {
            return Err(RegistryError::answer(format!("is longer than {maximum} bytes")));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// What was asked for, or an error with the registry's own words.
async fn successful(step: &'static str, answer: Response) -> Result<Response, RegistryError> {
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    let said = body(step, answer, SAID_MAX).await.unwrap_or_default();
    Err(RegistryError::Status { step, status: status.as_u16(), said: crate::error::show(&said) })
}

fn no_body() -> Result<reqwest::Body, RegistryError> {
    Ok(reqwest::Body::default())
}
