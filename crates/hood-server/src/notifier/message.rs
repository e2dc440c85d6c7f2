//! The body of a webhook, from what was noted of the end: pure.

use hood_core::{State, Timestamp};
use hood_store::Delivery;
use hood_wire::api::{Hops, WebhookData, WebhookMessage};

use crate::document::{Moments, ResultDocument, rfc3339, state_to_wire, verdict_to_wire};

const FINISHED: &str = "evaluation.finished";

pub(super) fn of(delivery: &Delivery) -> Result<String, serde_json::Error> {
    let result: ResultDocument = serde_json::from_str(&delivery.result)?;
    let Moments { started_at, ended_at } = result.moments;
    let moment = |micros: i64| rfc3339(Timestamp::from_micros(micros));
    let message = WebhookMessage {
        kind: FINISHED.to_owned(),
        timestamp: rfc3339(delivery.created_at),
        data: WebhookData {
            id: delivery.id.evaluation.to_string(),
            event: delivery.id.event,
            state: state_to_wire(State::of(delivery.verdict)),
            verdict: verdict_to_wire(delivery.verdict),
            exit_code: result.exit_code,
            signal: result.signal,
            evidence: result.evidence,
            usage: result.usage,
            attempts: delivery.attempts,
            labels: delivery.labels.clone(),
            batch: delivery.batch.map(|batch| batch.to_string()),
            hops: Hops {
                accepted_at: Some(rfc3339(delivery.accepted_at)),
                queued_at: None,
                leased_at: delivery.leased_at.map(rfc3339),
                ready_at: delivery.ready_at.map(rfc3339),
                started_at: started_at.map(moment),
                ended_at: ended_at.map(moment),
                committed_at: Some(rfc3339(delivery.created_at)),
            },
        },
    };
    serde_json::to_string(&message)
}
