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
    /// With `--exit-code verdict`: the program never ran, because its build failed.
    pub(super) const BUILD_FAILED: Self = Self(123);
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
            Some(Verdict::BuildFailed) if from == ExitFrom::Verdict => Self::BUILD_FAILED,
            Some(Verdict::BuildFailed) => {
                let how = evaluation.build.as_ref().and_then(|build| build.verdict);
                Self::of_program(how.unwrap_or(Verdict::Failed), evaluation)
            }
            Some(Verdict::Failed) if from == ExitFrom::Verdict => Self::NO,
            Some(verdict) => Self::of_program(verdict, evaluation),
            None => Self::FAILED,
        }
    }

    fn of_program(verdict: Verdict, evaluation: &Evaluation) -> Self {
        match verdict {
            Verdict::Succeeded => Self::DONE,
            Verdict::BuildFailed => Self::NO,
            Verdict::Failed => match (evaluation.exit_code, evaluation.signal) {
                (Some(code), _) => Self(code),
                (None, Some(signal)) => Self(SIGNAL_BASE.saturating_add(signal)),
                (None, None) => Self::NO,
            },
            Verdict::TimedOut => Self::TIMED_OUT,
            Verdict::OutOfMemory => Self::OUT_OF_MEMORY,
            Verdict::OutputLimit => Self::OUTPUT_LIMIT,
            Verdict::PolicyViolation => Self::POLICY_VIOLATION,
            Verdict::Cancelled => Self::CANCELLED,
            Verdict::InfrastructureError if was_refused(evaluation) => Self::REFUSED,
            Verdict::InfrastructureError => Self::FAILED,
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

#[cfg(test)]
mod tests {
    use super::*;

    /// An evaluation that ended so; everything else is as it may.
    fn ended(verdict: &str, exit_code: Option<u8>, signal: Option<u8>, refused: bool) -> Evaluation {
        let stream = serde_json::json!({
            "preview": "", "preview_truncated": false, "bytes": 0, "kept_bytes": 0, "truncated": false,
            "complete": true,
        });
        let refusal = refused.then(|| serde_json::json!({"code": "too_large", "reason": "r"}));
        serde_json::from_value(serde_json::json!({
            "id": "ev_1", "state": "failed", "verdict": verdict, "exit_code": exit_code, "signal": signal,
            "evidence": {
                "decided_by": "wait_status", "oom_kills": 0, "forks_refused": 0, "suspect": false,
                "degraded": [], "refusal": refusal,
            },
            "stdout": stream, "stderr": stream, "environment": {"name": "minimal"}, "limits": {},
            "risk_level": "high", "grace_ms": 0, "priority": 5, "usage": {}, "timings": {}, "attempts": [],
            "labels": {}, "cancel_requested": false, "created_at": "t",
        }))
        .expect("an evaluation")
    }

    #[test]
    fn every_end_has_its_status() {
        let table = [
            (ended("succeeded", Some(0), None, false), 0, 0),
            (ended("failed", Some(7), None, false), 7, 1),
            (ended("build_failed", Some(2), None, false), 2, 123),
            (ended("build_failed", None, Some(11), false), 139, 123),
            (ended("failed", Some(124), None, false), 124, 1),
            (ended("failed", None, Some(11), false), 139, 1),
            (ended("timed_out", None, Some(9), false), 124, 124),
            (ended("out_of_memory", Some(0), None, false), 137, 137),
            (ended("output_limit", None, Some(9), false), 153, 153),
            (ended("policy_violation", None, Some(31), false), 159, 159),
            (ended("cancelled", Some(0), None, false), 130, 130),
            (ended("infrastructure_error", None, None, false), 125, 125),
            (ended("infrastructure_error", None, None, true), 126, 126),
        ];
        for (evaluation, program, verdict) in table {
            assert_eq!(Exit::of(&evaluation, ExitFrom::Program), Exit(program), "{:?}", evaluation.verdict);
            assert_eq!(Exit::of(&evaluation, ExitFrom::Verdict), Exit(verdict), "{:?}", evaluation.verdict);
        }
    }
}
