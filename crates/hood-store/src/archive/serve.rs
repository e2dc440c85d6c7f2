//! Answering for what is archived as if it were not.

use hood_core::{EvaluationId, Event, Tenant};

use super::line::Kept;
use super::{Line, pack};
use crate::error::{FindError, StoreError};
use crate::model::{DeliveryRecord, OutputSlice, Record, Span};
use crate::ops::{archive, blobs};
use crate::store::Store;

impl Store {
    async fn line(&self, tenant: &Tenant, id: EvaluationId) -> Result<Line, FindError> {
        let found = archive::find(&mut self.reader().await?.connection(), (tenant, id)).await?;
        let (blob, frame) = found.ok_or(FindError::NotFound)?;
        let frame = match self.blobs().read(&blob, frame).await {
            Ok(frame) => frame,
            Err(error) => {
                // Deleted or written anew between the two looks, perhaps.
                let now = archive::find(&mut self.reader().await?.connection(), (tenant, id)).await?;
                return match now {
                    None => Err(FindError::NotFound),
                    Some(_) => Err(StoreError::from(error).into()),
                };
            }
        };
        Ok(pack::unpack(&frame)?)
    }

    pub(crate) async fn archived_record(
        &self,
        tenant: &Tenant,
        id: EvaluationId,
    ) -> Result<Record, FindError> {
        Ok(self.line(tenant, id).await?.record()?)
    }

    pub(crate) async fn archived_events(
        &self,
        (tenant, id): (&Tenant, EvaluationId),
        after: u64,
        limit: u32,
    ) -> Result<Vec<Event>, FindError> {
        let events = self.line(tenant, id).await?.events()?.into_iter();
        Ok(events.filter(|event| event.number > after).take(limit as usize).collect())
    }

    /// None where it is not archived.
    pub(crate) async fn archived_deliveries(
        &self,
        (tenant, id): (&Tenant, EvaluationId),
    ) -> Result<Vec<DeliveryRecord>, StoreError> {
        match self.line(tenant, id).await {
            Ok(line) => line.deliveries((tenant, id)),
            Err(FindError::NotFound) => Ok(Vec::new()),
            Err(FindError::Store(error)) => Err(error),
        }
    }

    pub(crate) async fn archived_output(
        &self,
        tenant: &Tenant,
        id: EvaluationId,
        span: Span,
    ) -> Result<OutputSlice, FindError> {
        let line = self.line(tenant, id).await?;
        let attempt = span.attempt.unwrap_or_else(|| line.attempts());
        let Some((stored, cut, kept)) = line.output(attempt, span.stream)? else {
            // One that never began, of an evaluation that has ended, wrote nothing.
            let never = attempt == line.attempts() + 1 || (attempt == 0 && line.attempts() == 0);
            let nothing = OutputSlice { attempt, bytes: Vec::new(), stored: 0, ended: true, cut: false };
            return if never { Ok(nothing) } else { Err(FindError::NotFound) };
        };
        let end = span.offset.saturating_add(span.max as u64);
        let bytes = match kept {
            Kept::Bytes(bytes) => {
                let within = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
                bytes[within(span.offset)..within(end.max(span.offset))].to_vec()
            }
            Kept::InBlob => {
                let blob = blobs::of_stream(
                    &mut self.reader().await?.connection(),
                    (tenant, id),
                    attempt,
                    span.stream,
                )
                .await?;
                let blob = blob.ok_or(FindError::NotFound)?;
                self.blobs().read(&blob, span.offset..end).await.map_err(StoreError::from)?.into()
            }
        };
        Ok(OutputSlice { attempt, bytes, stored, ended: true, cut })
    }
}
