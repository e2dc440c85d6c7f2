use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use hood_wire::dispatch as wire;

use crate::dispatch::AttemptKey;

/// One request of a worker.
#[derive(Clone, Debug)]
pub enum Call {
    Execute { key: AttemptKey, order: Arc<wire::Order> },
    Status { key: AttemptKey, request: wire::StatusRequest },
    Acknowledge { key: AttemptKey, acknowledge: wire::Acknowledge },
    Cancel { key: AttemptKey, cancel: wire::Cancel },
    Capacity,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Opened(wire::Opened),
    Status(wire::Status),
    Done,
    Capacity(wire::Catalogue),
}

/// What was said, and by whom: the name is the one that the transport has authenticated.
#[derive(Clone, Debug)]
pub struct Said<T> {
    pub by: String,
    pub what: T,
}

#[derive(Clone, Debug)]
pub enum Failure {
    /// It may or may not have arrived.
    Unreachable(String),
    Refused(wire::Problem),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(why) => f.write_str(why),
            Self::Refused(problem) if problem.detail.is_empty() => f.write_str(&problem.title),
            Self::Refused(problem) => write!(f, "{}: {}", problem.title, problem.detail),
        }
    }
}

/// Frames in the order in which they were sent, until the stream breaks or ends.
pub type Frames = BoxStream<'static, Result<wire::Frame, Failure>>;

/// The way to one dispatcher.
pub trait Transport: Send + Sync + fmt::Debug {
    fn call(&self, call: Call) -> BoxFuture<'_, Result<Said<Answer>, Failure>>;

    fn listen(&self, key: AttemptKey, listen: wire::Listen) -> BoxFuture<'_, Result<Said<Frames>, Failure>>;
}
