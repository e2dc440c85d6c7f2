//! Everything that only reads.

use std::collections::BTreeMap;

use hood_core::{BatchId, EvaluationId, Event, State, Tenant, Verdict};

use super::book::Book;
use super::row::Row;
use crate::error::FindError;
use crate::model::{BatchRecord, Filter, OutputSlice, Page, QueueRecord, Record, RecordSummary, Span};

impl Book {
    fn find(&self, tenant: &Tenant, id: EvaluationId) -> Result<&Row, FindError> {
        self.rows.get(&(tenant.clone(), id)).ok_or(FindError::NotFound)
    }

    pub(super) fn get(&self, tenant: &Tenant, id: EvaluationId) -> Result<Record, FindError> {
        self.find(tenant, id).map(|row| row.record(id))
    }

    pub(super) fn list(
        &self,
        tenant: &Tenant,
        filter: &Filter,
        cursor: Option<EvaluationId>,
        limit: usize,
    ) -> Page<RecordSummary> {
        let mut passing = (self.of(tenant).rev())
            .filter(|(id, row)| cursor.is_none_or(|cursor| *id < cursor) && passes(filter, row));
        let items: Vec<_> = passing.by_ref().take(limit).map(|(id, row)| row.summary(id)).collect();
        let next = passing.next().and_then(|_| items.last()).map(|last| last.id);
        Page { items, next }
    }

    pub(super) fn events(
        &self,
        tenant: &Tenant,
        id: EvaluationId,
        after: u64,
        limit: usize,
    ) -> Result<Vec<Event>, FindError> {
        let events = &self.find(tenant, id)?.events;
        Ok(events.iter().filter(|event| event.number > after).take(limit).copied().collect())
    }

    pub(super) fn output(
        &self,
        tenant: &Tenant,
        id: EvaluationId,
        span: Span,
    ) -> Result<OutputSlice, FindError> {
        let row = self.find(tenant, id)?;
        let (begun, state) = (row.evaluation.history().attempts, row.state());
        let attempt = span.attempt.unwrap_or(begun);
        let is_next = attempt == begun + 1 && (state == State::Queued || state.is_terminal());
        if is_next || (attempt == 0 && begun == 0) {
            let ended = state.is_terminal();
            return Ok(OutputSlice { attempt, bytes: Vec::new(), stored: 0, ended, cut: false });
        }
        let found = row.attempts.iter().find(|known| known.record.number == attempt);
        let found = found.ok_or(FindError::NotFound)?;
        let whole = found.stream(span.stream);
        let from = usize::try_from(span.offset).unwrap_or(usize::MAX).min(whole.len());
        let to = from.saturating_add(span.max).min(whole.len());
        Ok(OutputSlice {
            attempt,
            bytes: whole[from..to].to_vec(),
            stored: whole.len() as u64,
            ended: found.record.ended_at.is_some(),
            cut: found.record.output_cut,
        })
    }

    pub(super) fn batch(&self, tenant: &Tenant, id: BatchId) -> Result<BatchRecord, FindError> {
        let created_at = *self.batches.get(&(tenant.clone(), id)).ok_or(FindError::NotFound)?;
        let mut counts = BTreeMap::new();
        for (_, row) in self.of(tenant).filter(|(_, row)| row.batch == Some(id)) {
            *counts.entry(row.state()).or_default() += 1;
        }
        Ok(BatchRecord { id, created_at, counts: counts.into_iter().collect() })
    }

    pub(super) fn queue(&self, tenant: &Tenant) -> QueueRecord {
        let mut depth = BTreeMap::new();
        for (_, row) in self.of(tenant).filter(|(_, row)| !row.state().is_terminal()) {
            *depth.entry((row.state(), row.priority)).or_default() += 1;
        }
        let queued = self.of(tenant).filter(|(_, row)| row.state() == State::Queued);
        let oldest = queued.map(|(id, row)| (row.queued_at, id)).min().map(|(at, id)| (id, at));
        let depth = depth.into_iter().map(|((state, priority), count)| (state, priority, count)).collect();
        QueueRecord { depth, oldest }
    }
}

fn passes(filter: &Filter, row: &Row) -> bool {
    let Filter { states, labels, since, batch, dead } = filter;
    // Nothing here gives another life.
    (dead.is_none() || row.verdict() == Some(Verdict::InfrastructureError))
        && (states.is_empty() || states.contains(&row.state()))
        && labels.iter().all(|(name, value)| row.labels.get(name) == Some(value))
        && since.is_none_or(|since| row.created_at >= since)
        && (batch.is_none() || row.batch == *batch)
}
