//! What operations lock, and the order in which everybody locks it.

use uuid::Uuid;

/// Within a transaction operations run in this order, and whatever takes several locks of a kind
/// takes them in order too.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Turn {
    /// New rows, and an idempotency key that somebody else may be taking.
    Accept { key: Option<String>, evaluations: u64 },
    /// One evaluation's row, waited for.
    Row(Uuid),
    /// Rows that nobody holds now: what is held is passed over. After this nothing is waited for.
    Sweep,
    /// Several rows, or ones that everybody wants: in a transaction of its own where others write too.
    Alone,
}

impl Turn {
    /// How many evaluations it adds to the queue.
    pub(super) const fn evaluations(&self) -> u64 {
        match self {
            Self::Accept { evaluations, .. } => *evaluations,
            Self::Row(_) | Self::Sweep | Self::Alone => 0,
        }
    }
}
