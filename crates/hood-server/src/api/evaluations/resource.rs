//! The resource as it stands in the store.

use hood_core::outcome::Stream;
use hood_core::{EvaluationId, Tenant};
use hood_store::{OutputSlice, Record, Span};
use hood_wire::api;

use crate::api::error::ApiError;
use crate::api::state::ApiState;
use crate::api::text;
use crate::document::{Heads, StreamHead, evaluation_view};

pub(crate) async fn load(
    state: &ApiState,
    tenant: &Tenant,
    id: EvaluationId,
) -> Result<api::Evaluation, ApiError> {
    let record = state.store().get(tenant, id).await.map_err(ApiError::find)?;
    let heads = if record.attempts.is_empty() {
        Heads::default()
    } else {
        let (stdout, stderr, build) = tokio::try_join!(
            head(state, tenant, &record, Stream::Stdout),
            head(state, tenant, &record, Stream::Stderr),
            head(state, tenant, &record, Stream::Build)
        )?;
        Heads { stdout, stderr, build }
    };
    evaluation_view(&record, heads).map_err(ApiError::internal)
}

/// The beginning of a stream, made safe to show.
async fn head(
    state: &ApiState,
    tenant: &Tenant,
    record: &Record,
    stream: Stream,
) -> Result<StreamHead, ApiError> {
    let max = state.config().limits.page.preview_bytes;
    let attempt = Some(record.history.attempts);
    let slice: OutputSlice = state
        .store()
        .output(tenant, record.id, Span { stream, attempt, offset: 0, max })
        .await
        .map_err(ApiError::find)?;
    let shortened = slice.stored > slice.bytes.len() as u64;
    Ok(StreamHead {
        text: text::safe(&slice.bytes, shortened),
        shortened,
        stored: slice.stored,
        cut: slice.cut,
    })
}
