//! Evaluations that ended long ago, out of the database: a line of JSON each, in objects that hold many.
//! Each line is a zstd frame of its own, so that one is read without the others, and the frames behind
//! one another are what `zstd -d` makes NDJSON of.

mod line;
mod pack;
mod serve;
mod told;

use std::time::Duration;

use hood_core::Timestamp;
use uuid::Uuid;

use crate::blobs::Blob;
use crate::error::{FindError, StoreError};
use crate::model::Delete;
use crate::ops::archive::{self, Archive, Entry};
use crate::ops::blobs::{GiveUp, NoteArchive};
use crate::store::Store;

pub(crate) use line::Line;

use pack::Pack;

/// Evaluations in one object: an object is written and read as a whole when it is written anew.
const OBJECT_EVALUATIONS_MAX: u32 = 500;

/// Bytes after which an object takes no more: it is in memory while it is made.
const OBJECT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Evaluations that leave the tables in one transaction, which others wait for.
const LEAVE_MAX: usize = 50;

/// Evaluations deleted in one round because of their age.
const EXPIRED_MAX: u32 = 200;

/// What becomes of an evaluation after its end, and when.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// `None`: it stays in the database.
    pub archive_after: Option<Duration>,
    /// `None`: it stays.
    pub delete_after: Option<Duration>,
}

impl Store {
    /// Moves evaluations that ended before `older_than` into one object of the archive, and tells how
    /// many. Killed anywhere, each of them is in the tables or in the archive, and never in both.
    pub async fn archive(&self, now: Timestamp, older_than: Timestamp) -> Result<u64, StoreError> {
        let (bytes, entries) = self.pack(older_than).await?.finish();
        if entries.is_empty() {
            return Ok(0);
        }
        let name = name(now);
        self.writer()?.run(NoteArchive { name: name.clone(), now }).await?;
        let blob = self.blobs().put(name, bytes.into()).await?;
        self.leave(blob, entries, now).await
    }

    async fn pack(&self, older_than: Timestamp) -> Result<Pack, StoreError> {
        let mut reader = self.reader().await?;
        let ended = archive::ended(&mut reader.connection(), older_than, OBJECT_EVALUATIONS_MAX).await?;
        drop(reader);
        let mut pack = Pack::default();
        for (tenant, id) in ended {
            let mut look = self.look().await?;
            // Deleted meanwhile: there is nothing left to keep.
            let Some((line, seen)) = line::read(&mut look.connection(), &tenant, id).await? else { continue };
            drop(look);
            pack.add((tenant, id), (&line, seen))?;
            if pack.bytes() >= OBJECT_BYTES_MAX {
                break;
            }
        }
        Ok(pack)
    }

    /// The object is durable: what is in it may leave the tables.
    async fn leave(&self, blob: Blob, mut entries: Vec<Entry>, now: Timestamp) -> Result<u64, StoreError> {
        // Whoever takes several rows takes them in this order.
        entries.sort_unstable_by_key(|entry| entry.evaluation);
        let mut left = 0;
        for entries in entries.chunks(LEAVE_MAX) {
            let leaving = Archive { blob: blob.clone(), entries: entries.to_vec(), now };
            left += self.writer()?.run(leaving).await?;
        }
        if left == 0 {
            self.writer()?.run(GiveUp { name: blob.name }).await?;
        }
        Ok(left)
    }

    /// Deletes evaluations that ended before `older_than`, wherever they are: up to a round of them, and
    /// how many is told.
    pub async fn expire(&self, older_than: Timestamp) -> Result<u64, StoreError> {
        let mut reader = self.reader().await?;
        let mut old = archive::ended(&mut reader.connection(), older_than, EXPIRED_MAX).await?;
        old.extend(archive::archived_before(&mut reader.connection(), older_than, EXPIRED_MAX).await?);
        drop(reader);
        let mut deleted = 0;
        for (tenant, id) in old {
            match self.delete(&tenant, id).await {
                Ok(Delete::Deleted) => deleted += 1,
                Ok(Delete::NotTerminal) | Err(FindError::NotFound) => {}
                Err(FindError::Store(error)) => return Err(error),
            }
        }
        Ok(deleted)
    }
}

/// A name that was never used: by the day, for people, and random, for the rest of us.
fn name(now: Timestamp) -> String {
    let moment = jiff::Timestamp::from_microsecond(now.as_micros()).unwrap_or(jiff::Timestamp::MAX);
    format!("archive/{}/{}.ndjson.zst", moment.strftime("%Y-%m-%d"), Uuid::new_v4().simple())
}

#[cfg(test)]
mod tests;
