//! Requests that are too large for a row, on their way into blobs and back. A blob is noted, then
//! written until it is durable, and then one transaction accepts its evaluation and refers to it: whoever
//! is killed on the way leaves a blob that is noted and that nobody refers to, which is given up in time.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use hood_core::{EvaluationId, Tenant, Timestamp};

use crate::blobs::{Blob, BlobError, Digest};
use crate::error::{StoreError, SubmitError};
use crate::model::{Accepted, Idempotency, NewSubmission, Requeued};
use crate::ops::inputs::{self, GiveUpInputs, NoteInputs};
use crate::ops::requeue::Requeue;
use crate::ops::submit::{Submit, existing};
use crate::rows::corrupt;
use crate::store::Store;

/// Blobs of one submission that are written at the same time: a batch of large ones waits for a few
/// flushes of the disk, and not for one after the other.
const WRITTEN_AT_ONCE: usize = 32;

/// What is to be written, with the evaluation that it is of.
type Inputs = Vec<(EvaluationId, String)>;

/// The blobs' names, by evaluation.
type Names = HashMap<EvaluationId, String>;

impl Store {
    /// Accepts all of it or nothing; durable when it returns.
    pub async fn submit(
        &self,
        tenant: &Tenant,
        now: Timestamp,
        mut submission: NewSubmission,
    ) -> Result<Accepted, SubmitError> {
        let large = submission.evaluations.iter_mut();
        let inputs: Inputs = large.filter_map(|new| Some((new.id, new.input.take()?))).collect();
        if inputs.is_empty() {
            return self.accept(tenant, now, submission, Names::new()).await;
        }
        if let Some(idempotency) = &submission.idempotency
            && let Some(existing) = self.find_submission(tenant, idempotency).await?
        {
            return Ok(existing);
        }
        let names = self.write_inputs(tenant, now, inputs).await?;
        let written = names.values().cloned().collect();
        let accepted = self.accept(tenant, now, submission, names).await;
        if !matches!(accepted, Ok(Accepted::New)) {
            self.give_up_inputs(written).await;
        }
        accepted
    }

    async fn accept(
        &self,
        tenant: &Tenant,
        now: Timestamp,
        submission: NewSubmission,
        inputs: Names,
    ) -> Result<Accepted, SubmitError> {
        let config = self.config().clone();
        self.writer()?.run_together(Submit { tenant: tenant.clone(), now, submission, inputs, config }).await
    }

    /// What an idempotency key stands for already: what was accepted stays accepted, though it would
    /// be refused today.
    pub async fn find_submission(
        &self,
        tenant: &Tenant,
        idempotency: &Idempotency,
    ) -> Result<Option<Accepted>, SubmitError> {
        let mut look = self.look().await?;
        existing(&mut look.connection(), tenant, idempotency).await
    }

    /// Gives one that infrastructure failed another life, under the id `new`.
    pub async fn requeue(
        &self,
        tenant: &Tenant,
        (old, new): (EvaluationId, EvaluationId),
        now: Timestamp,
    ) -> Result<Requeued, SubmitError> {
        let found = inputs::of_dead(&mut self.reader().await?.connection(), (tenant, old)).await?;
        let input = match found {
            Some(blob) => {
                // Each has its own: neither outlives its evaluation, and nobody counts references.
                let input = self.read_whole(&blob).await?;
                self.write_inputs(tenant, now, vec![(new, input)]).await?.remove(&new)
            }
            None => None,
        };
        let config = self.config().clone();
        let requeue = Requeue { tenant: tenant.clone(), now, old, new, input: input.clone(), config };
        let requeued = self.writer()?.run(requeue).await;
        if !matches!(requeued, Ok(Requeued::As(_))) {
            self.give_up_inputs(input.into_iter().collect()).await;
        }
        requeued
    }

    /// The whole request of an evaluation whose `input` this is.
    pub async fn input(&self, name: &str) -> Result<String, StoreError> {
        let found = inputs::find(&mut self.reader().await?.connection(), name).await?;
        let blob = found.ok_or_else(|| BlobError::Missing { name: name.to_owned() })?;
        self.read_whole(&blob).await
    }

    async fn read_whole(&self, blob: &Blob) -> Result<String, StoreError> {
        let bytes = self.blobs().read(blob, 0..blob.bytes).await?;
        String::from_utf8(bytes.into()).map_err(|_| corrupt(format!("{} is no text", blob.name)))
    }

    /// All of them durable, or given up.
    async fn write_inputs(
        &self,
        tenant: &Tenant,
        now: Timestamp,
        inputs: Inputs,
    ) -> Result<Names, SubmitError> {
        self.check_room_for(inputs.iter().map(|(_, input)| input.len()).sum()).await?;
        let (blobs, bytes): (Vec<_>, Vec<_>) = hashed(inputs).await?.into_iter().unzip();
        let noted = NoteInputs { tenant: tenant.clone(), now, inputs: blobs.clone() };
        self.writer()?.run(noted).await?;
        let names: Names = blobs.iter().map(|(id, blob)| (*id, blob.name.clone())).collect();
        let blobs = blobs.into_iter().map(|(_, blob)| blob);
        match self.put_all(blobs.zip(bytes).collect()).await {
            Ok(()) => Ok(names),
            Err(error) => {
                self.give_up_inputs(names.into_values().collect()).await;
                Err(StoreError::from(error).into())
            }
        }
    }

    /// Before anything is written: what is refused for want of room should not take any.
    async fn check_room_for(&self, bytes: usize) -> Result<(), SubmitError> {
        if !self.blobs().are_files() {
            return Ok(());
        }
        let storage = self.storage().await?;
        let limit_bytes = storage.limit_bytes.saturating_sub(storage.reserve_bytes);
        if storage.used_bytes.saturating_add(bytes as u64) > limit_bytes {
            return Err(SubmitError::StorageFull { used_bytes: storage.used_bytes, limit_bytes });
        }
        Ok(())
    }

    /// Several at once. After a failure no other is begun; those that are under way end first, so that
    /// nothing is written after it was given up.
    async fn put_all(&self, blobs: Vec<(Blob, Bytes)>) -> Result<(), BlobError> {
        let failed = AtomicBool::new(false);
        let written = stream::iter(blobs).map(async |(blob, bytes)| {
            if failed.load(Ordering::Relaxed) {
                return Ok(());
            }
            let put = self.blobs().put_hashed(&blob, bytes).await;
            failed.fetch_or(put.is_err(), Ordering::Relaxed);
            put
        });
        let written: Vec<_> = written.buffer_unordered(WRITTEN_AT_ONCE).collect().await;
        written.into_iter().collect()
    }

    /// What cannot be given up now is in time: it is noted since when it is being written.
    async fn give_up_inputs(&self, names: Vec<String>) {
        let given_up = match self.writer() {
            _ if names.is_empty() => return,
            Ok(writer) => writer.run(GiveUpInputs { names }).await,
            Err(error) => Err(error),
        };
        if let Err(error) = given_up {
            tracing::debug!(error = %error, "blobs of what was not accepted are given up later");
        }
    }
}

/// Off the threads that serve everybody.
async fn hashed(inputs: Inputs) -> Result<Vec<((EvaluationId, Blob), Bytes)>, StoreError> {
    let hash = |(id, input): (EvaluationId, String)| {
        let bytes = Bytes::from(input);
        let blob = Blob { name: inputs::name(id), bytes: bytes.len() as u64, digest: Digest::of(&bytes) };
        ((id, blob), bytes)
    };
    let hashing = tokio::task::spawn_blocking(move || inputs.into_iter().map(hash).collect());
    hashing.await.map_err(|error| corrupt(format!("requests could not be hashed: {error}")))
}

#[cfg(test)]
mod tests;
