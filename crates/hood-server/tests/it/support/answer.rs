//! An answer, read to its end, and held to the OpenAPI document.

use hood_wire::api::Problem;
use reqwest::header::{CONTENT_TYPE, HeaderMap};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::contract;

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) async fn of(request: reqwest::RequestBuilder) -> Self {
        let (client, request) = request.build_split();
        let request = request.expect("a request");
        let (method, path) = (request.method().clone(), request.url().path().to_owned());
        let response = client.execute(request).await.expect("an answer");
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        contract::check(method.as_str(), &path, status, &headers);
        let body = response.bytes().await.expect("a whole body").to_vec();
        Self { status, headers, body }
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("visible"))
    }

    /// Itself, if its status is the one expected.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.body));
        self
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        self.read()
    }

    #[track_caller]
    pub(crate) fn read<T: DeserializeOwned>(&self) -> T {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }

    /// The problem that it carries, if it is one of this status and code, whole in every part.
    #[track_caller]
    pub(crate) fn problem(&self, status: u16, code: &str) -> Problem {
        let problem: Problem = self.read();
        assert_eq!((self.status, problem.code.as_str()), (status, code), "{problem:?}");
        assert_eq!(problem.status, status);
        assert_eq!(self.headers[CONTENT_TYPE], "application/problem+json");
        assert_eq!(problem.kind, format!("/docs/errors#{code}"));
        assert_eq!(problem.request_id, self.header("x-request-id"));
        assert!(!problem.title.is_empty() && !problem.detail.is_empty());
        problem
    }

    /// The paths that the problem names.
    #[track_caller]
    pub(crate) fn wrong_paths(&self, status: u16, code: &str) -> Vec<String> {
        self.problem(status, code).errors.into_iter().map(|error| error.path).collect()
    }
}
