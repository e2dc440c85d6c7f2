//! Exit statuses: stable, and apart for "your program failed" and "Fumehood failed".

use std::process::ExitCode;

use clap::ValueEnum;
use hood_wire::api::{Evaluation, Verdict};

/// A status of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Exit(pub(super) u8);

/// What `run` makes its exit status of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum ExitFrom {
    /// The program's own status; 128+n if a signal ended it.
    #[default]
    Program,
    /// One status for each verdict, whatever the program's own was.
    Verdict,
}

const SIGNAL_BASE: u8 = 128;
const SIGINT: u8 = 2;
const SIGPIPE: u8 = 13;
const SIGXFSZ: u8 = 25;
const SIGSYS: u8 = 31;

impl Exit {
    pub(super) const DONE: Self = Self(0);
    /// The answer is no: some evaluations did not succeed, something is lacking or wrong.
    pub(super) const NO: Self = Self(1);
    pub(super) const TIMED_OUT: Self = Self(124);
    /// Fumehood failed, or was called wrongly; nothing is said of the program.
    pub(super) const FAILED: Self = Self(125);
    /// Fumehood would not take it.
    pub(super) const REFUSED: Self = Self(126);
    pub(super) const OUT_OF_MEMORY: Self = Self(137);
    /// As a program that Ctrl-C ended.
    pub(super) const CANCELLED: Self = Self(SIGNAL_BASE + SIGINT);
    /// As a program whose reader went away.
    pub(super) const BROKEN_PIPE: Self = Self(SIGNAL_BASE + SIGPIPE);
    /// As a program that wrote more than it may.
    pub(super) const OUTPUT_LIMIT: Self = Self(SIGNAL_BASE + SIGXFSZ);
    /// As a program that the kernel ended for a system call.
    pub(super) const POLICY_VIOLATION: Self = Self(SIGNAL_BASE + SIGSYS);

    /// The status of `run` for an evaluation that has ended.
    pub(super) fn of(evaluation: &Evaluation, from: ExitFrom) -> Self {
        match evaluation.verdict {
            Some(Verdict::Succeeded) => Self::DONE,
            Some(Verdict::Failed) if from == ExitFrom::Verdict => Self::NO,
            Some(Verdict::Failed) => match (evaluation.exit_code, evaluation.signal) {
                (Some(code), _) => Self(code),
                (None, Some(signal)) => Self(SIGNAL_BASE.saturating_add(signal)),
                (None, None) => Self::NO,
            },
            Some(Verdict::TimedOut) => Self::TIMED_OUT,
            Some(Verdict::OutOfMemory) => Self::OUT_OF_MEMORY,
            Some(Verdict::OutputLimit) => Self::OUTPUT_LIMIT,
            Some(Verdict::PolicyViolation) => Self::POLICY_VIOLATION,
            Some(Verdict::Cancelled) => Self::CANCELLED,
            Some(Verdict::InfrastructureError) if was_refused(evaluation) => Self::REFUSED,
            Some(Verdict::InfrastructureError) | None => Self::FAILED,
        }
    }
}

fn was_refused(evaluation: &Evaluation) -> bool {
    evaluation.evidence.as_ref().is_some_and(|evidence| evidence.refusal.is_some())
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.0)
    }
}
