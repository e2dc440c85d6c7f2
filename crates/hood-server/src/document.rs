//! The documents that the store keeps for us as text: it never looks into them. They are versioned
//! by being tolerant: a field added later has a default.

use hood_wire::api;
use serde::{Deserialize, Serialize};

/// What was accepted: the submission, and what the server made of what it left open.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AcceptedDocument {
    pub submission: api::Submission,
    pub environment: String,
    /// Every limit, resolved: none is null.
    pub limits: api::Limits,
    pub grace_ms: u64,
    pub priority: u8,
}

/// What came of it, written in the transaction that ends it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResultDocument {
    pub exit_code: Option<u8>,
    pub signal: Option<u8>,
    pub evidence: api::Evidence,
    pub usage: api::Usage,
    /// As enforced: null where the place could not hold one.
    pub limits: api::Limits,
    pub stdout: StreamDocument,
    pub stderr: StreamDocument,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamDocument {
    /// Bytes that the program wrote.
    pub bytes: u64,
    pub complete: bool,
}
