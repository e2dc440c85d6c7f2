//! Everything that is held, and accepting.

use std::collections::BTreeMap;

use hood_core::{BatchId, EvaluationId, State, Tenant, Timestamp};

use super::row::{Origin, Row, accepted_bytes, corrupt};
use crate::config::StoreConfig;
use crate::error::{StoreError, SubmitError};
use crate::model::{
    Accepted, CapacityRecord, Idempotency, Key, NewEvaluation, NewKey, NewSubmission, Storage,
};

#[derive(Debug)]
pub(super) struct Book {
    pub(super) config: StoreConfig,
    pub(super) rows: BTreeMap<Name, Row>,
    pub(super) batches: BTreeMap<(Tenant, BatchId), Timestamp>,
    pub(super) keys: BTreeMap<(Tenant, String), Remembered>,
    pub(super) capacity: Option<CapacityRecord>,
    api_keys: BTreeMap<[u8; 32], Key>,
    openings: u64,
}

/// What names a row.
pub(super) type Name = (Tenant, EvaluationId);

#[derive(Debug)]
pub(super) struct Remembered {
    fingerprint: [u8; 32],
    batch: Option<BatchId>,
}

impl Book {
    pub(super) const fn new(config: StoreConfig) -> Self {
        Self {
            config,
            rows: BTreeMap::new(),
            batches: BTreeMap::new(),
            keys: BTreeMap::new(),
            capacity: None,
            api_keys: BTreeMap::new(),
            openings: 0,
        }
    }

    pub(super) const fn next_opening(&mut self) -> u64 {
        self.openings += 1;
        self.openings
    }

    pub(super) fn insert_key(&mut self, key: &NewKey) -> Result<(), StoreError> {
        let known = Key { tenant: key.tenant.clone(), name: key.name.clone() };
        if self.api_keys.get(&key.hash).is_some_and(|other| *other != known) {
            return Err(corrupt("a key of this hash is somebody else's"));
        }
        self.api_keys.retain(|_, other| *other != known);
        self.api_keys.insert(key.hash, known);
        Ok(())
    }

    pub(super) fn find_key(&self, hash: &[u8; 32]) -> Option<Key> {
        self.api_keys.get(hash).cloned()
    }

    pub(super) fn has_keys(&self) -> bool {
        !self.api_keys.is_empty()
    }

    pub(super) fn storage(&self) -> Storage {
        let StoreConfig { storage_bytes, storage_reserve_bytes, .. } = self.config;
        let used_bytes = self.rows.values().map(Row::bytes).sum();
        Storage { used_bytes, limit_bytes: storage_bytes, reserve_bytes: storage_reserve_bytes }
    }

    pub(super) fn submit(
        &mut self,
        tenant: &Tenant,
        now: Timestamp,
        submission: NewSubmission,
    ) -> Result<Accepted, SubmitError> {
        let NewSubmission { batch, evaluations, idempotency } = submission;
        if evaluations.is_empty() || (batch.is_none() && evaluations.len() > 1) {
            return Err(SubmitError::Malformed);
        }
        if let Some(idempotency) = &idempotency
            && let Some(existing) = self.existing(tenant, idempotency)?
        {
            return Ok(existing);
        }
        self.check_room(&evaluations)?;
        self.check_new(tenant, batch, &evaluations)?;
        if let Some(batch) = batch {
            self.batches.insert((tenant.clone(), batch), now);
        }
        let idempotency_key = idempotency.as_ref().map(|idempotency| idempotency.key.as_str());
        for (position, new) in evaluations.iter().enumerate() {
            let row = Row::new(new, &Origin { now, batch, idempotency_key, position });
            self.rows.insert((tenant.clone(), new.id), row);
        }
        if let Some(Idempotency { key, fingerprint }) = idempotency {
            self.keys.insert((tenant.clone(), key), Remembered { fingerprint, batch });
        }
        Ok(Accepted::New)
    }

    pub(super) fn existing(
        &self,
        tenant: &Tenant,
        idempotency: &Idempotency,
    ) -> Result<Option<Accepted>, SubmitError> {
        let Some(known) = self.keys.get(&(tenant.clone(), idempotency.key.clone())) else { return Ok(None) };
        if known.fingerprint != idempotency.fingerprint {
            return Err(SubmitError::IdempotencyConflict);
        }
        let mut of_key: Vec<_> = self
            .of(tenant)
            .filter(|(_, row)| row.idempotency_key.as_deref() == Some(idempotency.key.as_str()))
            .map(|(id, row)| (row.position, id))
            .collect();
        of_key.sort_unstable();
        let evaluations = of_key.into_iter().map(|(_, id)| id).collect();
        Ok(Some(Accepted::Existing { batch: known.batch, evaluations }))
    }

    fn check_room(&self, evaluations: &[NewEvaluation]) -> Result<(), SubmitError> {
        let StoreConfig { storage_bytes, storage_reserve_bytes, queue_max, .. } = self.config;
        let limit_bytes = storage_bytes.saturating_sub(storage_reserve_bytes);
        let wanted: usize = evaluations.iter().map(|new| accepted_bytes(&new.request, &new.labels)).sum();
        let used_bytes = self.storage().used_bytes;
        if used_bytes + wanted as u64 > limit_bytes {
            return Err(SubmitError::StorageFull { used_bytes, limit_bytes });
        }
        let queued = self.rows.values().filter(|row| row.state() == State::Queued).count() as u64;
        if queued + evaluations.len() as u64 > queue_max {
            return Err(SubmitError::QueueFull { queued, limit: queue_max });
        }
        Ok(())
    }

    fn check_new(
        &self,
        tenant: &Tenant,
        batch: Option<BatchId>,
        evaluations: &[NewEvaluation],
    ) -> Result<(), StoreError> {
        if batch.is_some_and(|batch| self.batches.contains_key(&(tenant.clone(), batch))) {
            return Err(corrupt("a batch of this id is there"));
        }
        let mut ids: Vec<_> = evaluations.iter().map(|new| new.id).collect();
        ids.sort_unstable();
        let twice = ids.windows(2).any(|pair| pair[0] == pair[1]);
        if twice || ids.iter().any(|id| self.rows.contains_key(&(tenant.clone(), *id))) {
            return Err(corrupt("an evaluation of this id is there"));
        }
        Ok(())
    }

    /// A tenant's rows, oldest id first.
    pub(super) fn of<'a>(
        &'a self,
        tenant: &'a Tenant,
    ) -> impl DoubleEndedIterator<Item = (EvaluationId, &'a Row)> {
        self.rows.iter().filter(move |((owner, _), _)| owner == tenant).map(|((_, id), row)| (*id, row))
    }
}
