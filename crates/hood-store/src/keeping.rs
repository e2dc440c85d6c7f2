//! The store's own work beside what it is asked for: large output leaves the rows, and blobs that
//! nobody refers to are deleted. Each step takes no input, may be repeated, broken off anywhere and
//! done by several at once: what it has to do is in the database.

use std::time::Duration;

use futures::StreamExt as _;
use hood_core::Timestamp;

use crate::blobs::{Blob, Found};
use crate::error::StoreError;
use crate::model::Span;
use crate::ops::blobs::{self, ForgetBlobs, GiveUpWriting, Move, Moved, TakeTurn, Wanted};
use crate::read;
use crate::store::Store;

/// Output read from the rows at a time on its way to a blob.
const MOVED_BYTES: usize = 1024 * 1024;

/// Streams moved, and blobs deleted, in one round.
const ROUND_MAX: u32 = 100;

/// How long a blob may be written without anybody referring to it: longer than every timeout on the
/// way of a submission together.
pub const WRITING_MAX: Duration = Duration::from_secs(3600);

/// How old an object that the database does not know must be before it is deleted. It could go at
/// once, since a blob is noted before its first byte is written; the day is for whoever restores an
/// older database beside newer objects, and sees it in time.
pub const ORPHAN_AGE: Duration = Duration::from_secs(24 * 3600);

impl Store {
    /// Moves large output of attempts that have ended into blobs: up to a round of streams, and how
    /// many there were is told. Where the blobs' store is away the output stays where it is.
    pub async fn move_outputs(&self, now: Timestamp) -> Result<u64, StoreError> {
        let wanted = blobs::wanted(&mut self.reader().await?.connection(), ROUND_MAX).await?;
        let mut moved = 0;
        for wanted in wanted {
            match self.move_output(wanted.clone(), now).await {
                Ok(()) => moved += 1,
                // The next one is no better off.
                Err(error @ (StoreError::Blob(_) | StoreError::Closed)) => return Err(error),
                Err(error) => {
                    tracing::error!(blob.name = wanted.name, error = %error, "output cannot leave the rows");
                }
            }
        }
        Ok(moved)
    }

    async fn move_output(&self, wanted: Wanted, now: Timestamp) -> Result<(), StoreError> {
        let Some(blob) = self.write_output(&wanted).await? else { return Ok(()) };
        let name = blob.name.clone();
        if self.writer()?.run(Move { wanted, blob, now }).await? == Moved::NeedlessNow {
            self.blobs().delete(&name).await?;
        }
        Ok(())
    }

    /// `None` where there is nothing to move any more.
    async fn write_output(&self, wanted: &Wanted) -> Result<Option<Blob>, StoreError> {
        let key = (&wanted.tenant, wanted.evaluation);
        let mut writer = self.blobs().write(wanted.name.clone());
        let mut offset = 0;
        loop {
            let span =
                Span { stream: wanted.stream, attempt: Some(wanted.attempt), offset, max: MOVED_BYTES };
            let mut look = self.look().await?;
            let Some(stored) = read::in_rows(&mut look.connection(), key, span).await? else {
                return Ok(None);
            };
            drop(look);
            writer.write(&stored.bytes).await?;
            offset += stored.bytes.len() as u64;
            if offset == stored.stored {
                return Ok(Some(writer.finish().await?));
            }
        }
    }

    /// Deletes blobs that nobody refers to: up to a round of them, and how many there were is told.
    pub async fn delete_blobs(&self, now: Timestamp) -> Result<u64, StoreError> {
        let older_than = now.before(WRITING_MAX);
        self.writer()?.run(GiveUpWriting { older_than }).await?;
        let names = blobs::doomed(&mut self.reader().await?.connection(), ROUND_MAX).await?;
        for name in &names {
            self.blobs().delete(name).await?;
        }
        let deleted = names.len() as u64;
        if deleted > 0 {
            self.writer()?.run(ForgetBlobs { names }).await?;
        }
        Ok(deleted)
    }

    /// Looks through all objects for those that the database does not know, and deletes them. What a
    /// writer that died left half made goes with them.
    pub async fn delete_orphans(&self, now: Timestamp) -> Result<u64, StoreError> {
        let older_than = now.before(ORPHAN_AGE);
        self.blobs().tidy(older_than).await?;
        let mut deleted = 0;
        let mut found = std::pin::pin!(self.blobs().list());
        // Listed before it is looked up: a row that is not there then will never be.
        while let Some(found) = found.next().await {
            let Found { name, written_at, .. } = found?;
            if written_at < older_than
                && !blobs::is_known(&mut self.reader().await?.connection(), &name).await?
            {
                tracing::warn!(blob.name = name, "a blob that nothing refers to is deleted");
                self.blobs().delete(&name).await?;
                deleted += 1;
            }
        }
        Ok(deleted)
    }

    /// Whether it is `holder`'s turn at work that one process at a time does. What two do at once by
    /// mistake is no harm, only work done twice.
    pub async fn take_turn(
        &self,
        name: &'static str,
        holder: &str,
        now: Timestamp,
        ttl: Duration,
    ) -> Result<bool, StoreError> {
        let turn = TakeTurn { name, holder: holder.to_owned(), now, ends_at: now.after(ttl) };
        self.writer()?.run(turn).await
    }
}
