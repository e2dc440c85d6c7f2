//! Output while it comes, and once no more will.

use hood_core::Timestamp;
use hood_core::outcome::Stream;

use super::blobs;
use crate::db::{Connection, Row, query};
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
#[derive(Clone, Copy, Debug)]
struct Stored {
    stdout: u64,
    stderr: u64,
    /// There was no room for some of it; then nothing more is stored, so that what is there is the
    /// beginning and has no hole.
    cut: bool,
}

impl Stored {
    fn of(&mut self, stream: Stream) -> &mut u64 {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }
}

/// Appends what is new of the chunks: bytes that are stored already are left as they are, and a gap
/// is refused. What would go beyond `storage_bytes` is dropped, and the attempt says so.
pub(super) async fn append(
    db: &mut Connection<'_>,
    context: &mut Context<'_>,
    (lease, storage_bytes): (&Lease, u64),
    chunks: &[Chunk],
) -> Result<(), CommitError> {
    const SQL: &str = "UPDATE attempts SET stdout_bytes = $4, stderr_bytes = $5, output_cut = $6 \
         WHERE tenant = $1 AND evaluation = $2 AND number = $3";
    if chunks.is_empty() {
        return Ok(());
    }
    let mut stored = measure(db, lease).await?;
    for stream in Stream::ALL {
        let start = *stored.of(stream);
        let fresh = fresh(chunks, stream, start, stored.cut)
            .map_err(|(offset, stored)| gap(lease, stream, offset, stored))?;
        if !fresh.is_empty() && !context.fits(fresh.len(), storage_bytes) {
            stored.cut = true;
            continue;
        }
        insert(db, (lease, stream), start, &fresh).await?;
        context.grow(fresh.len());
        *stored.of(stream) += fresh.len() as u64;
    }
    query(SQL)
        .bind(lease.tenant.as_str())
        .bind(lease.evaluation.as_uuid())
        .bind(i64::from(lease.attempt))
        .bind(sql_number(stored.stdout))
        .bind(sql_number(stored.stderr))
        .bind(i64::from(stored.cut))
        .execute(db)
        .await
        .map_err(failed("writing output"))?;
    Ok(())
}

fn gap(lease: &Lease, stream: Stream, offset: u64, stored: u64) -> CommitError {
    CommitError::OutputGap { evaluation: lease.evaluation, stream, offset, stored }
}

/// The bytes of a stream that go on where it ends; a gap is told by where it ends and what is there.
fn fresh(chunks: &[Chunk], stream: Stream, start: u64, cut: bool) -> Result<Vec<u8>, (u64, u64)> {
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

async fn measure(db: &mut Connection<'_>, lease: &Lease) -> Result<Stored, StoreError> {
    const SQL: &str = "SELECT stdout_bytes, stderr_bytes, output_cut FROM attempts \
         WHERE tenant = $1 AND evaluation = $2 AND number = $3";
    let row = query(SQL)
        .bind(lease.tenant.as_str())
        .bind(lease.evaluation.as_uuid())
        .bind(i64::from(lease.attempt))
        .fetch_optional(db)
        .await
        .map_err(failed("measuring output"))?
        .ok_or_else(|| corrupt(format!("attempt {} of {} has no row", lease.attempt, lease.evaluation)))?;
    Ok(Stored {
        stdout: number(&row, "stdout_bytes")?,
        stderr: number(&row, "stderr_bytes")?,
        cut: get::<i64>(&row, "output_cut")? != 0,
    })
}

async fn insert(
    db: &mut Connection<'_>,
    (lease, stream): (&Lease, Stream),
    start: u64,
    bytes: &[u8],
) -> Result<(), StoreError> {
    const SQL: &str = "INSERT INTO output (tenant, evaluation, attempt, stream, start_at, bytes) \
         VALUES ($1, $2, $3, $4, $5, $6)";
    let mut at = start;
    for piece in bytes.chunks(PIECE_BYTES_MAX) {
        query(SQL)
            .bind(lease.tenant.as_str())
            .bind(lease.evaluation.as_uuid())
            .bind(i64::from(lease.attempt))
            .bind(stream.as_str())
            .bind(sql_number(at))
            .bind(piece)
            .execute(&mut *db)
            .await
            .map_err(failed("writing output"))?;
        at += piece.len() as u64;
    }
    Ok(())
}

/// Puts an attempt's output where it stays, once no more will come: what is small into one row, and what
/// is large into a blob, by and by.
pub(super) async fn settle(db: &mut Connection<'_>, lease: &Lease, now: Timestamp) -> Result<(), StoreError> {
    let mut stored = measure(db, lease).await?;
    for stream in Stream::ALL {
        match *stored.of(stream) {
            0 => {}
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
        insert(db, of, 0, &bytes).await?;
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
