use std::collections::BTreeMap;
use std::fmt;

use hood_core::{BatchId, EvaluationId, Tenant, Timestamp};

/// An API key as it is stored: the token itself is never seen here.
#[derive(Clone)]
pub struct NewKey {
    pub tenant: Tenant,
    pub name: String,
    /// blake3 of the token.
    pub hash: [u8; 32],
    pub created_at: Timestamp,
}

impl fmt::Debug for NewKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewKey")
            .field("tenant", &self.tenant)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Who a token speaks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    pub tenant: Tenant,
    pub name: String,
}

#[derive(Clone, Debug)]
pub struct NewEvaluation {
    /// Made by the caller at the time of submission, and at most an hour before: it is also the order
    /// of the queue and of lists.
    pub id: EvaluationId,
    pub environment: String,
    /// Higher is claimed first.
    pub priority: u8,
    pub labels: BTreeMap<String, String>,
    /// A URL that is told of its end.
    pub callback: Option<String>,
    /// What was asked for; of one that has an `input`, what is shown of it.
    pub request: String,
    /// All that was asked for, where that is too large for the database: it is kept as a blob.
    pub input: Option<String>,
}

/// What is accepted as a whole or not at all.
#[derive(Clone, Debug)]
pub struct NewSubmission {
    /// `None` for a single evaluation.
    pub batch: Option<BatchId>,
    pub evaluations: Vec<NewEvaluation>,
    pub idempotency: Option<Idempotency>,
}

/// Kept as long as the evaluation, and for a batch as long as any of it.
#[derive(Clone, Debug)]
pub struct Idempotency {
    pub key: String,
    /// blake3 of the body, so that the same key with another body is told apart.
    pub fingerprint: [u8; 32],
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Accepted {
    New,
    /// The same key and fingerprint came before. The ids are in the order they were submitted in;
    /// those deleted since are not among them.
    Existing {
        batch: Option<BatchId>,
        evaluations: Vec<EvaluationId>,
    },
}

/// What came of giving one another life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requeued {
    As(EvaluationId),
    /// It was before, as this one.
    Already(EvaluationId),
    /// It has not ended, or not for want of infrastructure.
    NotDead,
    /// It is in the archive, and its request with it.
    Archived,
    NotFound,
}

/// Which evaluation one came of, and which came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lives {
    pub before: Option<EvaluationId>,
    pub after: Option<EvaluationId>,
}
