//! The HTTP API, version 1. A request passes the guards (`guard`), is answered by a handler
//! (`evaluations`, `batches`, `environments`, `service`), and leaves with its id and, where it
//! failed, a problem that says what to do. Handlers read and write the store and nothing else: what
//! runs evaluations is never called from here.

mod admission;
mod batches;
mod body;
mod catalogue;
mod config;
mod dead;
mod deliveries;
mod docs;
mod environments;
mod error;
mod evaluations;
mod guard;
mod openapi;
mod path;
mod query;
mod routes;
mod serve;
mod service;
mod state;
mod submission;
mod text;
mod watch;

pub use config::{
    ApiConfig, ApiLimits, BodyLimits, ConnectionLimits, PageLimits, RateLimits, StreamLimits,
    SubmissionLimits,
};
pub use docs::errors_markdown;
pub use guard::{HostPolicy, token_hash};
pub use openapi::openapi;
pub use routes::router;
pub use serve::serve;
pub use state::{ApiParts, ApiState};
