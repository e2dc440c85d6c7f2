//! Between the nouns of this crate and what is sent of them.

use std::time::Duration;

use hood_core::limits::Limit;
use hood_core::outcome::{
    BuildSeen, ExecError, Kill, KillCause, KilledBy, Observation, Stream, StreamEnd, Usage, WaitStatus,
};
use hood_core::plan::{Assignment, Degraded, ExecutorClass, Layer, PlaceKind};
use hood_core::program::{Build, File};
use hood_core::{Limits, Program, Timestamp};
use hood_wire::dispatch as wire;

use crate::dispatch::{AttemptKey, Conduct, DispatchError, Order, Report, ReportBody};

/// Something whose name means nothing here and that cannot be left out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} `{name}` is not known here")]
pub(super) struct Unknown {
    what: &'static str,
    name: String,
}

fn unknown(what: &'static str, name: &str) -> Unknown {
    Unknown { what, name: name.to_owned() }
}

/// `life` is the dispatcher's that it is sent to.
pub(super) fn order_to_wire(order: Order, life: String) -> wire::Order {
    let Order { token, assignment, program, conduct, traceparent, .. } = order;
    let mut payload = Vec::new();
    let mut files = Vec::with_capacity(program.files.len());
    for File { path, content, executable } in program.files {
        files.push(wire::File { path, executable, bytes: content.len() as u64 });
        payload.extend(content);
    }
    let stdin_bytes = program.stdin.len() as u64;
    payload.extend(program.stdin);
    let (build, argv) = match program.build {
        Some(Build { argv, limits }) => {
            let build = wire::Build { argv, limits: limits_to_wire(&limits), then: program.argv };
            (Some(build), Vec::new())
        }
        None => (None, program.argv),
    };
    let program = wire::Program { build, argv, env: program.env, cwd: program.cwd, files, stdin_bytes };
    let conduct =
        wire::Conduct { grace_ms: millis(conduct.grace), fail_on_output_limit: conduct.fail_on_output_limit };
    let assignment = assignment_to_wire(&assignment);
    let version = wire::VERSION;
    let head = wire::OrderHead { version, token, life, assignment, program, conduct, traceparent };
    wire::Order { head, payload }
}

pub(super) fn order_from_wire(key: AttemptKey, order: &wire::Order) -> Result<Order, Unknown> {
    let wire::OrderHead { token, assignment, program, conduct, traceparent, .. } = &order.head;
    let mut rest = &order.payload[..];
    let mut take = |bytes: u64| {
        // The decoder has compared the lengths with what came.
        let (taken, left) = rest.split_at(rest.len().min(usize::try_from(bytes).unwrap_or(usize::MAX)));
        rest = left;
        taken.to_vec()
    };
    let files = program.files.iter();
    let files = files
        .map(|file| File { path: file.path.clone(), content: take(file.bytes), executable: file.executable })
        .collect();
    let stdin = take(program.stdin_bytes);
    let build = program.build.as_ref();
    let argv = build.map_or(&program.argv, |build| &build.then).clone();
    let build =
        build.map(|build| Build { argv: build.argv.clone(), limits: limits_from_wire(&build.limits) });
    let env = program.env.clone();
    Ok(Order {
        key,
        token: *token,
        assignment: assignment_from_wire(assignment)?,
        program: Program { build, argv, env, cwd: program.cwd.clone(), files, stdin },
        conduct: Conduct {
            grace: Duration::from_millis(conduct.grace_ms),
            fail_on_output_limit: conduct.fail_on_output_limit,
        },
        traceparent: traceparent.clone(),
    })
}

fn assignment_to_wire(assignment: &Assignment) -> wire::Assignment {
    let degraded = assignment.degraded.iter();
    wire::Assignment {
        place: assignment.kind.as_str().to_owned(),
        class: assignment.class.as_str().to_owned(),
        environment: assignment.environment.clone(),
        limits: limits_to_wire(&assignment.limits),
        unenforced: assignment.unenforced.iter().map(|limit| limit.as_str().to_owned()).collect(),
        degraded: degraded
            .map(|missing| wire::Degraded {
                layer: missing.layer.as_str().to_owned(),
                reason: missing.reason.clone(),
            })
            .collect(),
        capacity_version: assignment.capacity_version,
        capacity_taken_at_us: assignment.capacity_taken_at.as_micros(),
        reasons: assignment.reasons.clone(),
    }
}

/// A layer or limit that is not known here is one that nothing here could spare: left out.
fn assignment_from_wire(assignment: &wire::Assignment) -> Result<Assignment, Unknown> {
    let unenforced = assignment.unenforced.iter();
    let degraded = assignment.degraded.iter();
    Ok(Assignment {
        executor: String::new(),
        kind: kind(&assignment.place)?,
        class: ExecutorClass::parse(&assignment.class)
            .ok_or_else(|| unknown("executor class", &assignment.class))?,
        environment: assignment.environment.clone(),
        limits: limits_from_wire(&assignment.limits),
        unenforced: unenforced
            .filter_map(|name| Limit::ALL.into_iter().find(|l| l.as_str() == name))
            .collect(),
        degraded: degraded
            .filter_map(|d| Some(Degraded { layer: Layer::parse(&d.layer)?, reason: d.reason.clone() }))
            .collect(),
        capacity_version: assignment.capacity_version,
        capacity_taken_at: Timestamp::from_micros(assignment.capacity_taken_at_us),
        reasons: assignment.reasons.clone(),
    })
}

pub(super) fn kind(name: &str) -> Result<PlaceKind, Unknown> {
    let kinds = [PlaceKind::LocalRoot, PlaceKind::LocalUser];
    kinds.into_iter().find(|kind| kind.as_str() == name).ok_or_else(|| unknown("kind of place", name))
}

pub(super) fn limits_to_wire(limits: &Limits) -> wire::Limits {
    let Limits {
        wall_ms,
        cpu_ms,
        memory_bytes,
        processes,
        file_bytes,
        disk_bytes,
        disk_inodes,
        output_bytes,
        open_files,
    } = *limits;
    wire::Limits {
        wall_ms,
        cpu_ms,
        memory_bytes,
        processes,
        file_bytes,
        disk_bytes,
        disk_inodes,
        output_bytes,
        open_files,
    }
}

pub(super) fn limits_from_wire(limits: &wire::Limits) -> Limits {
    let wire::Limits {
        wall_ms,
        cpu_ms,
        memory_bytes,
        processes,
        file_bytes,
        disk_bytes,
        disk_inodes,
        output_bytes,
        open_files,
    } = *limits;
    Limits {
        wall_ms,
        cpu_ms,
        memory_bytes,
        processes,
        file_bytes,
        disk_bytes,
        disk_inodes,
        output_bytes,
        open_files,
    }
}

pub(super) fn report_to_wire(report: Report) -> wire::Frame {
    let body = match report.body {
        ReportBody::Ready { environment_digest } => wire::FrameBody::Ready { environment_digest },
        ReportBody::Output { stream, offset, bytes } => {
            wire::FrameBody::Output { stream: stream.as_str().to_owned(), offset, bytes }
        }
        ReportBody::Ended(seen) => wire::FrameBody::Ended { seen: Box::new(seen_to_wire(*seen)) },
    };
    wire::Frame { number: report.number, body }
}

/// What the place says; `None` for what is said of the stream.
pub(super) fn report_from_wire(body: wire::FrameBody) -> Result<Option<ReportBody>, Unknown> {
    Ok(match body {
        wire::FrameBody::Ready { environment_digest } => Some(ReportBody::Ready { environment_digest }),
        wire::FrameBody::Output { stream, offset, bytes } => {
            let known = Stream::ALL.into_iter().find(|known| known.as_str() == stream);
            let stream = known.ok_or_else(|| unknown("stream", &stream))?;
            Some(ReportBody::Output { stream, offset, bytes })
        }
        wire::FrameBody::Ended { seen } => Some(ReportBody::Ended(Box::new(seen_from_wire(*seen)?))),
        wire::FrameBody::Alive
        | wire::FrameBody::Stale
        | wire::FrameBody::Replaced
        | wire::FrameBody::Closed => None,
    })
}

fn seen_to_wire(seen: Observation) -> wire::Observation {
    wire::Observation {
        wait: seen.wait.map(|wait| match wait {
            WaitStatus::Exited(code) => wire::WaitStatus::Exited(code),
            WaitStatus::Signaled(signal) => wire::WaitStatus::Signaled(signal),
        }),
        exec_error: seen.exec_error.map(|e| wire::ExecError { errno: e.errno, message: e.message }),
        kill: seen.kill.map(|kill| wire::Kill {
            cause: kill.cause.as_str().to_owned(),
            by: killed_by(kill.by).to_owned(),
        }),
        oom_kills: seen.oom_kills,
        forks_refused: seen.forks_refused,
        violation: seen.violation,
        lost: seen.lost,
        usage: wire::Usage {
            wall_us: seen.usage.wall_us,
            cpu_user_us: seen.usage.cpu_user_us,
            cpu_system_us: seen.usage.cpu_system_us,
            memory_peak_bytes: seen.usage.memory_peak_bytes,
            throttled_us: seen.usage.throttled_us,
            processes_peak: seen.usage.processes_peak,
            blocked_us: seen.usage.blocked_us,
        },
        stdout: end_to_wire(seen.stdout),
        stderr: end_to_wire(seen.stderr),
        build: seen.build.map(|build| {
            let BuildSeen { limits, seen } = *build;
            Box::new(wire::BuildSeen { limits: limits_to_wire(&limits), seen: seen_to_wire(seen) })
        }),
    }
}

fn seen_from_wire(seen: wire::Observation) -> Result<Observation, Unknown> {
    Ok(Observation {
        wait: seen.wait.map(|wait| match wait {
            wire::WaitStatus::Exited(code) => WaitStatus::Exited(code),
            wire::WaitStatus::Signaled(signal) => WaitStatus::Signaled(signal),
        }),
        exec_error: seen.exec_error.map(|e| ExecError { errno: e.errno, message: e.message }),
        kill: seen.kill.map(|kill| kill_from_wire(&kill)).transpose()?,
        oom_kills: seen.oom_kills,
        forks_refused: seen.forks_refused,
        violation: seen.violation,
        lost: seen.lost,
        usage: Usage {
            wall_us: seen.usage.wall_us,
            cpu_user_us: seen.usage.cpu_user_us,
            cpu_system_us: seen.usage.cpu_system_us,
            memory_peak_bytes: seen.usage.memory_peak_bytes,
            throttled_us: seen.usage.throttled_us,
            processes_peak: seen.usage.processes_peak,
            blocked_us: seen.usage.blocked_us,
        },
        stdout: end_from_wire(seen.stdout),
        stderr: end_from_wire(seen.stderr),
        build: seen.build.map(|build| build_from_wire(*build)).transpose()?,
    })
}

fn build_from_wire(build: wire::BuildSeen) -> Result<Box<BuildSeen>, Unknown> {
    // What is seen of a build has no build before it: what is sent cannot nest.
    let seen = wire::Observation { build: None, ..build.seen };
    Ok(Box::new(BuildSeen { limits: limits_from_wire(&build.limits), seen: seen_from_wire(seen)? }))
}

/// A cause that is not known here cannot be weighed, and a verdict is not guessed.
fn kill_from_wire(kill: &wire::Kill) -> Result<Kill, Unknown> {
    const CAUSES: [KillCause; 7] = [
        KillCause::Cancel,
        KillCause::WallTime,
        KillCause::CpuTime,
        KillCause::Output(Stream::Stdout),
        KillCause::Output(Stream::Stderr),
        KillCause::SampledMemory,
        KillCause::SampledProcesses,
    ];
    let cause = CAUSES.into_iter().find(|cause| cause.as_str() == kill.cause);
    let by = [KilledBy::Agent, KilledBy::Supervisor].into_iter().find(|by| killed_by(*by) == kill.by);
    Ok(Kill {
        cause: cause.ok_or_else(|| unknown("cause of a kill", &kill.cause))?,
        by: by.ok_or_else(|| unknown("killer", &kill.by))?,
    })
}

const fn killed_by(by: KilledBy) -> &'static str {
    match by {
        KilledBy::Agent => "agent",
        KilledBy::Supervisor => "supervisor",
    }
}

const fn end_to_wire(end: StreamEnd) -> wire::StreamEnd {
    wire::StreamEnd { written: end.written, kept: end.kept, complete: end.complete }
}

const fn end_from_wire(end: wire::StreamEnd) -> StreamEnd {
    StreamEnd { written: end.written, kept: end.kept, complete: end.complete }
}

pub(super) fn error_to_wire(error: &DispatchError) -> wire::Problem {
    let (code, detail) = match error {
        DispatchError::Environment { reason, .. } => (wire::ProblemCode::Environment, reason.clone()),
        DispatchError::Place(reason) => (wire::ProblemCode::Place, reason.clone()),
        DispatchError::TooLarge(reason) => (wire::ProblemCode::TooLarge, reason.clone()),
        DispatchError::Gone(_) => (wire::ProblemCode::Gone, String::new()),
        DispatchError::Stale(_) => (wire::ProblemCode::Stale, String::new()),
    };
    problem(code, detail)
}

pub(super) fn problem(code: wire::ProblemCode, detail: String) -> wire::Problem {
    wire::Problem { title: code.title().to_owned(), status: code.status(), code, detail }
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
