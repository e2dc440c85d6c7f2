//! Webhooks: what was told, what is still to be, and what was given up.

pub(super) mod list;
pub(super) mod redeliver;

use hood_store::{DeliveryId, DeliveryRecord, DeliveryState};
use hood_wire::api;

use crate::document::rfc3339;
use crate::notifier::delivery_id;

fn view(record: &DeliveryRecord) -> api::Delivery {
    let DeliveryId { evaluation, event, .. } = record.id;
    api::Delivery {
        id: delivery_id(&record.id),
        evaluation: evaluation.to_string(),
        event,
        url: record.url.clone(),
        state: match record.state {
            DeliveryState::Pending => api::DeliveryState::Pending,
            DeliveryState::Delivered => api::DeliveryState::Delivered,
            DeliveryState::Dead => api::DeliveryState::Dead,
        },
        tries: record.tries,
        created_at: rfc3339(record.created_at),
        due_at: record.due_at.map(rfc3339),
        settled_at: record.settled_at.map(rfc3339),
        last_status: record.last_status,
        last_reason: record.last_reason.clone(),
    }
}
