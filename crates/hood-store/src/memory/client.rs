//! What clients and the house-keeping write.

use hood_core::lifecycle::{AnyEvaluation, QueueEnd};
use hood_core::{EvaluationId, State, Tenant, Timestamp};

use super::book::{Book, Name};
use super::row::{Row, corrupt};
use crate::error::{FindError, StoreError};
use crate::model::{Cancel, CancelIntent, CancelWish, Delete};

impl Book {
    pub(super) fn request_cancel(
        &mut self,
        tenant: &Tenant,
        id: EvaluationId,
        wish: &CancelWish,
    ) -> Result<Cancel, FindError> {
        let row = self.rows.get_mut(&(tenant.clone(), id)).ok_or(FindError::NotFound)?;
        if row.state().is_terminal() {
            return Ok(Cancel::AlreadyTerminal);
        }
        // Of graces that were asked for the shortest stands.
        let earlier = row.cancel.and_then(|intent| intent.grace_ms);
        let grace_ms = [earlier, wish.grace_ms].into_iter().flatten().min();
        row.cancel = Some(CancelIntent { grace_ms });
        if row.state() != State::Queued {
            return Ok(Cancel::Requested);
        }
        end_queued(row, QueueEnd::Cancelled, wish.now, &wish.result_if_queued)?;
        Ok(Cancel::EndedNow)
    }

    pub(super) fn delete(&mut self, tenant: &Tenant, id: EvaluationId) -> Result<Delete, FindError> {
        let name = (tenant.clone(), id);
        let row = self.rows.get(&name).ok_or(FindError::NotFound)?;
        if !row.state().is_terminal() {
            return Ok(Delete::NotTerminal);
        }
        let Some(Row { batch, idempotency_key, .. }) = self.rows.remove(&name) else {
            return Err(FindError::NotFound);
        };
        if let Some(key) = idempotency_key
            && !self.of(tenant).any(|(_, row)| row.idempotency_key.as_deref() == Some(key.as_str()))
        {
            self.keys.remove(&(tenant.clone(), key));
        }
        if let Some(batch) = batch
            && !self.of(tenant).any(|(_, row)| row.batch == Some(batch))
        {
            self.batches.remove(&(tenant.clone(), batch));
        }
        Ok(Delete::Deleted)
    }

    pub(super) fn expire_queued(
        &mut self,
        older_than: Timestamp,
        now: Timestamp,
        limit: usize,
        result: &str,
    ) -> Result<Vec<EvaluationId>, StoreError> {
        let waits = |row: &Row| row.state() == State::Queued && row.queued_at <= older_than;
        let mut names: Vec<(Timestamp, Name)> = (self.rows.iter())
            .filter(|(_, row)| waits(row))
            .map(|(name, row)| (row.queued_at, name.clone()))
            .collect();
        names.sort();
        names.truncate(limit);
        for (_, name) in &names {
            if let Some(row) = self.rows.get_mut(name) {
                end_queued(row, QueueEnd::GivenUp, now, result)?;
            }
        }
        Ok(names.into_iter().map(|(_, (_, id))| id).collect())
    }
}

fn end_queued(row: &mut Row, end: QueueEnd, now: Timestamp, result: &str) -> Result<(), StoreError> {
    let AnyEvaluation::Queued(queued) = row.evaluation else {
        return Err(corrupt("ended, and not queued"));
    };
    row.step(&queued.end(now, end).transition)?;
    row.result = Some(result.to_owned());
    Ok(())
}
