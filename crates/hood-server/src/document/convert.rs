//! The core's nouns in the public API's words, and back. Every match is exhaustive: a variant added
//! on one side does not compile until the other side has a word for it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hood_core::limits::{Limit, LimitsRequest};
use hood_core::program::{BuildSource, Code, File, Source, Start};
use hood_core::{Limits, RiskLevel, State, Timestamp, Verdict};
use hood_wire::api;

pub const fn state_to_wire(state: State) -> api::State {
    match state {
        State::Queued => api::State::Queued,
        State::Provisioning => api::State::Provisioning,
        State::Running => api::State::Running,
        State::Succeeded => api::State::Succeeded,
        State::Failed => api::State::Failed,
        State::Cancelled => api::State::Cancelled,
    }
}

pub const fn state_to_core(state: api::State) -> State {
    match state {
        api::State::Queued => State::Queued,
        api::State::Provisioning => State::Provisioning,
        api::State::Running => State::Running,
        api::State::Succeeded => State::Succeeded,
        api::State::Failed => State::Failed,
        api::State::Cancelled => State::Cancelled,
    }
}

pub const fn verdict_to_wire(verdict: Verdict) -> api::Verdict {
    match verdict {
        Verdict::Succeeded => api::Verdict::Succeeded,
        Verdict::BuildFailed => api::Verdict::BuildFailed,
        Verdict::Failed => api::Verdict::Failed,
        Verdict::TimedOut => api::Verdict::TimedOut,
        Verdict::OutOfMemory => api::Verdict::OutOfMemory,
        Verdict::OutputLimit => api::Verdict::OutputLimit,
        Verdict::PolicyViolation => api::Verdict::PolicyViolation,
        Verdict::Cancelled => api::Verdict::Cancelled,
        Verdict::InfrastructureError => api::Verdict::InfrastructureError,
    }
}

pub const fn risk_to_core(risk: api::RiskLevel) -> RiskLevel {
    match risk {
        api::RiskLevel::Low => RiskLevel::Low,
        api::RiskLevel::Medium => RiskLevel::Medium,
        api::RiskLevel::High => RiskLevel::High,
        api::RiskLevel::Critical => RiskLevel::Critical,
    }
}

fn wire_limit(limits: &api::Limits, limit: Limit) -> Option<u64> {
    match limit {
        Limit::WallMs => limits.wall_ms,
        Limit::CpuMs => limits.cpu_ms,
        Limit::MemoryBytes => limits.memory_bytes,
        Limit::Processes => limits.processes,
        Limit::FileBytes => limits.file_bytes,
        Limit::DiskBytes => limits.disk_bytes,
        Limit::DiskInodes => limits.disk_inodes,
        Limit::OutputBytes => limits.output_bytes,
        Limit::OpenFiles => limits.open_files,
    }
}

/// `None` where one of them is null.
pub fn limits_from_wire(limits: &api::Limits) -> Option<Limits> {
    let mut core = Limits::DEFAULT;
    for limit in Limit::ALL {
        core.set(limit, wire_limit(limits, limit)?);
    }
    Some(core)
}

/// Limits as they are enforced: those that the place cannot hold become null.
pub fn limits_to_wire(limits: &Limits, unenforced: &[Limit]) -> api::Limits {
    let shown = |limit| (!unenforced.contains(&limit)).then(|| limits.get(limit));
    api::Limits {
        wall_ms: shown(Limit::WallMs),
        cpu_ms: shown(Limit::CpuMs),
        memory_bytes: shown(Limit::MemoryBytes),
        processes: shown(Limit::Processes),
        file_bytes: shown(Limit::FileBytes),
        disk_bytes: shown(Limit::DiskBytes),
        disk_inodes: shown(Limit::DiskInodes),
        output_bytes: shown(Limit::OutputBytes),
        open_files: shown(Limit::OpenFiles),
    }
}

pub fn limits_request_to_core(request: &api::LimitsRequest) -> LimitsRequest {
    let asked = |limit| match limit {
        Limit::WallMs => request.wall_ms,
        Limit::CpuMs => request.cpu_ms,
        Limit::MemoryBytes => request.memory_bytes,
        Limit::Processes => request.processes,
        Limit::FileBytes => request.file_bytes,
        Limit::DiskBytes => request.disk_bytes,
        Limit::DiskInodes => request.disk_inodes,
        Limit::OutputBytes => request.output_bytes,
        Limit::OpenFiles => request.open_files,
    };
    Limit::ALL.into_iter().fold(LimitsRequest::default(), |core, limit| core.with(limit, asked(limit)))
}

/// The submission's program, its base64 decoded. What is wrong is returned by field, all of it, and
/// the rest is there nevertheless, so that it can be looked at too.
pub fn source_to_core(submission: &api::Submission) -> (Source, Vec<api::FieldError>) {
    let mut errors = Vec::new();
    let mut files = Vec::with_capacity(submission.files.len());
    for (i, file) in submission.files.iter().enumerate() {
        let at = |field: &str| format!("files[{i}].{field}");
        let content = match (&file.content, &file.content_base64) {
            (Some(text), None) => text.clone().into_bytes(),
            (None, Some(base64)) => decode(base64, at("content_base64"), &mut errors),
            (Some(_), Some(_)) => {
                wrong(at("content_base64"), "give `content` or `content_base64`, not both", &mut errors)
            }
            (None, None) => {
                wrong(at("content"), "is missing: give `content` or `content_base64`", &mut errors)
            }
        };
        files.push(File { path: file.path.clone(), content, executable: file.executable });
    }
    let stdin = match (&submission.stdin, &submission.stdin_base64) {
        (None, None) => Vec::new(),
        (Some(text), None) => text.clone().into_bytes(),
        (None, Some(base64)) => decode(base64, "stdin_base64".to_owned(), &mut errors),
        (Some(_), Some(_)) => {
            wrong("stdin_base64".to_owned(), "give `stdin` or `stdin_base64`, not both", &mut errors)
        }
    };
    let source = Source {
        code: submission.code.clone(),
        files,
        build: submission.build.as_ref().map(|build| BuildSource { command: build.command.clone() }),
        command: submission.command.clone(),
        args: submission.args.clone(),
        env: submission.env.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
        stdin,
    };
    (source, errors)
}

/// How the environment's image wants programs started; an image of our own wants nothing. `code` is
/// what the environment says of source text: where an older worker said nothing, it is Python.
pub fn start_to_core(image: Option<&api::ForeignImage>, code: Option<&api::CodeStart>) -> Start {
    let code = code.map(|code| {
        let (file, build, run) = (code.file.clone(), code.build.clone(), code.run.clone());
        Code { file, build, run }
    });
    let Some(image) = image else {
        return Start { code: code.or_else(|| Some(Code::python())), ..Start::default() };
    };
    Start {
        entrypoint: image.entrypoint.clone(),
        arguments: image.command.clone(),
        env: image.env.iter().map(|variable| (variable.name.clone(), variable.value.clone())).collect(),
        workdir: image.workdir.clone(),
        code: code.or_else(|| image.has_python.then(Code::python)),
    }
}

fn decode(base64: &str, path: String, errors: &mut Vec<api::FieldError>) -> Vec<u8> {
    STANDARD.decode(base64).unwrap_or_else(|error| {
        errors.push(api::FieldError { path, message: format!("is not standard base64: {error}") });
        Vec::new()
    })
}

fn wrong(path: String, message: &str, errors: &mut Vec<api::FieldError>) -> Vec<u8> {
    errors.push(api::FieldError { path, message: message.to_owned() });
    Vec::new()
}

/// RFC 3339, UTC, microseconds. A moment beyond the calendar is shown as the calendar's end.
pub fn rfc3339(at: Timestamp) -> String {
    let moment = jiff::Timestamp::from_microsecond(at.as_micros()).unwrap_or(jiff::Timestamp::MAX);
    format!("{moment:.6}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_and_verdicts_have_the_same_words_on_both_sides() {
        for state in State::ALL {
            let wire = state_to_wire(state);
            assert_eq!(serde_json::to_value(wire).expect("serialises"), state.as_str());
            assert_eq!(state_to_core(wire), state);
            assert_eq!(wire.is_terminal(), state.is_terminal());
        }
        for verdict in Verdict::ALL {
            let wire = verdict_to_wire(verdict);
            assert_eq!(serde_json::to_value(wire).expect("serialises"), verdict.as_str());
        }
        for risk in RiskLevel::ALL {
            let wire = serde_json::from_value(risk.as_str().into()).expect("the same word");
            assert_eq!(risk_to_core(wire), risk);
        }
    }

    #[test]
    fn limits_have_the_same_names_on_both_sides() {
        let wire = limits_to_wire(&Limits::MAXIMUM, &[]);
        assert_eq!(limits_from_wire(&wire), Some(Limits::MAXIMUM));
        let json = serde_json::to_value(wire).expect("serialises");
        for limit in Limit::ALL {
            assert_eq!(json[limit.as_str()], Limits::MAXIMUM.get(limit), "{}", limit.as_str());
            let hidden = limits_to_wire(&Limits::MAXIMUM, &[limit]);
            assert_eq!(wire_limit(&hidden, limit), None);
            assert_eq!(limits_from_wire(&hidden), None);
            let request = serde_json::from_value(serde_json::json!({limit.as_str(): 7})).expect("known");
            assert_eq!(limits_request_to_core(&request).get(limit), Some(7));
        }
    }

    #[test]
    fn times_are_rfc_3339_in_utc() {
        assert_eq!(rfc3339(Timestamp::from_micros(0)), "1970-01-01T00:00:00.000000Z");
        assert_eq!(rfc3339(Timestamp::from_micros(1_763_972_000_123_456)), "2025-11-24T08:13:20.123456Z");
        assert!(rfc3339(Timestamp::from_micros(i64::MAX)).starts_with("9999-"));
    }
}
