//! What a lease's holder writes: transitions, output, the attempt's facts and the result, all of it
//! in one transaction or none of it.

use hood_core::lifecycle::AnyEvaluation;
use hood_core::outcome::Stream;
use hood_core::{Event, EventKind, State, Timestamp, Transition};
use sqlx::SqliteConnection;
use sqlx::sqlite::SqliteRow;

use super::{move_depth, write_event};
use crate::error::{CommitError, StoreError};
use crate::model::{Chunk, Commit, Lease};
use crate::rows::{STREAMS, corrupt, evaluation, event, get, number, sql_number};
use crate::wake::Signal;
use crate::writer::{Context, Operation, failed};

/// The largest chunk of output in one row while the program runs; larger ones are split.
pub(crate) const CHUNK_BYTES_MAX: usize = 256 * 1024;

/// A finished attempt's output is in rows of this size or up to a chunk more: the engine reads a row
/// as a whole, however little of it is wanted.
pub(crate) const PIECE_BYTES: usize = 1024 * 1024;

/// Chunks read at a time while they are made into pieces.
const COMPACTED_ROWS: i64 = 16;

#[derive(Debug)]
pub(crate) struct Write {
    pub(crate) lease: Lease,
    pub(crate) commit: Commit,
    /// Bytes beyond which output is cut, so that results always find room.
    pub(crate) storage_bytes: u64,
}

impl Operation for Write {
    type Output = ();
    type Error = CommitError;

    async fn run(self, db: &mut SqliteConnection, context: &mut Context) -> Result<(), CommitError> {
        self.write(db, context).await
    }
}

/// What of the row the steps below rely on.
struct Row {
    evaluation: AnyEvaluation,
    priority: u8,
}

impl Row {
    /// Whether an attempt is under way: otherwise the lease's holder has nothing more to say.
    const fn is_held(&self) -> bool {
        matches!(self.evaluation, AnyEvaluation::Provisioning(_) | AnyEvaluation::Running(_))
    }

    const fn last_event(&self) -> u64 {
        self.evaluation.history().last_event
    }
}

impl Write {
    async fn write(self, db: &mut SqliteConnection, context: &mut Context) -> Result<(), CommitError> {
        let id = self.lease.evaluation;
        let Some(mut row) = self.row(db).await? else { return Err(CommitError::StaleLease) };
        if let Some(first) = self.commit.transitions.first()
            && first.event().number <= row.last_event()
        {
            return self.check_repeated(db, first, &row).await;
        }
        if !row.is_held() {
            return Err(CommitError::StaleLease);
        }
        let ends = self.commit.transitions.iter().any(|transition| transition.to().is_terminal());
        if ends != self.commit.result.is_some() {
            return Err(CommitError::Unpaired { evaluation: id });
        }
        self.output(db, context).await?;
        self.attempt(db).await?;
        for transition in &self.commit.transitions {
            self.transition(db, &mut row, transition, context).await?;
        }
        if let Some(result) = &self.commit.result {
            sqlx::query("INSERT INTO results (tenant, evaluation, document) VALUES ($1, $2, $3)")
                .bind(self.lease.tenant.as_str())
                .bind(id.as_uuid())
                .bind(result)
                .execute(&mut *db)
                .await
                .map_err(failed("writing a result"))?;
        }
        context.signals.insert(Signal::Changed(id));
        Ok(())
    }

    /// The row, if this lease holds it: the guard of every write here.
    async fn row(&self, db: &mut SqliteConnection) -> Result<Option<Row>, StoreError> {
        let row = sqlx::query(
            "SELECT state, verdict, priority, not_before, last_event, attempts, losses_infrastructure, \
             losses_own_death, losses_suspect FROM evaluations \
             WHERE tenant = $1 AND id = $2 AND lease_token = $3 AND attempts = $4",
        )
        .bind(self.lease.tenant.as_str())
        .bind(self.lease.evaluation.as_uuid())
        .bind(sql_number(self.lease.token))
        .bind(i64::from(self.lease.attempt))
        .fetch_optional(db)
        .await
        .map_err(failed("checking a lease"))?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some(Row {
            evaluation: evaluation(&row)?,
            priority: u8::try_from(number(&row, "priority")?).map_err(|_| corrupt("priority"))?,
        }))
    }

    /// Said again by a holder that did not hear the answer: it stands as it was written, if it is
    /// word for word what was written.
    async fn check_repeated(
        &self,
        db: &mut SqliteConnection,
        first: &Transition,
        row: &Row,
    ) -> Result<(), CommitError> {
        let transitions = &self.commit.transitions;
        let rows = sqlx::query(
            "SELECT number, kind, occurred_at, attempt, not_before, verdict FROM events \
             WHERE tenant = $1 AND evaluation = $2 AND number >= $3 ORDER BY number LIMIT $4",
        )
        .bind(self.lease.tenant.as_str())
        .bind(self.lease.evaluation.as_uuid())
        .bind(sql_number(first.event().number))
        .bind(sql_number(transitions.len() as u64))
        .fetch_all(db)
        .await
        .map_err(failed("reading events"))?;
        let written = rows.iter().map(event).collect::<Result<Vec<Event>, StoreError>>()?;
        if written.iter().eq(transitions.iter().map(Transition::event)) {
            return Ok(());
        }
        Err(self.out_of_order(first, row))
    }

    fn out_of_order(&self, transition: &Transition, row: &Row) -> CommitError {
        CommitError::OutOfOrder {
            evaluation: self.lease.evaluation,
            number: transition.event().number,
            last_event: row.last_event(),
        }
    }

    async fn transition(
        &self,
        db: &mut SqliteConnection,
        row: &mut Row,
        transition: &Transition,
        context: &mut Context,
    ) -> Result<(), CommitError> {
        let (event, after, to) = (transition.event(), transition.after(), transition.to());
        let (from, last_event) = (row.evaluation.state(), row.last_event());
        if !row.is_held() || row.evaluation.apply(event).is_err() {
            return Err(self.out_of_order(transition, row));
        }
        let (started, verdict, not_before) = match event.kind {
            EventKind::Started { .. } => (Some(event.at), None, None),
            EventKind::Finished { verdict } => (None, Some(verdict), None),
            EventKind::RetryScheduled { not_before, .. } => (None, None, Some(not_before)),
            // Neither follows from an attempt under way.
            EventKind::Submitted | EventKind::AttemptStarted { .. } => {
                return Err(self.out_of_order(transition, row));
            }
        };
        let leaves = to.is_terminal() || to == State::Queued;
        let changed = sqlx::query(
            "UPDATE evaluations SET state = $5, verdict = $6, last_event = $7, losses_infrastructure = $8, \
             losses_own_death = $9, losses_suspect = $10, started_at = COALESCE($11, started_at), \
             finished_at = $12, not_before = $13, ready = CASE WHEN $13 IS NULL THEN 1 ELSE 0 END, \
             queued_at = CASE WHEN $5 = 'queued' THEN $14 ELSE queued_at END, \
             lease_expires_at = CASE WHEN $15 = 1 THEN NULL ELSE lease_expires_at END, \
             worker = CASE WHEN $15 = 1 THEN NULL ELSE worker END \
             WHERE tenant = $1 AND id = $2 AND lease_token = $3 AND last_event = $4",
        )
        .bind(self.lease.tenant.as_str())
        .bind(self.lease.evaluation.as_uuid())
        .bind(sql_number(self.lease.token))
        .bind(sql_number(last_event))
        .bind(to.as_str())
        .bind(verdict.map(|verdict| verdict.as_str()))
        .bind(sql_number(event.number))
        .bind(i64::from(after.losses.infrastructure))
        .bind(i64::from(after.losses.own_death))
        .bind(i64::from(after.losses.suspect))
        .bind(started.map(Timestamp::as_micros))
        .bind(to.is_terminal().then_some(event.at.as_micros()))
        .bind(not_before.map(Timestamp::as_micros))
        .bind(event.at.as_micros())
        .bind(i64::from(leaves))
        .execute(&mut *db)
        .await
        .map_err(failed("writing a transition"))?;
        if changed.rows_affected() != 1 {
            return Err(CommitError::StaleLease);
        }
        write_event(db, &self.lease.tenant, self.lease.evaluation, transition).await?;
        move_depth(db, &self.lease.tenant, row.priority, Some(from), to).await?;
        self.mark_attempt(db, started, leaves.then_some(event.at)).await?;
        if leaves {
            compact(db, &self.lease).await?;
        }
        if to == State::Queued {
            context.signals.insert(Signal::Work);
        }
        Ok(())
    }

    async fn mark_attempt(
        &self,
        db: &mut SqliteConnection,
        started: Option<Timestamp>,
        ended: Option<Timestamp>,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE attempts SET started_at = COALESCE($4, started_at), ended_at = COALESCE($5, ended_at) \
             WHERE tenant = $1 AND evaluation = $2 AND number = $3",
        )
        .bind(self.lease.tenant.as_str())
        .bind(self.lease.evaluation.as_uuid())
        .bind(i64::from(self.lease.attempt))
        .bind(started.map(Timestamp::as_micros))
        .bind(ended.map(Timestamp::as_micros))
        .execute(db)
        .await
        .map_err(failed("writing an attempt"))?;
        Ok(())
    }

    async fn attempt(&self, db: &mut SqliteConnection) -> Result<(), StoreError> {
        let commit = &self.commit;
        if commit.decision.is_some() || commit.lost.is_some() {
            sqlx::query(
                "UPDATE attempts SET decision = COALESCE($4, decision), lost = COALESCE($5, lost) \
                 WHERE tenant = $1 AND evaluation = $2 AND number = $3",
            )
            .bind(self.lease.tenant.as_str())
            .bind(self.lease.evaluation.as_uuid())
            .bind(i64::from(self.lease.attempt))
            .bind(&commit.decision)
            .bind(&commit.lost)
            .execute(&mut *db)
            .await
            .map_err(failed("writing an attempt"))?;
        }
        if let Some(digest) = &commit.environment_digest {
            sqlx::query("UPDATE evaluations SET environment_digest = $3 WHERE tenant = $1 AND id = $2")
                .bind(self.lease.tenant.as_str())
                .bind(self.lease.evaluation.as_uuid())
                .bind(digest)
                .execute(db)
                .await
                .map_err(failed("writing an environment"))?;
        }
        Ok(())
    }

    async fn output(&self, db: &mut SqliteConnection, context: &mut Context) -> Result<(), CommitError> {
        for stream in STREAMS {
            let chunks: Vec<&Chunk> =
                self.commit.output.iter().filter(|chunk| chunk.stream == stream).collect();
            if !chunks.is_empty() {
                self.append(db, context, stream, &chunks).await?;
            }
        }
        Ok(())
    }

    /// Appends what is new of the chunks: bytes that are stored already are left as they are, and a
    /// gap is refused.
    async fn append(
        &self,
        db: &mut SqliteConnection,
        context: &mut Context,
        stream: Stream,
        chunks: &[&Chunk],
    ) -> Result<(), CommitError> {
        let (mut stored, mut cut) = stored(db, &self.lease, stream).await?;
        for chunk in chunks {
            if chunk.offset > stored && !cut {
                let (evaluation, offset) = (self.lease.evaluation, chunk.offset);
                return Err(CommitError::OutputGap { evaluation, stream, offset, stored });
            }
            let known = usize::try_from(stored.saturating_sub(chunk.offset)).unwrap_or(usize::MAX);
            let fresh = chunk.bytes.get(known..).unwrap_or_default();
            let room =
                usize::try_from(self.storage_bytes.saturating_sub(context.used_bytes)).unwrap_or(usize::MAX);
            cut = cut || fresh.len() > room;
            if cut {
                continue;
            }
            for piece in fresh.chunks(CHUNK_BYTES_MAX) {
                insert_output(db, &self.lease, stream, stored, piece).await?;
                stored += piece.len() as u64;
            }
            context.used_bytes += fresh.len() as u64;
        }
        let set = match stream {
            Stream::Stdout => "stdout_bytes",
            Stream::Stderr => "stderr_bytes",
        };
        let query = format!(
            "UPDATE attempts SET {set} = $4, output_cut = CASE WHEN $5 = 1 THEN 1 ELSE output_cut END \
             WHERE tenant = $1 AND evaluation = $2 AND number = $3"
        );
        sqlx::query(sqlx::AssertSqlSafe(query))
            .bind(self.lease.tenant.as_str())
            .bind(self.lease.evaluation.as_uuid())
            .bind(i64::from(self.lease.attempt))
            .bind(sql_number(stored))
            .bind(i64::from(cut))
            .execute(db)
            .await
            .map_err(failed("writing output"))?;
        Ok(())
    }
}

async fn stored(db: &mut SqliteConnection, lease: &Lease, stream: Stream) -> Result<(u64, bool), StoreError> {
    let row = sqlx::query(
        "SELECT stdout_bytes, stderr_bytes, output_cut FROM attempts \
         WHERE tenant = $1 AND evaluation = $2 AND number = $3",
    )
    .bind(lease.tenant.as_str())
    .bind(lease.evaluation.as_uuid())
    .bind(i64::from(lease.attempt))
    .fetch_one(db)
    .await
    .map_err(failed("measuring output"))?;
    let column = match stream {
        Stream::Stdout => "stdout_bytes",
        Stream::Stderr => "stderr_bytes",
    };
    Ok((number(&row, column)?, get::<i64>(&row, "output_cut")? != 0))
}

async fn insert_output(
    db: &mut SqliteConnection,
    lease: &Lease,
    stream: Stream,
    at: u64,
    bytes: &[u8],
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO output (tenant, evaluation, attempt, stream, start_at, bytes) VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(lease.tenant.as_str())
    .bind(lease.evaluation.as_uuid())
    .bind(i64::from(lease.attempt))
    .bind(stream.as_str())
    .bind(sql_number(at))
    .bind(bytes)
    .execute(db)
    .await
    .map_err(failed("writing output"))?;
    Ok(())
}

/// Makes few large pieces of many small chunks, once no more will come.
async fn compact(db: &mut SqliteConnection, lease: &Lease) -> Result<(), StoreError> {
    for stream in STREAMS {
        let (mut start, mut piece, mut chunks) = (0, Vec::new(), 0_usize);
        loop {
            let rows = read_output(db, lease, stream, start + piece.len() as u64).await?;
            for row in &rows {
                piece.extend_from_slice(get::<&[u8]>(row, "bytes")?);
                chunks += 1;
                if piece.len() >= PIECE_BYTES {
                    start = replace_output(db, lease, stream, (start, &piece, chunks)).await?;
                    (piece, chunks) = (Vec::new(), 0);
                }
            }
            if rows.len() < COMPACTED_ROWS as usize {
                break;
            }
        }
        replace_output(db, lease, stream, (start, &piece, chunks)).await?;
    }
    Ok(())
}

async fn read_output(
    db: &mut SqliteConnection,
    lease: &Lease,
    stream: Stream,
    from: u64,
) -> Result<Vec<SqliteRow>, StoreError> {
    sqlx::query(
        "SELECT bytes FROM output WHERE tenant = $1 AND evaluation = $2 AND attempt = $3 AND stream = $4 \
         AND start_at >= $5 ORDER BY start_at LIMIT $6",
    )
    .bind(lease.tenant.as_str())
    .bind(lease.evaluation.as_uuid())
    .bind(i64::from(lease.attempt))
    .bind(stream.as_str())
    .bind(sql_number(from))
    .bind(COMPACTED_ROWS)
    .fetch_all(db)
    .await
    .map_err(failed("compacting output"))
}

/// One row for the `chunks` that hold `piece`, which begins at `start`. Gives where the next begins.
async fn replace_output(
    db: &mut SqliteConnection,
    lease: &Lease,
    stream: Stream,
    (start, piece, chunks): (u64, &[u8], usize),
) -> Result<u64, StoreError> {
    let end = start + piece.len() as u64;
    if chunks < 2 {
        return Ok(end);
    }
    sqlx::query(
        "DELETE FROM output WHERE tenant = $1 AND evaluation = $2 AND attempt = $3 AND stream = $4 \
         AND start_at >= $5 AND start_at < $6",
    )
    .bind(lease.tenant.as_str())
    .bind(lease.evaluation.as_uuid())
    .bind(i64::from(lease.attempt))
    .bind(stream.as_str())
    .bind(sql_number(start))
    .bind(sql_number(end))
    .execute(&mut *db)
    .await
    .map_err(failed("compacting output"))?;
    insert_output(db, lease, stream, start, piece).await?;
    Ok(end)
}
