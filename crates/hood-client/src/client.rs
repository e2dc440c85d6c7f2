//! The API, one method for each thing that it can do.

use std::sync::Arc;
use std::time::Duration;

use hood_wire::api::{
    Batch, BatchCreated, BatchSubmission, CancelRequest, DeadList, Environment, EnvironmentList, Evaluation,
    EvaluationList, EventList, HealthDetail, Proof, QueueStatus, RequeueReport, RequeueRequest, Submission,
    Version,
};
use reqwest::{Method, StatusCode, Url};

use crate::call::{Call, Caller, OnPause};
use crate::error::{Error, WrongAddress};
use crate::follow::{EventStream, OutputStream, Stream};
use crate::query::{DeadQuery, ListQuery};
use crate::retry::{Pause, Retry};
use crate::token::Token;

/// How long a connection may take to come about.
const CONNECT_TIME: Duration = Duration::from_secs(5);
/// How soon a silent connection is asked whether its other end is still there.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// Connections kept for the next request.
const IDLE_CONNECTIONS_MAX: usize = 32;

/// A client of one server. Cheap to clone; all clones share their connections.
#[derive(Clone, Debug)]
pub struct Client {
    caller: Arc<Caller>,
}

/// What a submission led to.
#[derive(Clone, Debug, PartialEq)]
pub struct Submitted {
    pub evaluation: Evaluation,
    /// False where the same submission had been accepted under the same key before.
    pub created: bool,
}

/// How a client is made.
pub struct ClientBuilder {
    address: String,
    token: Option<Token>,
    retry: Retry,
    on_pause: Option<OnPause>,
}

impl std::fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientBuilder")
            .field("address", &self.address)
            .field("token", &self.token)
            .field("retry", &self.retry)
            .finish_non_exhaustive()
    }
}

impl ClientBuilder {
    #[must_use]
    pub fn token(mut self, token: Token) -> Self {
        self.token = Some(token);
        self
    }

    #[must_use]
    pub fn retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// Called before each pause between two tries.
    #[must_use]
    pub fn on_pause(mut self, on_pause: impl Fn(&Pause) + Send + Sync + 'static) -> Self {
        self.on_pause = Some(Arc::new(on_pause));
        self
    }

    pub fn build(self) -> Result<Client, Error> {
        let base = base(&self.address)
            .map_err(|problem| Error::Address { address: self.address.clone(), problem })?;
        let authorization = match &self.token {
            Some(token) => Some(token.header().ok_or(Error::Token)?),
            None => None,
        };
        let http = reqwest::Client::builder()
            .user_agent(concat!("fumehood/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIME)
            .tcp_keepalive(KEEPALIVE)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            // The token is for this server alone: no proxy of the environment, no redirect.
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            // It speaks HTTP alone, so nobody's certificates are read, nor missed where a host has none.
            .tls_certs_only([])
            .build()
            .map_err(Error::Setup)?;
        let caller = Caller { http, base, authorization, retry: self.retry, on_pause: self.on_pause };
        Ok(Client { caller: Arc::new(caller) })
    }
}

fn base(address: &str) -> Result<Url, WrongAddress> {
    let url = Url::parse(address).map_err(|_| WrongAddress::NotUrl)?;
    let plain = url.username().is_empty() && url.password().is_none();
    match url.scheme() {
        "http" if plain && url.query().is_none() && url.fragment().is_none() => Ok(url),
        "http" => Err(WrongAddress::Extras),
        // `localhost:7470` parses as a URL of the scheme `localhost`.
        _ if url.cannot_be_a_base() => Err(WrongAddress::NotUrl),
        _ => Err(WrongAddress::Scheme),
    }
}

/// A key that no other submission has.
fn fresh_key() -> String {
    format!("{:032x}", rand::random::<u128>())
}

impl Client {
    /// A client of the server at `address`, such as `http://127.0.0.1:7470`.
    pub fn builder(address: &str) -> ClientBuilder {
        ClientBuilder { address: address.to_owned(), token: None, retry: Retry::BRIEF, on_pause: None }
    }

    /// The same server and token, with another patience.
    #[must_use]
    pub fn with_retry(&self, retry: Retry) -> Self {
        Self { caller: Arc::new(Caller { retry, ..(*self.caller).clone() }) }
    }

    pub fn address(&self) -> &str {
        self.caller.base.as_str()
    }

    /// Submits under a key of its own, so that a lost answer leads to no second evaluation.
    pub async fn submit(&self, submission: &Submission, wait: Option<Duration>) -> Result<Submitted, Error> {
        self.submit_once(submission, &fresh_key(), wait).await
    }

    /// Submits under a given key: the same key and submission give the same evaluation again.
    pub async fn submit_once(
        &self,
        submission: &Submission,
        key: &str,
        wait: Option<Duration>,
    ) -> Result<Submitted, Error> {
        let call = Call::new(Method::POST, &["v1", "evaluations"]).wait(wait).idempotency_key(key);
        let (status, evaluation) = self.caller.document(&call.json(submission)?).await?;
        Ok(Submitted { evaluation, created: status == StatusCode::CREATED })
    }

    /// Submits all, or none.
    pub async fn submit_batch(&self, batch: &BatchSubmission, key: &str) -> Result<BatchCreated, Error> {
        let call = Call::new(Method::POST, &["v1", "batches"]).idempotency_key(key).json(batch)?;
        self.document(&call).await
    }

    pub async fn batch(&self, id: &str) -> Result<Batch, Error> {
        self.document(&Call::get(&["v1", "batches", id])).await
    }

    /// With `wait`, answers once the evaluation has ended, or with what there is when the time is
    /// over.
    pub async fn get(&self, id: &str, wait: Option<Duration>) -> Result<Evaluation, Error> {
        self.document(&Call::get(&["v1", "evaluations", id]).wait(wait)).await
    }

    pub async fn list(&self, query: &ListQuery) -> Result<EvaluationList, Error> {
        self.document(&Call::get(&["v1", "evaluations"]).query(query.pairs())).await
    }

    /// One page of the events that there are.
    pub async fn events(&self, id: &str, cursor: Option<&str>) -> Result<EventList, Error> {
        let cursor = cursor.map(|cursor| ("cursor", cursor.to_owned()));
        self.document(&Call::get(&["v1", "evaluations", id, "events"]).query(cursor)).await
    }

    /// Every event after number `after`, as it happens, up to the terminal one.
    pub fn follow_events(&self, id: &str, after: u64) -> EventStream {
        EventStream::new(Arc::clone(&self.caller), id, after)
    }

    /// A stream's bytes from `offset` on, as they are written, up to the attempt's end.
    pub fn follow_output(&self, id: &str, stream: Stream, attempt: u32, offset: u64) -> OutputStream {
        OutputStream::new(Arc::clone(&self.caller), id, (stream, attempt), offset)
    }

    /// `grace` between SIGTERM and the kill; zero kills at once, none leaves it to the evaluation's
    /// own. Cancelling twice, or what has ended, changes nothing.
    pub async fn cancel(&self, id: &str, grace: Option<Duration>) -> Result<Evaluation, Error> {
        let grace_ms = grace.map(|grace| u64::try_from(grace.as_millis()).unwrap_or(u64::MAX));
        let call = Call::new(Method::POST, &["v1", "evaluations", id, "cancel"]);
        self.document(&call.json(&CancelRequest { grace_ms })?).await
    }

    /// Removes an evaluation that has ended, with everything that is kept of it.
    pub async fn delete(&self, id: &str) -> Result<(), Error> {
        self.caller.done(&Call::new(Method::DELETE, &["v1", "evaluations", id])).await
    }

    /// What infrastructure failed, with every attempt.
    pub async fn dead(&self, query: &DeadQuery) -> Result<DeadList, Error> {
        self.document(&Call::get(&["v1", "dead"]).query(query.pairs())).await
    }

    /// Gives it another life. Asked twice it does so once.
    pub async fn requeue(&self, request: &RequeueRequest) -> Result<RequeueReport, Error> {
        self.document(&Call::new(Method::POST, &["v1", "dead", "requeue"]).json(request)?).await
    }

    pub async fn environments(&self) -> Result<EnvironmentList, Error> {
        self.document(&Call::get(&["v1", "environments"])).await
    }

    pub async fn environment(&self, name: &str) -> Result<Environment, Error> {
        self.document(&Call::get(&["v1", "environments", name])).await
    }

    pub async fn queue(&self) -> Result<QueueStatus, Error> {
        self.document(&Call::get(&["v1", "queue"])).await
    }

    pub async fn health_detail(&self) -> Result<HealthDetail, Error> {
        self.document(&Call::get(&["health", "detailed"])).await
    }

    pub async fn version(&self) -> Result<Version, Error> {
        self.document(&Call::get(&["v1", "version"])).await
    }

    /// What the server answers to a challenge, by which whoever can read its data directory knows it.
    pub async fn proof(&self, challenge: &str) -> Result<String, Error> {
        let Proof { proof } = self.document(&Call::get(&["v1", "proof", challenge])).await?;
        Ok(proof)
    }

    async fn document<T: serde::de::DeserializeOwned>(&self, call: &Call) -> Result<T, Error> {
        self.caller.document(call).await.map(|(_, document)| document)
    }
}
