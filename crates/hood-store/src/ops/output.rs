//! Output while it comes, and once no more will.

use hood_core::outcome::Stream;

use crate::db::{Connection, Row};
use crate::error::{CommitError, StoreError};
use crate::model::{Chunk, Lease};
use crate::rows::{corrupt, get, number, sql_number};
use crate::writer::{Context, failed};

/// The most that one row holds: larger chunks are split, and once an attempt has ended smaller ones
/// are put together. It is what a read holds in memory beside what it was asked for, and a row of
/// SQLite is read whole.
pub(crate) const PIECE_BYTES_MAX: usize = 256 * 1024;

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
    db: &mut Connection,
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
    sqlx::query(SQL)
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

async fn measure(db: &mut Connection, lease: &Lease) -> Result<Stored, StoreError> {
    const SQL: &str = "SELECT stdout_bytes, stderr_bytes, output_cut FROM attempts \
         WHERE tenant = $1 AND evaluation = $2 AND number = $3";
    let row = sqlx::query(SQL)
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
    db: &mut Connection,
    (lease, stream): (&Lease, Stream),
    start: u64,
    bytes: &[u8],
) -> Result<(), StoreError> {
    const SQL: &str = "INSERT INTO output (tenant, evaluation, attempt, stream, start_at, bytes) \
         VALUES ($1, $2, $3, $4, $5, $6)";
    let mut at = start;
    for piece in bytes.chunks(PIECE_BYTES_MAX) {
        sqlx::query(SQL)
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

/// Makes few large pieces of many small chunks, once no more will come. A stream of up to
/// [`PIECE_BYTES_MAX`] is one blob then. Of a longer one no more than a piece is in memory, and what
/// is large already is left where it is.
pub(super) async fn compact(db: &mut Connection, lease: &Lease) -> Result<(), StoreError> {
    for stream in Stream::ALL {
        for run in runs(&sizes(db, lease, stream).await?) {
            let bytes = take(db, (lease, stream), run).await?;
            insert(db, (lease, stream), run.0, &bytes).await?;
        }
    }
    Ok(())
}

/// Neighbours that fit into one piece, by where they begin and end; one alone is no run.
fn runs(sizes: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let mut runs = Vec::new();
    let mut members = 0;
    for &(start, size) in sizes {
        match runs.last_mut() {
            Some((first, end)) if start + size - *first <= PIECE_BYTES_MAX as u64 => {
                *end = start + size;
                members += 1;
            }
            last => {
                if last.is_some() && members == 1 {
                    runs.pop();
                }
                runs.push((start, start + size));
                members = 1;
            }
        }
    }
    if members == 1 {
        runs.pop();
    }
    runs
}

async fn sizes(db: &mut Connection, lease: &Lease, stream: Stream) -> Result<Vec<(u64, u64)>, StoreError> {
    const SQL: &str = "SELECT start_at, length(bytes) AS size FROM output \
         WHERE tenant = $1 AND evaluation = $2 AND attempt = $3 AND stream = $4 ORDER BY start_at";
    let rows = sqlx::query(SQL)
        .bind(lease.tenant.as_str())
        .bind(lease.evaluation.as_uuid())
        .bind(i64::from(lease.attempt))
        .bind(stream.as_str())
        .fetch_all(db)
        .await
        .map_err(failed("compacting output"))?;
    rows.iter().map(|row| Ok((number(row, "start_at")?, number(row, "size")?))).collect()
}

/// Takes chunks out, and gives their bytes.
async fn take(
    db: &mut Connection,
    (lease, stream): (&Lease, Stream),
    (start, end): (u64, u64),
) -> Result<Vec<u8>, StoreError> {
    const SQL: &str = "DELETE FROM output WHERE tenant = $1 AND evaluation = $2 AND attempt = $3 \
         AND stream = $4 AND start_at >= $5 AND start_at < $6 RETURNING start_at, bytes";
    let mut rows: Vec<Row> = sqlx::query(SQL)
        .bind(lease.tenant.as_str())
        .bind(lease.evaluation.as_uuid())
        .bind(i64::from(lease.attempt))
        .bind(stream.as_str())
        .bind(sql_number(start))
        .bind(sql_number(end))
        .fetch_all(db)
        .await
        .map_err(failed("compacting output"))?;
    // In what order they are given back, no database promises.
    rows.sort_by_cached_key(|row| number(row, "start_at").unwrap_or(u64::MAX));
    let mut bytes = Vec::with_capacity(usize::try_from(end - start).unwrap_or(0));
    for row in &rows {
        bytes.extend_from_slice(get::<&[u8]>(row, "bytes")?);
    }
    if bytes.len() as u64 != end - start {
        return Err(corrupt(format!("output of {} has a hole", lease.evaluation)));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    //! White box: which chunks are put together.

    use super::*;

    const MAX: u64 = PIECE_BYTES_MAX as u64;

    #[test]
    fn small_neighbours_are_put_together_and_large_ones_left_alone() {
        assert_eq!(runs(&[]), []);
        assert_eq!(runs(&[(0, 5)]), [], "one is one piece already");
        assert_eq!(runs(&[(0, 5), (5, 7), (12, 1)]), [(0, 13)]);
        assert_eq!(runs(&[(0, MAX), (MAX, MAX), (2 * MAX, 3)]), []);
        assert_eq!(runs(&[(0, MAX), (MAX, 1), (MAX + 1, 1), (MAX + 2, MAX)]), [(MAX, MAX + 2)]);
        assert_eq!(runs(&[(0, 1), (1, MAX - 1), (MAX, 1)]), [(0, MAX)], "to the byte");
        assert_eq!(runs(&[(0, 2), (2, MAX - 1), (MAX + 1, 1)]), [(2, MAX + 2)]);
    }
}
