//! One request to one target.

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::CONTENT_TYPE;
use reqwest::{Certificate, Client, ClientBuilder, redirect};

use super::{Rules, Signer, Target};

/// From the name's resolution to the answer's end.
pub const SEND_TIME_MAX: Duration = Duration::from_secs(10);
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);

/// Of an answer's body so much is read, so that a connection ends in order, and all of it is dropped.
const ANSWER_BYTES_MAX: usize = 1024;

/// How much of a reason is kept with the delivery.
const REASON_CHARS_MAX: usize = 300;

const ID: &str = "webhook-id";
const TIMESTAMP: &str = "webhook-timestamp";
const SIGNATURE: &str = "webhook-signature";

#[derive(Debug, thiserror::Error)]
pub enum SenderError {
    #[error("the certificates of webhooks.ca cannot be read")]
    Certificates(#[source] reqwest::Error),
    #[error("cannot set up the client that webhooks are sent with")]
    Client(#[source] reqwest::Error),
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sent {
    Taken {
        status: u16,
    },
    /// Another time may do.
    Failed {
        status: Option<u16>,
        reason: String,
    },
    /// No other time will: the target said that it is gone.
    Refused {
        status: Option<u16>,
        reason: String,
    },
}

#[derive(Debug)]
pub struct Sender {
    http: Client,
    rules: Arc<Rules>,
    signer: Signer,
}

impl Sender {
    /// `ca` holds certificates, in PEM, that are believed besides the host's.
    pub fn new(rules: Arc<Rules>, ca: Option<&[u8]>, signer: Signer) -> Result<Self, SenderError> {
        let http = match ca {
            Some(pem) => {
                let certificates = Certificate::from_pem_bundle(pem).map_err(SenderError::Certificates)?;
                builder(&rules).tls_certs_merge(certificates).build()
            }
            // What fails is that the host, as a container may, has no certificates of authorities at all.
            None => builder(&rules).build().or_else(|error| {
                tracing::warn!(
                    error = &error as &dyn Error,
                    "webhooks over TLS will fail, those without are sent; webhooks.ca or SSL_CERT_FILE can name certificates"
                );
                builder(&rules).tls_certs_only([]).build()
            }),
        };
        Ok(Self { http: http.map_err(SenderError::Client)?, rules, signer })
    }

    pub fn rules(&self) -> &Arc<Rules> {
        &self.rules
    }

    /// `seconds` is the time of sending, since 1970.
    pub async fn send(&self, target: &Target, id: &str, seconds: i64, body: String) -> Sent {
        let signature = self.signer.sign(id, seconds, body.as_bytes());
        let request = self
            .http
            .post(target.url().clone())
            .header(CONTENT_TYPE, "application/json")
            .header(ID, id)
            .header(TIMESTAMP, seconds)
            .header(SIGNATURE, signature)
            .body(body);
        match request.send().await {
            Ok(answer) => judge(answer).await,
            Err(error) => failed(&error, id),
        }
    }
}

fn builder(rules: &Arc<Rules>) -> ClientBuilder {
    Client::builder()
        .user_agent(concat!("fumehood/", env!("CARGO_PKG_VERSION")))
        .no_proxy()
        .redirect(redirect::Policy::none())
        .dns_resolver(Arc::new(Checked(Arc::clone(rules))))
        .connect_timeout(CONNECT_TIME_MAX)
        .timeout(SEND_TIME_MAX)
        .http1_only()
        // A connection that was kept would be to an address that was checked before.
        .pool_max_idle_per_host(0)
}

async fn judge(mut answer: reqwest::Response) -> Sent {
    const GONE: u16 = 410;
    let status = answer.status();
    let mut read = 0;
    while read < ANSWER_BYTES_MAX {
        // The status is what counts: how the rest ends does not.
        let Ok(Some(piece)) = answer.chunk().await else { break };
        read += piece.len();
    }
    let code = status.as_u16();
    match code {
        200..=299 => Sent::Taken { status: code },
        GONE => {
            Sent::Refused { status: Some(code), reason: "the target answered that it is gone".to_owned() }
        }
        300..=399 => Sent::Failed {
            status: Some(code),
            reason: "the target redirects, which is not followed".to_owned(),
        },
        _ => Sent::Failed { status: Some(code), reason: format!("the target answered {code}") },
    }
}

fn failed(error: &reqwest::Error, id: &str) -> Sent {
    // What a name stands for here, and whether it stands for anything, is the operator's to know: it goes
    // to the log, and whoever submitted the URL reads the rest.
    if let Some(unusable) = cause::<Unusable>(error) {
        tracing::info!(
            webhook.id = id,
            reason = unusable.detail,
            "the name of a webhook's target is not used"
        );
        return Sent::Failed { status: None, reason: unusable.to_string() };
    }
    let mut reason = String::new();
    // The outermost names the URL, which may hold a secret in its query.
    let mut next = error.source();
    while let Some(cause) = next {
        if !reason.is_empty() {
            reason.push_str(": ");
        }
        reason.push_str(&cause.to_string());
        next = cause.source();
    }
    if reason.is_empty() {
        let timed_out = error.is_timeout();
        reason = if timed_out { "no answer in time" } else { "the request failed" }.to_owned();
    }
    let reason = reason.chars().take(REASON_CHARS_MAX).collect();
    // A name may stand for another address later: one that is refused is tried again like any other.
    Sent::Failed { status: None, reason }
}

/// The first of that type among the causes.
fn cause<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// One text for a name that is not found and for one within this network: two would tell whoever may
/// submit which names there are inside. `detail` tells them apart.
#[derive(Debug, thiserror::Error)]
#[error(
    "its name stands for no address that may be called: it is not found, or one of its addresses is private, loopback, link-local or refused by the operator; the server's log says which"
)]
struct Unusable {
    detail: String,
}

/// Resolves names, and gives those addresses alone that may be connected to: the client connects to
/// what it is given, and asks nobody again.
#[derive(Debug)]
struct Checked(Arc<Rules>);

impl Resolve for Checked {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(checked(Arc::clone(&self.0), name.as_str().to_owned()))
    }
}

async fn checked(rules: Arc<Rules>, name: String) -> Result<Addrs, Box<dyn Error + Send + Sync>> {
    let looked_up = tokio::net::lookup_host((name.as_str(), 0)).await;
    let found: Vec<SocketAddr> = match looked_up {
        Ok(found) => found.collect(),
        Err(error) => return Err(Unusable { detail: format!("{name} is not found: {error}") }.into()),
    };
    // One wrong address among them refuses the name: it is how a check is played with.
    for found in &found {
        let address = found.ip();
        if let Some(why) = rules.refusal(address) {
            let detail = format!("{name} stands for {address}, which is not connected to: {why}");
            return Err(Unusable { detail }.into());
        }
    }
    if found.is_empty() {
        return Err(Unusable { detail: format!("{name} stands for no address") }.into());
    }
    Ok(Box::new(found.into_iter()))
}
