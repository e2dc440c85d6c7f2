//! From a submission to what is stored of it, or to everything that is wrong with it. Pure: it
//! knows the catalogue and the operator's bounds, and neither reads nor writes anything.

mod program;

use std::collections::BTreeMap;

use hood_core::limits::LimitError;
use hood_core::plan::Demand;
use hood_core::{Limits, Refusal, plan};
use hood_wire::api::{self, FieldError, Submission};

use super::catalogue::Catalogue;
use super::config::{ApiConfig, SubmissionLimits};
use super::error::{ApiError, ErrorCode};
use crate::config::Builds;
use crate::document::{
    AcceptedDocument, environment_facts, limits_from_wire, limits_request_to_core, limits_to_wire,
    risk_to_core, start_to_core,
};
use crate::webhook::Target;

pub(crate) const PRIORITY_MAX: u8 = 9;
const PRIORITY_DEFAULT: u8 = 5;

/// Environments that an answer about an unknown one names: more than come with this release, and no page
/// of them where somebody imported hundreds.
const ENVIRONMENTS_NAMED: usize = 32;
/// The longest name that an environment has.
const NAME_BYTES_MAX: usize = 63;

/// One letter more, less or another, or two the other way round. Of two letters nothing is a slip.
fn is_slip(named: &str, known: &str) -> bool {
    known.len() > 2 && strsim::damerau_levenshtein(&named.to_lowercase(), known) <= 1
}

/// A submission that may be stored.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Admitted {
    pub document: AcceptedDocument,
    pub labels: BTreeMap<String, String>,
}

#[derive(Debug)]
pub(crate) enum Rejection {
    /// The submission is wrong.
    Fields(Vec<FieldError>),
    /// The submission is sound, and no place may take it.
    Refused(Refusal),
    /// The environment is known and cannot be had; `for_good` where waiting changes nothing.
    Environment { reason: String, for_good: bool },
}

/// What submissions are held against.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Admission<'a> {
    pub catalogue: &'a Catalogue,
    pub config: &'a ApiConfig,
}

impl Admission<'_> {
    /// One submission. Every wrong field is named.
    pub(crate) fn admit(&self, submission: Submission) -> Result<Admitted, Rejection> {
        let bounds = &self.config.limits.submission;
        let mut errors = Vec::new();
        let environment = self.environment(&submission, &mut errors);
        let limits =
            environment.and_then(|environment| resolve_limits(&submission, environment, &mut errors));
        let start = environment
            .map(|environment| start_to_core(environment.image.as_ref(), environment.code.as_ref()));
        let build = environment.zip(limits.as_ref()).and_then(|(environment, limits)| {
            resolve_build_limits(&submission, environment, limits, &mut errors)
        });
        let builds = program::check(&submission, bounds, (limits.as_ref(), start), &mut errors);
        let build = build.filter(|_| builds);
        check_labels(&submission.labels, bounds, &mut errors);
        let priority = submission.priority.unwrap_or(PRIORITY_DEFAULT);
        if priority > PRIORITY_MAX {
            errors.push(wrong("priority", format!("is at most {PRIORITY_MAX}")));
        }
        let grace_ms = grace_ms(&submission, bounds, &mut errors);
        if let Some(Err(why)) =
            submission.callback_url.as_deref().map(|url| Target::parse(url, &self.config.webhooks))
        {
            errors.push(wrong("callback_url", why.to_string()));
        }
        // Where no error was found, environment and limits are there.
        let (Some(environment), Some(limits), true) = (environment, limits, errors.is_empty()) else {
            return Err(Rejection::Fields(errors));
        };
        self.place(environment, &limits, build)?;
        let labels = submission.labels.clone();
        // Said in so many words: a worker that knows of no builds refuses a request that names one, and would
        // run the source text of one that does not.
        let asked = submission.build.clone().or_else(|| build.map(|_| api::Build::default()));
        let submission = Submission { build: asked, ..submission };
        let document = AcceptedDocument {
            environment: environment.name.clone(),
            limits: limits_to_wire(&limits, &[]),
            code: environment.code.clone(),
            build: build.map(|build| limits_to_wire(&build, &[])),
            grace_ms,
            priority,
            image: environment.image.clone(),
            traceparent: None,
            submission,
        };
        Ok(Admitted { document, labels })
    }

    fn environment(
        &self,
        submission: &Submission,
        errors: &mut Vec<FieldError>,
    ) -> Option<&api::Environment> {
        let named = submission.environment.as_deref();
        let found = self.catalogue.environment(named);
        if found.is_none() {
            errors.push(wrong("environment", self.unknown_environment(named)));
        }
        found
    }

    /// With those that there are, and the one that was meant if it looks like it.
    fn unknown_environment(&self, named: Option<&str>) -> String {
        let known: Vec<&str> = self.catalogue.environments().iter().map(|e| e.name.as_str()).collect();
        let first = known[..known.len().min(ENVIRONMENTS_NAMED)].join(", ");
        let all = match known.len().saturating_sub(ENVIRONMENTS_NAMED) {
            _ if known.is_empty() => "there is none yet".to_owned(),
            0 => format!("there are: {first}"),
            more => format!("there are: {first} and {more} more, which GET /v1/environments lists"),
        };
        let Some(named) = named else {
            return format!("is needed, since none is the default here: name one; {all}");
        };
        let shown: String = named.chars().take(NAME_BYTES_MAX).collect();
        if shown.len() < named.len() {
            return format!(
                "`{shown}…` is no environment's name, which has at most {NAME_BYTES_MAX} bytes; {all}"
            );
        }
        match known.into_iter().find(|name| is_slip(&shown, name)) {
            Some(meant) => format!("`{shown}` is not known; did you mean `{meant}`? {all}"),
            None => format!("`{shown}` is not known; {all}"),
        }
    }

    /// Whether some place may take it, as far as the worker's last report tells.
    fn place(
        &self,
        environment: &api::Environment,
        limits: &Limits,
        build: Option<Limits>,
    ) -> Result<(), Rejection> {
        if environment.state == api::EnvironmentState::Failed {
            let reason = environment.error.as_deref().unwrap_or("the build gave no reason");
            return Err(Rejection::Environment {
                reason: format!("environment `{}` could not be built: {reason}", environment.name),
                for_good: environment.error_lasts,
            });
        }
        if environment.state != api::EnvironmentState::Ready && self.config.builds == Builds::Never {
            let name = &environment.name;
            return Err(Rejection::Environment {
                reason: format!(
                    "environment `{name}` is not built, and nothing is built on demand here (environments.build): \
                     its operator does it with `fumehood env build {name}`"
                ),
                for_good: false,
            });
        }
        let facts = environment_facts(environment);
        let demand = Demand { limits: *limits, build, class: facts.class() };
        plan(&demand, &facts, &self.catalogue.offers, self.config.policy)
            .map(drop)
            .map_err(Rejection::Refused)
    }

    /// A whole batch: all, or everything that is wrong with any.
    pub(crate) fn admit_all(&self, submissions: Vec<Submission>) -> Result<Vec<Admitted>, ApiError> {
        let bounds = &self.config.limits.submission;
        let mut admitted = Vec::with_capacity(submissions.len());
        let mut wrong_fields = Vec::new();
        let mut refusals = Vec::new();
        for (i, submission) in submissions.into_iter().enumerate() {
            match self.admit(submission) {
                Ok(one) => admitted.push(one),
                Err(Rejection::Fields(errors)) => wrong_fields.extend(errors.into_iter().map(|error| {
                    FieldError { path: format!("evaluations[{i}].{}", error.path), message: error.message }
                })),
                Err(other) => refusals.push((format!("evaluations[{i}]"), other)),
            }
        }
        if !wrong_fields.is_empty() {
            return Err(invalid_fields(wrong_fields, bounds.errors_max));
        }
        if refusals.is_empty() { Ok(admitted) } else { Err(refused(refusals, bounds.errors_max)) }
    }

    pub(crate) fn admit_one(&self, submission: Submission) -> Result<Admitted, ApiError> {
        let most = self.config.limits.submission.errors_max;
        self.admit(submission).map_err(|rejection| match rejection {
            Rejection::Fields(errors) => invalid_fields(errors, most),
            other => refused(vec![(String::new(), other)], most),
        })
    }
}

fn wrong(path: impl Into<String>, message: impl Into<String>) -> FieldError {
    FieldError { path: path.into(), message: message.into() }
}

fn resolve_limits(
    submission: &Submission,
    environment: &api::Environment,
    errors: &mut Vec<FieldError>,
) -> Option<Limits> {
    let defaults = limits_from_wire(&environment.default_limits).unwrap_or(Limits::DEFAULT);
    let maxima = limits_from_wire(&environment.maximum_limits).unwrap_or(Limits::MAXIMUM);
    match limits_request_to_core(&submission.limits).resolve(&defaults, &maxima) {
        Ok(limits) => Some(limits),
        Err(found) => {
            errors.extend(found.iter().map(|error| wrong_limit("limits", error, environment)));
            None
        }
    }
}

/// Those of a build: as a program's, but for the disk, of which there is one.
fn resolve_build_limits(
    submission: &Submission,
    environment: &api::Environment,
    limits: &Limits,
    errors: &mut Vec<FieldError>,
) -> Option<Limits> {
    let before = errors.len();
    let mut asked = submission.build.as_ref().map(|build| build.limits).unwrap_or_default();
    for (name, value) in [("disk_bytes", &mut asked.disk_bytes), ("disk_inodes", &mut asked.disk_inodes)] {
        if value.take().is_some() {
            let path = format!("build.limits.{name}");
            errors.push(wrong(path, format!("is the whole evaluation's: name it as `limits.{name}`")));
        }
    }
    let defaults = limits_from_wire(&environment.default_limits).unwrap_or(Limits::DEFAULT);
    let maxima = limits_from_wire(&environment.maximum_limits).unwrap_or(Limits::MAXIMUM);
    let build = limits_request_to_core(&asked).resolve(&defaults, &maxima);
    let found = build.as_ref().err().into_iter().flatten();
    errors.extend(found.map(|error| wrong_limit("build.limits", error, environment)));
    let Limits { disk_bytes, disk_inodes, .. } = *limits;
    build.ok().filter(|_| errors.len() == before).map(|build| Limits { disk_bytes, disk_inodes, ..build })
}

/// What is wrong with a limit, and between which bounds it would be right.
fn wrong_limit(of: &str, error: &LimitError, environment: &api::Environment) -> FieldError {
    let path = format!("{of}.{}", error.limit().as_str());
    let name = &environment.name;
    match error {
        LimitError::AboveMaximum { asked, maximum, .. } => {
            wrong(path, format!("is {asked}; environment `{name}` allows at most {maximum} here"))
        }
        LimitError::BelowMinimum { asked, minimum, .. } => {
            wrong(path, format!("is {asked}; the least that works is {minimum}"))
        }
        LimitError::DiskAboveMemory { disk, memory } => wrong(
            path,
            format!(
                "is {disk}, above `{of}.memory_bytes` ({memory}), which what is written counts against: ask for less \
                 disk or more memory"
            ),
        ),
    }
}

fn check_labels(labels: &BTreeMap<String, String>, bounds: &SubmissionLimits, errors: &mut Vec<FieldError>) {
    if labels.len() > bounds.labels_max {
        errors
            .push(wrong("labels", format!("are {}; at most {} are taken", labels.len(), bounds.labels_max)));
    }
    for (name, value) in labels {
        let shown: String = name.chars().take(bounds.label_bytes_max).collect();
        let path = format!("labels.{shown}");
        if name.is_empty() || name.len() > bounds.label_bytes_max {
            let most = bounds.label_bytes_max;
            errors.push(wrong(path, format!("has a name that is empty or longer than {most} bytes")));
        } else if name.chars().any(|c| c.is_control() || c == '=') {
            errors.push(wrong(path, "has a name with `=` or a control character"));
        } else if value.len() > bounds.label_bytes_max {
            let most = bounds.label_bytes_max;
            errors.push(wrong(path, format!("has a value longer than {most} bytes")));
        } else if value.chars().any(char::is_control) {
            errors.push(wrong(path, "has a value with a control character"));
        }
    }
}

/// The grace asked for, or that of the risk level within the operator's bound.
fn grace_ms(submission: &Submission, bounds: &SubmissionLimits, errors: &mut Vec<FieldError>) -> u64 {
    match submission.grace_ms {
        Some(asked) => {
            errors.extend(check_grace(asked, bounds));
            asked
        }
        None => {
            let grace = risk_to_core(submission.risk_level).grace().as_millis();
            u64::try_from(grace).unwrap_or(u64::MAX).min(bounds.grace_ms_max)
        }
    }
}

/// What is wrong with a grace that was asked for.
pub(crate) fn check_grace(asked: u64, bounds: &SubmissionLimits) -> Option<FieldError> {
    let most = bounds.grace_ms_max;
    (asked > most).then(|| wrong("grace_ms", format!("is {asked}, above the operator's maximum of {most}")))
}

/// The answer to wrong fields: the first is the detail, all are listed up to `most`.
pub(crate) fn invalid_fields(mut errors: Vec<FieldError>, most: usize) -> ApiError {
    let detail = match errors.as_slice() {
        [] => "the submission is wrong".to_owned(),
        [one] => format!("{}: {}", one.path, one.message),
        [first, rest @ ..] => format!("{}: {}; and {} more", first.path, first.message, rest.len()),
    };
    errors.truncate(most);
    ApiError::new(ErrorCode::InvalidFields, detail).with_errors(errors)
}

/// The answer where places refuse: for good, if any of them can never be taken.
fn refused(refusals: Vec<(String, Rejection)>, most: usize) -> ApiError {
    let mut for_good = false;
    let mut errors = Vec::new();
    for (path, rejection) in refusals {
        let message = match rejection {
            Rejection::Refused(refusal) => {
                for_good |= !refusal.code.may_pass();
                refusal.reason
            }
            Rejection::Environment { reason, for_good: this } => {
                for_good |= this;
                reason
            }
            Rejection::Fields(_) => continue,
        };
        errors.push(FieldError { path, message });
    }
    let detail = errors.first().map(|first| first.message.clone()).unwrap_or_default();
    errors.retain(|error| !error.path.is_empty());
    errors.truncate(most);
    if for_good {
        ApiError::new(ErrorCode::Refused, detail).with_errors(errors)
    } else {
        ApiError::new(ErrorCode::RefusedForNow, detail).with_errors(errors).retry_after(RETRY_REFUSED)
    }
}

/// Isolation is proven, and an environment built, by somebody who acts on `doctor`: not at once.
const RETRY_REFUSED: std::time::Duration = std::time::Duration::from_secs(10);

#[cfg(test)]
mod tests;
