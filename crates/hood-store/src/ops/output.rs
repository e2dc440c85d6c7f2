//! Output while it comes, and once no more will.

use std::collections::HashMap;

use hood_core::outcome::Stream;
use hood_core::{EvaluationId, Timestamp};

use super::blobs;
use super::commit::Write;
use crate::db::{Connection, Row, Rows, query, row};
use crate::error::{CommitError, StoreError};
use crate::model::{Chunk, Lease};
use crate::rows::{corrupt, get, number, sql_number};
use crate::writer::{Context, failed};

/// Output of a stream that stays in the database once its attempt has ended: it is read with the record,
/// and most output is no longer than this. What is longer becomes a blob.
pub(crate) const OUTPUT_IN_ROWS_MAX: u64 = 64 * 1024;

/// The most that one row holds: larger chunks are split. It is what a read holds in memory beside what
/// it was asked for, and a row of SQLite is read whole.
const PIECE_BYTES_MAX: usize = 256 * 1024;

/// How much of an attempt's streams is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) stdout: u64,
    pub(super) stderr: u64,
    pub(super) build: u64,
    /// There was no room for some of it; then nothing more is stored, so that what is there is the
    /// beginning and has no hole.
    pub(super) cut: bool,
}

/// What is there and what is to be added to it.
#[derive(Debug)]
pub(super) struct Grown {
    before: Stored,
    pub(super) after: Stored,
    /// In the order of [`Stream::ALL`].
    fresh: [Vec<u8>; Stream::ALL.len()],
}

impl Stored {
    fn of(&mut self, stream: Stream) -> &mut u64 {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
            Stream::Build => &mut self.build,
        }
    }

    /// Takes what is new of the chunks: bytes that are stored already are left as they are, and a gap
    /// is refused. What would go beyond the write's `storage_bytes` is dropped, and the attempt says so.
    pub(super) fn grow(mut self, write: &Write, context: &mut Context<'_>) -> Result<Grown, CommitError> {
        let (before, lease) = (self, &write.lease);
        let mut fresh: [Vec<u8>; Stream::ALL.len()] = Default::default();
        for (fresh, stream) in fresh.iter_mut().zip(Stream::ALL) {
            *fresh = added(&write.commit.output, stream, (*self.of(stream), self.cut))
                .map_err(|(offset, stored)| gap(lease, stream, offset, stored))?;
        }
        for (fresh, stream) in fresh.iter_mut().zip(Stream::ALL) {
            if self.cut || (!fresh.is_empty() && !context.fits(fresh.len(), write.storage_bytes)) {
                self.cut |= !fresh.is_empty();
                fresh.clear();
                continue;
            }
            context.grow(fresh.len());
            *self.of(stream) += fresh.len() as u64;
        }
        Ok(Grown { before, after: self, fresh })
    }
}

impl Grown {
    pub(super) fn changed(&self) -> bool {
        self.before != self.after
    }
}

/// Appends what attempts' streams have grown by.
pub(super) async fn append(
    db: &mut Connection<'_>,
    grown: impl Iterator<Item = (&Lease, &Grown)>,
) -> Result<(), StoreError> {
    let mut rows = Rows::of(INSERT, "");
    for (lease, grown) in grown {
        for (fresh, stream) in grown.fresh.iter().zip(Stream::ALL) {
            let start = *grown.before.clone().of(stream);
            push(&mut rows, (lease, stream), start, fresh);
        }
    }
    rows.execute(db).await.map_err(failed("writing output")).map(drop)
}

fn gap(lease: &Lease, stream: Stream, offset: u64, stored: u64) -> CommitError {
    CommitError::OutputGap { evaluation: lease.evaluation, stream, offset, stored }
}

/// The bytes of a stream that go on where it ends; a gap is told by where it ends and what is there.
fn added(chunks: &[Chunk], stream: Stream, (start, cut): (u64, bool)) -> Result<Vec<u8>, (u64, u64)> {
    let mut fresh = Vec::new();
    if cut {
        return Ok(fresh);
    }
    for chunk in chunks.iter().filter(|chunk| chunk.stream == stream) {
        let stored = start + fresh.len() as u64;
        let Some(known) = stored.checked_sub(chunk.offset) else { return Err((chunk.offset, stored)) };
        let known = usize::try_from(known).unwrap_or(usize::MAX);
        fresh.extend_from_slice(chunk.bytes.get(known..).unwrap_or_default());
    }
    Ok(fresh)
}

/// What is stored of attempts that are held: asked after they are, since it may have grown until then.
pub(super) async fn measure(
    db: &mut Connection<'_>,
    leases: impl Iterator<Item = &Lease>,
) -> Result<HashMap<EvaluationId, Stored>, StoreError> {
    let mut rows = Rows::of(MEASURE.0, MEASURE.1);
    for lease in leases {
        rows.push(row![lease.tenant.as_str(), lease.evaluation.as_uuid(), i64::from(lease.attempt)]);
    }
    let measured = rows.fetch_all(db).await.map_err(failed("measuring output"))?;
    let stored = measured.iter().map(|row| {
        let stored = Stored {
            stdout: number(row, "stdout_bytes")?,
            stderr: number(row, "stderr_bytes")?,
            build: number(row, "build_bytes")?,
            cut: get::<i64>(row, "output_cut")? != 0,
        };
        Ok((EvaluationId::from_uuid(get(row, "evaluation")?), stored))
    });
    stored.collect()
}

pub(super) const MEASURE: (&str, &str) = (
    "WITH v (tenant, evaluation, number) AS (VALUES",
    ") SELECT a.evaluation, a.stdout_bytes, a.stderr_bytes, a.build_bytes, a.output_cut FROM v CROSS JOIN attempts a \
     WHERE a.tenant = v.tenant AND a.evaluation = v.evaluation AND a.number = v.number",
);

const INSERT: &str = "INSERT INTO output (tenant, evaluation, attempt, stream, start_at, bytes) VALUES";

fn push(rows: &mut Rows, (lease, stream): (&Lease, Stream), start: u64, bytes: &[u8]) {
    let mut at = start;
    for piece in bytes.chunks(PIECE_BYTES_MAX) {
        let (tenant, id, attempt) = (lease.tenant.as_str(), lease.evaluation.as_uuid(), lease.attempt);
        rows.push(row![tenant, id, i64::from(attempt), stream.as_str(), sql_number(at), piece]);
        at += piece.len() as u64;
    }
}

/// Puts an attempt's output where it stays, once no more will come: what is small into one row, and what
/// is large into a blob, by and by.
pub(super) async fn settle(
    db: &mut Connection<'_>,
    lease: &Lease,
    (grown, now): (&Grown, Timestamp),
) -> Result<(), StoreError> {
    for stream in Stream::ALL {
        let (before, after) = (*grown.before.clone().of(stream), *grown.after.clone().of(stream));
        match after {
            0 => {}
            // What came just now, and nothing else, is one row already.
            small if small <= OUTPUT_IN_ROWS_MAX && before == 0 => {}
            small if small <= OUTPUT_IN_ROWS_MAX => compact(db, (lease, stream)).await?,
            _ => blobs::want(db, lease, stream, now).await?,
        }
    }
    Ok(())
}

/// Makes one row of many small chunks.
async fn compact(db: &mut Connection<'_>, of: (&Lease, Stream)) -> Result<(), StoreError> {
    if chunks(db, of).await? > 1 {
        let bytes = take(db, of).await?;
        let mut rows = Rows::of(INSERT, "");
        push(&mut rows, of, 0, &bytes);
        rows.execute(db).await.map_err(failed("compacting output"))?;
    }
    Ok(())
}

async fn chunks(db: &mut Connection<'_>, (lease, stream): (&Lease, Stream)) -> Result<u64, StoreError> {
    const SQL: &str = "SELECT COUNT(*) AS chunks FROM output \
         WHERE tenant = $1 AND evaluation = $2 AND attempt = $3 AND stream = $4";
    let row = query(SQL)
        .bind(lease.tenant.as_str())
        .bind(lease.evaluation.as_uuid())
        .bind(i64::from(lease.attempt))
        .bind(stream.as_str())
        .fetch_one(db)
        .await
        .map_err(failed("compacting output"))?;
    number(&row, "chunks")
}

/// Takes chunks out, and gives their bytes.
async fn take(db: &mut Connection<'_>, (lease, stream): (&Lease, Stream)) -> Result<Vec<u8>, StoreError> {
    const SQL: &str = "DELETE FROM output WHERE tenant = $1 AND evaluation = $2 AND attempt = $3 \
         AND stream = $4 RETURNING start_at, bytes";
    let mut rows: Vec<Row> = query(SQL)
        .bind(lease.tenant.as_str())
        .bind(lease.evaluation.as_uuid())
        .bind(i64::from(lease.attempt))
        .bind(stream.as_str())
        .fetch_all(db)
        .await
        .map_err(failed("compacting output"))?;
    // In what order they are given back, no database promises.
    rows.sort_by_cached_key(|row| number(row, "start_at").unwrap_or(u64::MAX));
    let mut bytes = Vec::new();
    for row in &rows {
        if number(row, "start_at")? != bytes.len() as u64 {
            return Err(corrupt(format!("output of {} has a hole", lease.evaluation)));
        }
        bytes.extend_from_slice(get::<&[u8]>(row, "bytes")?);
    }
    Ok(bytes)
}
