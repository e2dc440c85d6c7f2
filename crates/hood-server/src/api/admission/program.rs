//! Whether what a submission brings can be laid out and started within its limits.

use std::collections::BTreeSet;

use hood_core::Limits;
use hood_core::program::{Source, SourceError, Start};
use hood_wire::api::{FieldError, Submission};

use super::wrong;
use crate::api::config::SubmissionLimits;
use crate::document::source_to_core;

/// True where something is to be built first. `start` is how the environment starts programs, where it is
/// known: what to run depends on it.
pub(crate) fn check(
    submission: &Submission,
    bounds: &SubmissionLimits,
    (limits, start): (Option<&Limits>, Option<Start>),
    errors: &mut Vec<FieldError>,
) -> bool {
    check_counts(submission, bounds, errors);
    check_arguments(submission, bounds, errors);
    let (source, undecodable) = source_to_core(submission);
    errors.extend(undecodable);
    if let Some(limits) = limits {
        check_room(&source, limits, errors);
    }
    // What the build may use changes nothing about whether it can be laid out.
    let is_known = start.is_some();
    match source.lay_out(&start.unwrap_or_default(), limits.unwrap_or(&Limits::DEFAULT)) {
        Ok(program) => program.build.is_some(),
        Err(found) => {
            let found = found.into_iter().filter(|error| is_known || !error.is_of_environment());
            errors.extend(found.map(field_error));
            false
        }
    }
}

fn check_counts(submission: &Submission, bounds: &SubmissionLimits, errors: &mut Vec<FieldError>) {
    let arguments = submission.command.as_ref().map_or(0, Vec::len) + submission.args.len();
    let build = submission.build.as_ref().and_then(|build| build.command.as_ref()).map_or(0, Vec::len);
    for (path, count, most) in [
        ("files", submission.files.len(), bounds.files_max),
        ("args", arguments, bounds.arguments_max),
        ("build.command", build, bounds.arguments_max),
        ("env", submission.env.len(), bounds.arguments_max),
    ] {
        if count > most {
            errors.push(wrong(path, format!("has {count} elements; at most {most} are taken")));
        }
    }
}

/// The kernel refuses what is too long at exec; here it is refused with its name.
fn check_arguments(submission: &Submission, bounds: &SubmissionLimits, errors: &mut Vec<FieldError>) {
    let most = bounds.arg_bytes_max;
    let command = submission.command.iter().flatten().enumerate();
    let command = command.map(|(i, arg)| (format!("command[{i}]"), arg.len()));
    let args = submission.args.iter().enumerate().map(|(i, arg)| (format!("args[{i}]"), arg.len()));
    let env =
        submission.env.iter().map(|(name, value)| (format!("env.{name}"), name.len() + 1 + value.len()));
    let build = submission.build.iter().flat_map(|build| &build.command).flatten().enumerate();
    let build = build.map(|(i, arg)| (format!("build.command[{i}]"), arg.len()));
    let mut total = 0_usize;
    for (path, length) in command.chain(build).chain(args).chain(env) {
        total = total.saturating_add(length + 1);
        if length > most {
            errors.push(wrong(path, format!("is longer than {most} bytes")));
        }
    }
    if total > bounds.args_bytes_max {
        let most = bounds.args_bytes_max;
        errors.push(wrong(
            "args",
            format!("and `command` and `env` take {total} bytes; at most {most} are taken"),
        ));
    }
}

/// Files are written before the program starts and count as its own.
fn check_room(source: &Source, limits: &Limits, errors: &mut Vec<FieldError>) {
    let code = source.code.as_ref().map(|code| code.len() as u64);
    let sizes = source.files.iter().map(|file| file.content.len() as u64).chain(code);
    let total: u64 = sizes.clone().sum();
    if total > limits.disk_bytes {
        let most = limits.disk_bytes;
        errors.push(wrong(
            "files",
            format!("and `code` take {total} bytes, above `limits.disk_bytes` ({most}): send less, or ask for more"),
        ));
    } else if let Some(largest) = sizes.max().filter(|&size| size > limits.file_bytes) {
        let most = limits.file_bytes;
        errors.push(wrong(
            "files",
            format!(
                "or `code` hold {largest} bytes in one file, above `limits.file_bytes` ({most}): send less, or ask for more"
            ),
        ));
    }
    let inodes = inodes(source);
    if inodes > limits.disk_inodes {
        let most = limits.disk_inodes;
        errors.push(wrong(
            "files",
            format!("need {inodes} inodes, above `limits.disk_inodes` ({most}): send fewer, or ask for more"),
        ));
    }
}

/// Files, the directories that hold them, and the code.
fn inodes(source: &Source) -> u64 {
    let mut paths = BTreeSet::new();
    for file in &source.files {
        paths.insert(file.path.as_str());
        paths.extend(file.path.match_indices('/').map(|(end, _)| &file.path[..end]));
    }
    paths.len() as u64 + u64::from(source.code.is_some())
}

fn field_error(error: SourceError) -> FieldError {
    let message = error.to_string();
    match error {
        SourceError::Nothing | SourceError::NoCode => wrong("code", message),
        SourceError::EmptyBuild | SourceError::NoBuild => wrong("build.command", message),
        SourceError::FilesWithoutCommand | SourceError::EmptyCommand => wrong("command", message),
        SourceError::Field { field, problem } => wrong(field.as_str(), problem),
    }
}
