//! How far a submission is trusted, and so how long it may take to say goodbye.

use std::time::Duration;

/// The submitter's own estimate of the code. It sets the grace period; the isolation is the
/// policy's to choose and no risk level lowers it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RiskLevel {
    Low,
    Medium,
    #[default]
    High,
    Critical,
}

impl RiskLevel {
    pub const ALL: [Self; 4] = [Self::Low, Self::Medium, Self::High, Self::Critical];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }

    /// Time between SIGTERM and the kill, at a deadline or a cancel.
    pub const fn grace(self) -> Duration {
        Duration::from_secs(match self {
            Self::Low => 30,
            Self::Medium => 10,
            Self::High => 5,
            Self::Critical => 2,
        })
    }
}
