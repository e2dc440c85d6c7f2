//! The log of an evaluation: one event for each transition, numbered from 1 without gaps.

use crate::lifecycle::State;
use crate::time::Timestamp;
use crate::verdict::Verdict;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    pub number: u64,
    pub at: Timestamp,
    pub kind: EventKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    Submitted,
    /// Leased for a new attempt. Whoever follows output discards what it has and begins at 0.
    AttemptStarted {
        attempt: u32,
    },
    /// The place is ready and the program is released into it.
    Started {
        attempt: u32,
    },
    /// The attempt was lost to infrastructure, or no place could take it; the next one begins no earlier than
    /// told.
    RetryScheduled {
        attempt: u32,
        not_before: Timestamp,
    },
    Finished {
        verdict: Verdict,
    },
}

impl EventKind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Submitted => "submitted",
            Self::AttemptStarted { .. } => "attempt_started",
            Self::Started { .. } => "started",
            Self::RetryScheduled { .. } => "retry_scheduled",
            Self::Finished { .. } => "finished",
        }
    }

    /// The state that the evaluation is in once this has happened.
    pub const fn state(self) -> State {
        match self {
            Self::Submitted | Self::RetryScheduled { .. } => State::Queued,
            Self::AttemptStarted { .. } => State::Provisioning,
            Self::Started { .. } => State::Running,
            Self::Finished { verdict } => State::of(verdict),
        }
    }
}
