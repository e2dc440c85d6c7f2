//! One request, sent until it is answered or the patience is over.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hood_wire::api::{IDEMPOTENCY_KEY, Problem};
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use reqwest::{Method, Response, StatusCode, Url};
use serde::de::DeserializeOwned;

use crate::Error;
use crate::retry::{Backoff, Pause, Retry, Trouble};

/// The largest document that is read: a full page of a list, or a result with both previews.
const DOCUMENT_BYTES_MAX: usize = 64 * 1024 * 1024;
/// The largest explanation of an error.
const PROBLEM_BYTES_MAX: usize = 1024 * 1024;
/// How long one try of a request with a document for an answer may take, besides what it waits for.
const TRY_TIME: Duration = Duration::from_secs(60);

pub(crate) type OnPause = Arc<dyn Fn(&Pause) + Send + Sync>;

/// What is asked.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    method: Method,
    /// Segments, each encoded by itself: what a user gives as an id can be no other path.
    path: Vec<String>,
    query: Vec<(&'static str, String)>,
    body: Option<Bytes>,
    headers: Vec<(&'static str, String)>,
    wait: Duration,
}

impl Call {
    pub(crate) fn new(method: Method, path: &[&str]) -> Self {
        let path = path.iter().map(|segment| (*segment).to_owned()).collect();
        Self { method, path, query: Vec::new(), body: None, headers: Vec::new(), wait: Duration::ZERO }
    }

    pub(crate) fn get(path: &[&str]) -> Self {
        Self::new(Method::GET, path)
    }

    pub(crate) fn query(mut self, pairs: impl IntoIterator<Item = (&'static str, String)>) -> Self {
        self.query.extend(pairs);
        self
    }

    pub(crate) fn header(mut self, name: &'static str, value: impl ToString) -> Self {
        self.headers.push((name, value.to_string()));
        self
    }

    pub(crate) fn accept(self, kind: &'static str) -> Self {
        self.header(ACCEPT.as_str(), kind)
    }

    /// Asks the server to answer once the evaluation has ended, or when the time is over.
    pub(crate) fn wait(mut self, wait: Option<Duration>) -> Self {
        if let Some(wait) = wait {
            self.wait = wait;
            self.query.push(("wait", format!("{}ms", wait.as_millis())));
        }
        self
    }

    pub(crate) fn json(mut self, body: &impl serde::Serialize) -> Result<Self, Error> {
        self.body = Some(serde_json::to_vec(body).map_err(Error::Request)?.into());
        Ok(self)
    }

    pub(crate) fn idempotency_key(self, key: &str) -> Self {
        self.header(IDEMPOTENCY_KEY, key)
    }

    fn what(&self) -> String {
        format!("{} /{}", self.method, self.path.join("/"))
    }
}

/// Where calls go, and how.
#[derive(Clone)]
pub(crate) struct Caller {
    pub(crate) http: reqwest::Client,
    pub(crate) base: Url,
    pub(crate) authorization: Option<HeaderValue>,
    pub(crate) retry: Retry,
    pub(crate) on_pause: Option<OnPause>,
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller")
            .field("base", &self.base.as_str())
            .field("retry", &self.retry)
            .finish_non_exhaustive()
    }
}

impl Caller {
    /// Sends a call until it is answered with a document.
    pub(crate) async fn document<T: DeserializeOwned>(&self, call: &Call) -> Result<(StatusCode, T), Error> {
        let mut backoff = Backoff::new(self.retry);
        let (status, bytes) = loop {
            match self.try_document(call).await {
                Ok(answer) => break answer,
                Err(error) => self.pause(&mut backoff, error).await?,
            }
        };
        let document =
            serde_json::from_slice(&bytes).map_err(|source| Error::Document { what: call.what(), source })?;
        Ok((status, document))
    }

    /// Sends a call until it is answered; what the body holds is of no interest.
    pub(crate) async fn done(&self, call: &Call) -> Result<(), Error> {
        let mut backoff = Backoff::new(self.retry);
        loop {
            match self.try_once(call, Some(TRY_TIME)).await {
                Ok(_) => return Ok(()),
                Err(error) => self.pause(&mut backoff, error).await?,
            }
        }
    }

    /// One try, the whole answer included: one that breaks off in the middle is none.
    async fn try_document(&self, call: &Call) -> Result<(StatusCode, Vec<u8>), Error> {
        let response = self.try_once(call, Some(TRY_TIME + call.wait)).await?;
        let status = response.status();
        let bytes = self.read(response, &call.what(), DOCUMENT_BYTES_MAX).await?;
        Ok((status, bytes))
    }

    /// Waits before the next try, or gives the error back if there is none.
    pub(crate) async fn pause(&self, backoff: &mut Backoff, error: Error) -> Result<(), Error> {
        let Some(delay) = trouble(&error).and_then(|trouble| backoff.next(trouble, rand::random())) else {
            return Err(error);
        };
        if let Some(on_pause) = &self.on_pause {
            on_pause(&Pause { why: error.to_string(), delay });
        }
        tokio::time::sleep(delay).await;
        Ok(())
    }

    /// Sends a call once. An answer that is an error comes back as one. Without `time` the answer's
    /// body may take for ever, as a stream's does.
    pub(crate) async fn try_once(&self, call: &Call, time: Option<Duration>) -> Result<Response, Error> {
        let mut request = self.http.request(call.method.clone(), self.url(call)?);
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        for (name, value) in &call.headers {
            request = request.header(*name, value);
        }
        if let Some(body) = &call.body {
            request = request.header(CONTENT_TYPE, "application/json").body(body.clone());
        }
        if let Some(time) = time {
            request = request.timeout(time);
        }
        let response = request.send().await.map_err(|source| self.unreachable(source))?;
        if response.status().is_success() {
            return Ok(response);
        }
        Err(self.refused(response).await)
    }

    fn url(&self, call: &Call) -> Result<Url, Error> {
        let mut url = self.base.clone();
        if call.path.iter().any(|segment| matches!(segment.as_str(), "" | "." | "..")) {
            // A URL would lose these, and so name another resource.
            return Err(Error::Protocol(format!("`{}` names nothing", call.path.join("/"))));
        }
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(&call.path);
        }
        if !call.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&call.query);
        }
        Ok(url)
    }

    pub(crate) fn unreachable(&self, source: reqwest::Error) -> Error {
        // The URL is named once, by this error.
        Error::Unreachable { address: self.base.to_string(), source: source.without_url() }
    }

    async fn refused(&self, response: Response) -> Error {
        let status = response.status().as_u16();
        let retry_after = response
            .headers()
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.trim().parse().ok())
            .map(Duration::from_secs);
        let unexplained = Error::Unexplained { address: self.base.to_string(), status };
        let Ok(bytes) = self.read(response, "the request", PROBLEM_BYTES_MAX).await else {
            return unexplained;
        };
        match serde_json::from_slice::<Problem>(&bytes) {
            Ok(problem) => Error::Refused { problem: Box::new(problem), retry_after },
            Err(_) => unexplained,
        }
    }

    async fn read(&self, mut response: Response, what: &str, bytes_max: usize) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|source| self.unreachable(source))? {
            if bytes.len() + chunk.len() > bytes_max {
                return Err(Error::TooLarge { what: what.to_owned(), bytes_max });
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }
}

/// Whether trying again can help.
fn trouble(error: &Error) -> Option<Trouble> {
    match error {
        Error::Unreachable { .. } | Error::Ended(_) => Some(Trouble::Unreachable),
        Error::Refused { problem, retry_after } if matches!(problem.status, 429 | 503) => {
            Some(Trouble::Busy { retry_after: *retry_after })
        }
        // A proxy whose server restarts.
        Error::Unexplained { status: 502..=504, .. } => Some(Trouble::Unreachable),
        Error::Unexplained { status: 429, .. } => Some(Trouble::Busy { retry_after: None }),
        _ => None,
    }
}
