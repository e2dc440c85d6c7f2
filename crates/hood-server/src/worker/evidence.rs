//! The results of what did not come to a judged end, as documents: pure.

use hood_core::plan::{Offer, PolicyMode};
use hood_core::retry::Loss;
use hood_core::waiting::Cause;
use hood_core::{Assignment, Observation, Refusal};
use hood_dispatch::Catalogue;
use hood_wire::api;

use crate::document::stream_document;
use crate::document::{
    Moments, ResultDocument, build_document, degraded_to_wire, limits_to_wire, usage_to_wire,
};

/// What the last attempt came to, lost like the ones before it.
pub(super) fn lost(
    loss: Loss,
    reason: &str,
    seen: Option<&Observation>,
    assignment: Option<&Assignment>,
) -> ResultDocument {
    let nothing = Observation::default();
    let seen = seen.unwrap_or(&nothing);
    ResultDocument {
        exit_code: None,
        signal: None,
        evidence: api::Evidence {
            decided_by: "lost".to_owned(),
            oom_kills: seen.oom_kills,
            forks_refused: seen.forks_refused,
            lost: Some(document(loss, reason)),
            suspect: loss == Loss::Suspect,
            degraded: assignment.map(|assignment| degraded_to_wire(&assignment.degraded)).unwrap_or_default(),
            ..api::Evidence::default()
        },
        usage: usage_to_wire(&seen.usage),
        limits: assignment.map(|assignment| limits_to_wire(&assignment.limits, &assignment.unenforced)),
        stdout: stream_document(&seen.stdout),
        stderr: stream_document(&seen.stderr),
        build: seen
            .build
            .as_deref()
            .zip(assignment)
            .map(|(build, assignment)| build_document(build, assignment)),
        moments: Moments::default(),
    }
}

/// A loss, as it is kept with its attempt.
pub(super) fn document(loss: Loss, reason: &str) -> api::Lost {
    api::Lost { kind: loss.as_str().to_owned(), reason: reason.to_owned() }
}

/// Why one was put back that no place could take, as it is kept with its attempt.
pub(super) fn put_off(reason: &str) -> api::Lost {
    api::Lost { kind: "refused".to_owned(), reason: reason.to_owned() }
}

/// What one came to that no place may take.
pub(super) fn refused(refusal: &Refusal) -> ResultDocument {
    ResultDocument::without_run(refusal_evidence(refusal.code.as_str(), &refusal.reason))
}

/// The code of what waited for too long.
const QUEUE_TTL: &str = "queue_ttl";

/// What one came to that waited longer than `queue_ttl`.
pub(super) fn given_up(cause: Cause, catalogue: &Catalogue, policy: PolicyMode) -> ResultDocument {
    let policy = policy.as_str();
    let reason = match cause {
        Cause::NeverHeard { for_the } => format!(
            "no place was open for work until `queue_ttl_ms` was over: no dispatcher has answered this worker since it \
             began, {} s ago",
            for_the.as_secs()
        ),
        Cause::Closed => {
            format!("no place was open for work until `queue_ttl_ms` was over: {}", why_closed(catalogue))
        }
        Cause::Taken => format!("every place was taken until `queue_ttl_ms` was over (policy `{policy}`)"),
        Cause::TakenSince { open_for } => format!(
            "`queue_ttl_ms` was over, and every place was taken (policy `{policy}`); this worker had none before, and \
             has had them for {} s",
            open_for.as_secs()
        ),
    };
    ResultDocument::without_run(refusal_evidence(QUEUE_TTL, &reason))
}

fn why_closed(catalogue: &Catalogue) -> &str {
    match catalogue.offers.iter().find(|offer| offer.open) {
        Some(Offer { capacity, .. }) => {
            capacity.unproven.first().map_or("no reason is known", |(_, reason)| reason.as_str())
        }
        None => "no dispatcher answers",
    }
}

/// What one came to that was put off until then.
pub(super) fn waited_out(reason: &str) -> ResultDocument {
    let reason = format!("no place could take it until `queue_ttl_ms` was over: {reason}");
    ResultDocument::without_run(refusal_evidence(QUEUE_TTL, &reason))
}

/// What one came to that was cancelled before its program was released.
pub(super) fn cancelled_early() -> ResultDocument {
    ResultDocument::without_run(api::Evidence {
        decided_by: "first_kill".to_owned(),
        kill: Some(api::Kill { cause: "cancel".to_owned(), by: "worker".to_owned() }),
        ..api::Evidence::default()
    })
}

fn refusal_evidence(code: &str, reason: &str) -> api::Evidence {
    api::Evidence {
        decided_by: "refusal".to_owned(),
        refusal: Some(api::Refusal { code: code.to_owned(), reason: reason.to_owned() }),
        ..api::Evidence::default()
    }
}
