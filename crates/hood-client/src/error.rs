//! What can go wrong between a client and a server.

use std::time::Duration;

use hood_wire::api::Problem;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("`{address}` is no address of a server: {problem}")]
    Address { address: String, problem: WrongAddress },
    /// A token with characters that no header can carry.
    #[error("the token holds characters that no token has")]
    Token,
    #[error("cannot set up the HTTP client")]
    Setup(#[source] reqwest::Error),
    /// No answer came: the server is not there, or went away meanwhile.
    #[error("cannot reach the server at {address}")]
    Unreachable {
        address: String,
        #[source]
        source: reqwest::Error,
    },
    /// The server said no, and why.
    #[error("{}", said(.problem))]
    Refused { problem: Box<Problem>, retry_after: Option<Duration> },
    /// An error without a document that explains it: something else may stand between.
    #[error("the server at {address} answered {status} without saying why: is it Fumehood's?")]
    Unexplained { address: String, status: u16 },
    #[error("cannot read the answer to {what}")]
    Document {
        what: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("cannot write the request as JSON")]
    Request(#[source] serde_json::Error),
    #[error("the server ended {0} too early")]
    Ended(&'static str),
    #[error("the server broke the protocol: {0}")]
    Protocol(String),
    #[error("the answer to {what} is larger than {bytes_max} bytes")]
    TooLarge { what: String, bytes_max: usize },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WrongAddress {
    #[error("it is no URL; an example is http://127.0.0.1:7470")]
    NotUrl,
    #[error("only http:// is spoken; for https put a proxy or a tunnel of this machine between")]
    Scheme,
    #[error("it may hold no user, password, query or fragment; the token is given apart")]
    Extras,
}

impl Error {
    /// The status that the server answered with, if it did.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Refused { problem, .. } => Some(problem.status),
            Self::Unexplained { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// The problem's stable code, where the server explained itself.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Refused { problem, .. } => Some(&problem.code),
            _ => None,
        }
    }

    pub fn is_not_found(&self) -> bool {
        self.status() == Some(404)
    }
}

fn said(problem: &Problem) -> String {
    let mut text = problem.title.clone();
    let repeated = problem.detail.get(..text.len()).is_some_and(|start| start.eq_ignore_ascii_case(&text));
    if repeated {
        text.clone_from(&problem.detail);
    } else if !problem.detail.is_empty() {
        text = format!("{text}: {}", problem.detail);
    }
    for error in &problem.errors {
        let line = format!("{}: {}", error.path, error.message);
        // The detail of a single wrong field is that field's.
        if !problem.detail.contains(&line) {
            text = format!("{text}\n  {line}");
        }
    }
    text
}
