use std::collections::BTreeMap;

use hood_core::{BatchId, EvaluationId, Tenant, Timestamp, Verdict};

/// One event that is told to one URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryId {
    pub tenant: Tenant,
    pub evaluation: EvaluationId,
    /// The event's number.
    pub event: u64,
}

/// What is to be told, and to whom. Everything that the message says is in it: whoever sends asks
/// nobody else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    pub id: DeliveryId,
    pub url: String,
    /// When the event was.
    pub created_at: Timestamp,
    pub verdict: Verdict,
    pub attempts: u32,
    pub labels: BTreeMap<String, String>,
    pub batch: Option<BatchId>,
    pub accepted_at: Timestamp,
    pub leased_at: Option<Timestamp>,
    pub ready_at: Option<Timestamp>,
    pub result: String,
    /// Times it was sent in vain.
    pub tries: u32,
    /// Of this claim: who settles with an older one affects nothing.
    pub token: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryState {
    Pending,
    Delivered,
    /// Tried often enough.
    Dead,
}

impl DeliveryState {
    pub const ALL: [Self; 3] = [Self::Pending, Self::Delivered, Self::Dead];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Dead => "dead",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

/// A delivery as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryRecord {
    pub id: DeliveryId,
    pub url: String,
    pub state: DeliveryState,
    pub tries: u32,
    pub created_at: Timestamp,
    /// Of one that is pending.
    pub due_at: Option<Timestamp>,
    pub settled_at: Option<Timestamp>,
    pub last_status: Option<u16>,
    pub last_reason: Option<String>,
}

/// What is still to be told, of everybody together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeliveryBacklog {
    /// Counted up to ten thousand.
    pub pending: u64,
    /// When the first of them is, or was, due.
    pub due_at: Option<Timestamp>,
}

/// What came of one claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settled {
    Delivered {
        at: Timestamp,
        status: u16,
    },
    /// In vain: again then.
    Failed {
        due_at: Timestamp,
        status: Option<u16>,
        reason: String,
    },
    /// In vain, and for the last time.
    Dead {
        at: Timestamp,
        status: Option<u16>,
        reason: String,
    },
    /// Not sent: its turn is later.
    Postponed {
        due_at: Timestamp,
    },
}
