//! The nine ways an evaluation can end, as the world sees them.

/// What became of an evaluation. Only [`Verdict::InfrastructureError`] speaks of us; every other
/// one speaks of the program, and none of those is ever retried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// The main process ended with exit code 0. It says no more than that.
    Succeeded,
    /// The program was to be built first, and its build did not end with exit code 0. The program
    /// itself never ran.
    BuildFailed,
    Failed,
    TimedOut,
    OutOfMemory,
    OutputLimit,
    PolicyViolation,
    Cancelled,
    InfrastructureError,
}

impl Verdict {
    pub const ALL: [Self; 9] = [
        Self::Succeeded,
        Self::BuildFailed,
        Self::Failed,
        Self::TimedOut,
        Self::OutOfMemory,
        Self::OutputLimit,
        Self::PolicyViolation,
        Self::Cancelled,
        Self::InfrastructureError,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::BuildFailed => "build_failed",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::OutOfMemory => "out_of_memory",
            Self::OutputLimit => "output_limit",
            Self::PolicyViolation => "policy_violation",
            Self::Cancelled => "cancelled",
            Self::InfrastructureError => "infrastructure_error",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|verdict| verdict.as_str() == text)
    }
}
