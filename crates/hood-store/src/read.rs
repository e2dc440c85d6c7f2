//! Everything that only reads. Each look is one snapshot.

mod backlog;
mod list;
mod told;

use futures::TryStreamExt as _;
use hood_core::lifecycle::State;
use hood_core::outcome::Stream;
use hood_core::{BatchId, EvaluationId, Event, Tenant, Timestamp};

use crate::blobs::Blob;
use crate::db::{Connection, Row, query};
use crate::error::{FindError, StoreError};
use crate::model::{AttemptRecord, BatchRecord, CapacityRecord, Key, OutputSlice, QueueRecord, Record, Span};
use crate::ops::blobs;
use crate::ops::output::OUTPUT_IN_ROWS_MAX;
use crate::rows::{
    corrupt, event, get, moment, number, priority, small, sql_number, state, summary, summary_columns, time,
};
use crate::writer::failed;

pub(crate) use backlog::{backlog, delivery_backlog};
pub(crate) use list::list;
pub(crate) use told::{deliveries, lives};

pub(crate) async fn key(db: &mut Connection<'_>, hash: &[u8; 32]) -> Result<Option<Key>, StoreError> {
    let row = query("SELECT tenant, name FROM api_keys WHERE hash = $1")
        .bind(&hash[..])
        .fetch_optional(db)
        .await
        .map_err(failed("finding a key"))?;
    row.map(|row| Ok(Key { tenant: Tenant::new(get::<String>(&row, "tenant")?), name: get(&row, "name")? }))
        .transpose()
}

pub(crate) async fn has_keys(db: &mut Connection<'_>) -> Result<bool, StoreError> {
    let row = query("SELECT hash FROM api_keys LIMIT 1");
    Ok(row.fetch_optional(db).await.map_err(failed("looking for keys"))?.is_some())
}

pub(crate) async fn record(
    db: &mut Connection<'_>,
    tenant: &Tenant,
    id: EvaluationId,
) -> Result<Record, FindError> {
    const SQL: &str = concat!(
        "SELECT ",
        summary_columns!(),
        ", r.document AS request FROM evaluations e \
         JOIN requests r ON r.tenant = e.tenant AND r.evaluation = e.id \
         LEFT JOIN results s ON s.tenant = e.tenant AND s.evaluation = e.id \
         WHERE e.tenant = $1 AND e.id = $2"
    );
    let row = query(SQL)
        .bind(tenant.as_str())
        .bind(id.as_uuid())
        .fetch_optional(&mut *db)
        .await
        .map_err(failed("reading an evaluation"))?
        .ok_or(FindError::NotFound)?;
    let rows = query(
        "SELECT number, leased_at, started_at, ended_at, lost, decision, output_cut FROM attempts \
         WHERE tenant = $1 AND evaluation = $2 ORDER BY number",
    )
    .bind(tenant.as_str())
    .bind(id.as_uuid())
    .fetch_all(db)
    .await
    .map_err(failed("reading attempts"))?;
    let attempts = rows.iter().map(attempt).collect::<Result<_, _>>()?;
    Ok(Record { summary: summary(&row)?, request: get(&row, "request")?, attempts })
}

fn attempt(row: &Row) -> Result<AttemptRecord, StoreError> {
    Ok(AttemptRecord {
        number: small(row, "number")?,
        leased_at: moment(row, "leased_at")?,
        started_at: time(row, "started_at")?,
        ended_at: time(row, "ended_at")?,
        lost: get(row, "lost")?,
        decision: get(row, "decision")?,
        output_cut: get::<i64>(row, "output_cut")? != 0,
    })
}

pub(crate) async fn events(
    db: &mut Connection<'_>,
    tenant: &Tenant,
    id: EvaluationId,
    after: u64,
    limit: u32,
) -> Result<Vec<Event>, FindError> {
    let events = log(db, (tenant, id), after, limit).await?;
    if events.is_empty() {
        // Every evaluation has a first event: one without is not there.
        exists(db, tenant, id).await?;
    }
    Ok(events)
}

/// Events after a number, oldest first.
pub(crate) async fn log(
    db: &mut Connection<'_>,
    (tenant, id): (&Tenant, EvaluationId),
    after: u64,
    limit: u32,
) -> Result<Vec<Event>, StoreError> {
    const SQL: &str = "SELECT number, kind, occurred_at, attempt, not_before, verdict FROM events \
         WHERE tenant = $1 AND evaluation = $2 AND number > $3 ORDER BY number LIMIT $4";
    let rows = query(SQL)
        .bind(tenant.as_str())
        .bind(id.as_uuid())
        .bind(sql_number(after))
        .bind(i64::from(limit))
        .fetch_all(db)
        .await
        .map_err(failed("reading events"))?;
    rows.iter().map(event).collect()
}

pub(crate) async fn exists(
    db: &mut Connection<'_>,
    tenant: &Tenant,
    id: EvaluationId,
) -> Result<Row, FindError> {
    query("SELECT state, attempts FROM evaluations WHERE tenant = $1 AND id = $2")
        .bind(tenant.as_str())
        .bind(id.as_uuid())
        .fetch_optional(db)
        .await
        .map_err(failed("finding an evaluation"))?
        .ok_or(FindError::NotFound)
}

/// A part of one stream, and the blob to read it from where it is in no rows any more.
pub(crate) async fn output(
    db: &mut Connection<'_>,
    tenant: &Tenant,
    id: EvaluationId,
    span: Span,
) -> Result<(OutputSlice, Option<Blob>), FindError> {
    let found = exists(db, tenant, id).await?;
    let (begun, state) = (small(&found, "attempts")?, state(&found)?);
    let attempt = span.attempt.unwrap_or(begun);
    let is_next = attempt == begun + 1 && (state == State::Queued || state.is_terminal());
    if is_next || (attempt == 0 && begun == 0) {
        // One that has not begun has written nothing, and never will once the evaluation has ended.
        let ended = state.is_terminal();
        return Ok((OutputSlice { attempt, bytes: Vec::new(), stored: 0, ended, cut: false }, None));
    }
    let span = Span { attempt: Some(attempt), ..span };
    let mut slice = measure(db, (tenant, id), span).await?.ok_or(FindError::NotFound)?;
    let moves = slice.ended && slice.stored > OUTPUT_IN_ROWS_MAX;
    if moves && let Some(blob) = blobs::of_stream(db, (tenant, id), attempt, span.stream).await? {
        return Ok((slice, Some(blob)));
    }
    slice.bytes = bytes(db, (tenant, id), span, slice.stored).await?;
    Ok((slice, None))
}

/// A part of a stream that is in rows; `None` where there is no such attempt.
pub(crate) async fn in_rows(
    db: &mut Connection<'_>,
    key: (&Tenant, EvaluationId),
    span: Span,
) -> Result<Option<OutputSlice>, StoreError> {
    let Some(mut slice) = measure(db, key, span).await? else { return Ok(None) };
    slice.bytes = bytes(db, key, span, slice.stored).await?;
    Ok(Some(slice))
}

/// How much of a stream is stored, without its bytes.
async fn measure(
    db: &mut Connection<'_>,
    (tenant, id): (&Tenant, EvaluationId),
    span: Span,
) -> Result<Option<OutputSlice>, StoreError> {
    let attempt = span.attempt.unwrap_or(0);
    let row = query(
        "SELECT stdout_bytes, stderr_bytes, build_bytes, output_cut, ended_at FROM attempts \
         WHERE tenant = $1 AND evaluation = $2 AND number = $3",
    )
    .bind(tenant.as_str())
    .bind(id.as_uuid())
    .bind(i64::from(attempt))
    .fetch_optional(db)
    .await
    .map_err(failed("reading output"))?;
    let Some(row) = row else { return Ok(None) };
    let stored = match span.stream {
        Stream::Stdout => number(&row, "stdout_bytes")?,
        Stream::Stderr => number(&row, "stderr_bytes")?,
        Stream::Build => number(&row, "build_bytes")?,
    };
    let ended = time(&row, "ended_at")?.is_some();
    let cut = get::<i64>(&row, "output_cut")? != 0;
    Ok(Some(OutputSlice { attempt, bytes: Vec::new(), stored, ended, cut }))
}

/// The pieces from the one that holds the first byte to the one that holds the last, and of them
/// no more than is wanted.
async fn bytes(
    db: &mut Connection<'_>,
    (tenant, id): (&Tenant, EvaluationId),
    span: Span,
    stored: u64,
) -> Result<Vec<u8>, StoreError> {
    const SQL: &str = "SELECT start_at, bytes FROM output \
         WHERE tenant = $1 AND evaluation = $2 AND attempt = $3 AND stream = $4 AND start_at < $6 \
         AND start_at >= COALESCE((SELECT MAX(start_at) FROM output WHERE tenant = $1 AND evaluation = $2 \
         AND attempt = $3 AND stream = $4 AND start_at <= $5), 0) ORDER BY start_at";
    let end = span.offset.saturating_add(span.max as u64).min(stored);
    let mut whole = Vec::new();
    if span.offset >= end {
        return Ok(whole);
    }
    let mut rows = query(SQL)
        .bind(tenant.as_str())
        .bind(id.as_uuid())
        .bind(i64::from(span.attempt.unwrap_or(0)))
        .bind(span.stream.as_str())
        .bind(sql_number(span.offset))
        .bind(sql_number(end))
        .fetch(db)
        .map_err(failed("reading output"))?;
    let mut at = span.offset;
    while let Some(row) = rows.try_next().await.map_err(failed("reading output"))? {
        let (start, piece) = (number(&row, "start_at")?, get::<&[u8]>(&row, "bytes")?);
        let within = |position: u64| usize::try_from(position.saturating_sub(start)).unwrap_or(usize::MAX);
        let wanted = piece.get(within(at)..within(end).min(piece.len()));
        let wanted = wanted.filter(|_| start <= at).unwrap_or_default();
        at += wanted.len() as u64;
        whole.extend_from_slice(wanted);
    }
    if at != end {
        return Err(corrupt(format!("output of {id} has a hole at {at}")));
    }
    Ok(whole)
}

/// Gathered first, or the engine would rather walk all evaluations by state than sort these.
const BATCH_COUNTS: &str = "WITH b AS MATERIALIZED \
     (SELECT state FROM evaluations WHERE tenant = $1 AND batch = $2 \
     UNION ALL SELECT state FROM archived WHERE tenant = $1 AND batch = $2) \
     SELECT state, COUNT(*) AS n FROM b GROUP BY state";

pub(crate) async fn batch(
    db: &mut Connection<'_>,
    tenant: &Tenant,
    id: BatchId,
) -> Result<BatchRecord, FindError> {
    let row = query("SELECT created_at FROM batches WHERE tenant = $1 AND id = $2")
        .bind(tenant.as_str())
        .bind(id.as_uuid())
        .fetch_optional(&mut *db)
        .await
        .map_err(failed("reading a batch"))?
        .ok_or(FindError::NotFound)?;
    let rows = query(BATCH_COUNTS)
        .bind(tenant.as_str())
        .bind(id.as_uuid())
        .fetch_all(db)
        .await
        .map_err(failed("reading a batch"))?;
    let counts = rows.iter().map(|row| Ok((state(row)?, number(row, "n")?)));
    let counts = counts.collect::<Result<_, StoreError>>()?;
    Ok(BatchRecord { id, created_at: moment(&row, "created_at")?, counts })
}

/// The tenant in words that both engines take for true of most rows: else they would rather sort the queue
/// than walk it by age.
pub(crate) const OLDEST: &str = "SELECT id, queued_at FROM evaluations WHERE COALESCE(state, '') = 'queued' \
     AND CASE WHEN tenant = $1 THEN 0 ELSE 1 END <> 1 \
     ORDER BY queued_at LIMIT 1";

pub(crate) async fn queue(db: &mut Connection<'_>, tenant: &Tenant) -> Result<QueueRecord, StoreError> {
    let rows = query(
        "SELECT state, priority, CAST(SUM(evaluations) AS BIGINT) AS evaluations FROM depth_shards \
         WHERE tenant = $1 GROUP BY state, priority HAVING SUM(evaluations) > 0 \
         ORDER BY state, priority DESC",
    )
    .bind(tenant.as_str())
    .fetch_all(&mut *db)
    .await
    .map_err(failed("reading the queue"))?;
    let depth = rows.iter().map(|row| Ok((state(row)?, priority(row)?, number(row, "evaluations")?)));
    let depth = depth.collect::<Result<Vec<(State, u8, u64)>, StoreError>>()?;
    if !depth.iter().any(|(state, ..)| *state == State::Queued) {
        return Ok(QueueRecord { depth, oldest: None });
    }
    let oldest =
        query(OLDEST).bind(tenant.as_str()).fetch_optional(db).await.map_err(failed("reading the queue"))?;
    let oldest = oldest.map(|row| -> Result<(EvaluationId, Timestamp), StoreError> {
        Ok((EvaluationId::from_uuid(get(&row, "id")?), moment(&row, "queued_at")?))
    });
    Ok(QueueRecord { depth, oldest: oldest.transpose()? })
}

pub(crate) async fn capacity(db: &mut Connection<'_>) -> Result<Option<CapacityRecord>, StoreError> {
    let row = query("SELECT version, noted_at, document FROM capacity WHERE slot = 0")
        .fetch_optional(db)
        .await
        .map_err(failed("reading the catalogue"))?;
    row.map(|row| {
        Ok(CapacityRecord {
            version: number(&row, "version")?,
            at: moment(&row, "noted_at")?,
            document: get(&row, "document")?,
        })
    })
    .transpose()
}

#[cfg(test)]
mod tests {
    //! White box: what the engine plans to do, however many evaluations there are.

    use super::*;
    use crate::testing::{memory, plan};

    #[tokio::test]
    async fn counts_and_the_oldest_are_read_from_their_own_index() {
        let mut db = memory().await;
        let batch = plan(&mut db, BATCH_COUNTS).await;
        assert!(batch.contains("SEARCH evaluations USING INDEX evaluations_batch"), "{batch}");
        let oldest = plan(&mut db, OLDEST).await;
        assert!(oldest.contains("USING INDEX evaluations_oldest"), "{oldest}");
        assert!(!oldest.contains("TEMP B-TREE"), "{oldest}");
    }
}
