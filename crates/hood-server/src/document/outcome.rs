//! What the worker found out, as documents.

use hood_core::outcome::{BuildSeen, KilledBy, Observation, Outcome, Rule, StreamEnd, Usage};
use hood_core::plan::Degraded;
use hood_core::{Assignment, Timestamp};
use hood_wire::api;

use super::{BuildDocument, Moments, ResultDocument, StreamDocument, limits_to_wire, verdict_to_wire};

impl ResultDocument {
    /// The end of one that ran, with everything that was seen of it. `suspect`: an earlier attempt
    /// was lost after the program's first instruction.
    pub fn of_run(outcome: &Outcome, seen: &Observation, assignment: &Assignment, suspect: bool) -> Self {
        Self {
            exit_code: outcome.exit_code,
            signal: outcome.signal,
            evidence: evidence_of(outcome, decisive(outcome, seen), &assignment.degraded, suspect),
            usage: usage_to_wire(&seen.usage),
            limits: Some(limits_to_wire(&assignment.limits, &assignment.unenforced)),
            stdout: stream_document(&seen.stdout),
            stderr: stream_document(&seen.stderr),
            build: seen.build.as_deref().map(|build| build_document(build, assignment)),
            moments: Moments::default(),
        }
    }
}

/// What the outcome speaks of: of a build that failed, the build.
fn decisive<'a>(outcome: &Outcome, seen: &'a Observation) -> &'a Observation {
    match (&seen.build, outcome.decided_by) {
        (Some(build), Rule::Build) => &build.seen,
        _ => seen,
    }
}

/// A build as it is kept with its evaluation's result.
pub fn build_document(build: &BuildSeen, assignment: &Assignment) -> BuildDocument {
    let BuildSeen { limits, seen } = build;
    let outcome = build.outcome();
    let evidence = outcome.as_ref().map(|outcome| evidence_of(outcome, seen, &assignment.degraded, false));
    BuildDocument {
        verdict: outcome.as_ref().map(|outcome| verdict_to_wire(outcome.verdict)),
        exit_code: outcome.as_ref().and_then(|outcome| outcome.exit_code),
        signal: outcome.as_ref().and_then(|outcome| outcome.signal),
        evidence: evidence.unwrap_or_default(),
        usage: usage_to_wire(&seen.usage),
        limits: limits_to_wire(limits, &assignment.unenforced),
        output: stream_document(&build.output()),
    }
}

pub fn evidence_of(
    outcome: &Outcome,
    seen: &Observation,
    degraded: &[Degraded],
    suspect: bool,
) -> api::Evidence {
    api::Evidence {
        decided_by: outcome.decided_by.as_str().to_owned(),
        kill: seen.kill.map(|kill| api::Kill {
            cause: kill.cause.as_str().to_owned(),
            by: match kill.by {
                KilledBy::Agent => "agent",
                KilledBy::Supervisor => "supervisor",
            }
            .to_owned(),
        }),
        limit: outcome
            .limit
            .map(|hit| api::LimitHit { name: hit.limit.as_str().to_owned(), allowed: hit.allowed }),
        oom_kills: seen.oom_kills,
        forks_refused: seen.forks_refused,
        exec_error: seen
            .exec_error
            .as_ref()
            .map(|error| api::ExecError { errno: error.errno, message: error.message.clone() }),
        violation: seen.violation.clone(),
        refusal: None,
        lost: None,
        suspect,
        degraded: degraded_to_wire(degraded),
    }
}

pub fn degraded_to_wire(degraded: &[Degraded]) -> Vec<api::Degraded> {
    let wire = |missing: &Degraded| api::Degraded {
        layer: missing.layer.as_str().to_owned(),
        reason: missing.reason.clone(),
    };
    degraded.iter().map(wire).collect()
}

/// The decision as it is kept with its attempt.
pub fn decision_document(
    assignment: &Assignment,
    environment_digest: Option<&str>,
    now: Timestamp,
) -> api::Decision {
    let age = now.since(assignment.capacity_taken_at);
    api::Decision {
        place: assignment.kind.as_str().to_owned(),
        class: assignment.class.as_str().to_owned(),
        environment_digest: environment_digest.map(str::to_owned),
        reasons: assignment.reasons.clone(),
        capacity_version: assignment.capacity_version,
        capacity_age_ms: u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
    }
}

pub fn stream_document(end: &StreamEnd) -> StreamDocument {
    StreamDocument { bytes: end.written, complete: end.complete }
}

pub fn usage_to_wire(usage: &Usage) -> api::Usage {
    let ms = |us: Option<u64>| us.map(|us| us as f64 / 1e3);
    api::Usage {
        wall_ms: ms(usage.wall_us),
        cpu_user_ms: ms(usage.cpu_user_us),
        cpu_system_ms: ms(usage.cpu_system_us),
        memory_peak_bytes: usage.memory_peak_bytes,
        throttled_ms: ms(usage.throttled_us),
        processes_peak: usage.processes_peak,
        blocked_ms: ms(usage.blocked_us),
    }
}
