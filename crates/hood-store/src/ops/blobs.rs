//! What the database knows of blobs: which are to be written, which are referred to, and which nobody
//! refers to any more.

use hood_core::outcome::Stream;
use hood_core::{EvaluationId, Tenant, Timestamp};

use crate::blobs::{Blob, Digest};
use crate::db::{Connection, Row, query};
use crate::error::StoreError;
use crate::model::Lease;
use crate::rows::{corrupt, get, number, small, sql_number};
use crate::writer::{Context, Operation, failed};

/// Output that is to leave the rows.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) name: String,
    pub(crate) tenant: Tenant,
    pub(crate) evaluation: EvaluationId,
    pub(crate) attempt: u32,
    pub(crate) stream: Stream,
}

/// The name of a stream's blob. It is the same for everybody who writes it, and so are the bytes: the
/// attempt has ended.
fn name(evaluation: EvaluationId, attempt: u32, stream: Stream) -> String {
    let hex = evaluation.as_uuid().simple().to_string();
    // The last digits are random: they spread files over directories.
    format!("outputs/{}/{hex}/{attempt}-{}", &hex[30..], stream.as_str())
}

/// Asks that a stream of an attempt that has ended leave the rows.
pub(crate) async fn want(
    db: &mut Connection<'_>,
    lease: &Lease,
    stream: Stream,
    now: Timestamp,
) -> Result<(), StoreError> {
    const SQL: &str = "INSERT INTO blobs (name, tenant, evaluation, attempt, part, state, noted_at, bytes, digest) \
         VALUES ($1, $2, $3, $4, $5, 'wanted', $6, 0, $7)";
    query(SQL)
        .bind(name(lease.evaluation, lease.attempt, stream))
        .bind(lease.tenant.as_str())
        .bind(lease.evaluation.as_uuid())
        .bind(i64::from(lease.attempt))
        .bind(stream.as_str())
        .bind(now.as_micros())
        .bind(Vec::new())
        .execute(db)
        .await
        .map_err(failed("asking for a blob"))
        .map(drop)
}

/// The oldest first.
pub(crate) async fn wanted(db: &mut Connection<'_>, limit: u32) -> Result<Vec<Wanted>, StoreError> {
    const SQL: &str = "SELECT name, tenant, evaluation, attempt, part FROM blobs WHERE state = 'wanted' \
         ORDER BY noted_at LIMIT $1";
    let rows = query(SQL)
        .bind(i64::from(limit))
        .fetch_all(db)
        .await
        .map_err(failed("looking for output to move"))?;
    rows.iter().map(read_wanted).collect()
}

fn read_wanted(row: &Row) -> Result<Wanted, StoreError> {
    let part: String = get(row, "part")?;
    let stream = Stream::ALL.into_iter().find(|stream| stream.as_str() == part);
    Ok(Wanted {
        name: get(row, "name")?,
        tenant: Tenant::new(get::<String>(row, "tenant")?),
        evaluation: EvaluationId::from_uuid(get(row, "evaluation")?),
        attempt: small(row, "attempt")?,
        stream: stream.ok_or_else(|| corrupt(format!("there is no stream {part}")))?,
    })
}

/// The blob that holds a stream, if it has left the rows.
pub(crate) async fn of_stream(
    db: &mut Connection<'_>,
    (tenant, id): (&Tenant, EvaluationId),
    attempt: u32,
    stream: Stream,
) -> Result<Option<Blob>, StoreError> {
    const SQL: &str = "SELECT name, bytes, digest FROM blobs \
         WHERE tenant = $1 AND evaluation = $2 AND attempt = $3 AND part = $4 AND state = 'kept'";
    let row = query(SQL)
        .bind(tenant.as_str())
        .bind(id.as_uuid())
        .bind(i64::from(attempt))
        .bind(stream.as_str())
        .fetch_optional(db)
        .await
        .map_err(failed("looking for a blob"))?;
    row.as_ref().map(read_blob).transpose()
}

pub(crate) fn read_blob(row: &Row) -> Result<Blob, StoreError> {
    Ok(Blob {
        name: get(row, "name")?,
        bytes: number(row, "bytes")?,
        digest: Digest::from_stored(get(row, "digest")?),
    })
}

/// Nobody refers to an evaluation's blobs any more.
pub(crate) async fn doom(
    db: &mut Connection<'_>,
    (tenant, id): (&Tenant, EvaluationId),
) -> Result<(), StoreError> {
    query("UPDATE blobs SET state = 'doomed' WHERE tenant = $1 AND evaluation = $2")
        .bind(tenant.as_str())
        .bind(id.as_uuid())
        .execute(db)
        .await
        .map_err(failed("giving blobs up"))
        .map(drop)
}

/// Blobs that nobody refers to, a few at a time.
pub(crate) async fn doomed(db: &mut Connection<'_>, limit: u32) -> Result<Vec<String>, StoreError> {
    let rows = query("SELECT name FROM blobs WHERE state = 'doomed' ORDER BY noted_at LIMIT $1")
        .bind(i64::from(limit))
        .fetch_all(db)
        .await
        .map_err(failed("looking for blobs to delete"))?;
    rows.iter().map(|row| get(row, "name")).collect()
}

pub(crate) async fn is_known(db: &mut Connection<'_>, name: &str) -> Result<bool, StoreError> {
    let row = query("SELECT name FROM blobs WHERE name = $1")
        .bind(name)
        .fetch_optional(db)
        .await
        .map_err(failed("looking for a blob"))?;
    Ok(row.is_some())
}

/// A blob that was noted, and is durable now, is referred to from here on. False where it was given up
/// meanwhile.
pub(super) async fn keep(db: &mut Connection<'_>, blob: &Blob, now: Timestamp) -> Result<bool, StoreError> {
    const SQL: &str = "UPDATE blobs SET state = 'kept', noted_at = $2, bytes = $3, digest = $4 \
         WHERE name = $1 AND state IN ('writing', 'kept')";
    let kept = query(SQL)
        .bind(&blob.name)
        .bind(now.as_micros())
        .bind(sql_number(blob.bytes))
        .bind(blob.digest.as_stored())
        .execute(db)
        .await
        .map_err(failed("keeping a blob"))?;
    Ok(kept == 1)
}

/// Notes an archive's blob before its first byte is written.
#[derive(Debug)]
pub(crate) struct NoteArchive {
    pub(crate) name: String,
    pub(crate) now: Timestamp,
}

impl Operation for NoteArchive {
    type Output = ();
    type Error = StoreError;

    async fn run(self, db: &mut Connection<'_>, _context: &mut Context<'_>) -> Result<(), StoreError> {
        const SQL: &str = "INSERT INTO blobs (name, tenant, part, state, noted_at, bytes, digest) \
             VALUES ($1, '', 'archive', 'writing', $2, 0, $3)";
        query(SQL)
            .bind(self.name)
            .bind(self.now.as_micros())
            .bind(Vec::new())
            .execute(db)
            .await
            .map_err(failed("noting a blob"))
            .map(drop)
    }
}

/// Nobody refers to a blob, or will.
#[derive(Debug)]
pub(crate) struct GiveUp {
    pub(crate) name: String,
}

impl Operation for GiveUp {
    type Output = ();
    type Error = StoreError;

    async fn run(self, db: &mut Connection<'_>, _context: &mut Context<'_>) -> Result<(), StoreError> {
        query("UPDATE blobs SET state = 'doomed' WHERE name = $1")
            .bind(self.name)
            .execute(db)
            .await
            .map_err(failed("giving a blob up"))
            .map(drop)
    }
}

/// What became of a stream that was written to a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moved {
    /// The rows are gone, and the blob is referred to.
    Now,
    /// Somebody else did the same before.
    Before,
    /// The evaluation was deleted meanwhile: nobody will ever ask for it.
    NeedlessNow,
}

/// The blob takes the rows' place. It is durable already.
#[derive(Debug)]
pub(crate) struct Move {
    pub(crate) wanted: Wanted,
    pub(crate) blob: Blob,
    pub(crate) now: Timestamp,
}

impl Operation for Move {
    type Output = Moved;
    type Error = StoreError;

    async fn run(self, db: &mut Connection<'_>, _context: &mut Context<'_>) -> Result<Moved, StoreError> {
        const KEEP: &str = "UPDATE blobs SET state = 'kept', noted_at = $2, bytes = $3, digest = $4 \
             WHERE name = $1 AND state = 'wanted'";
        const FREE: &str =
            "DELETE FROM output WHERE tenant = $1 AND evaluation = $2 AND attempt = $3 AND stream = $4";
        let Self { wanted, blob, now } = self;
        let kept = query(KEEP)
            .bind(&blob.name)
            .bind(now.as_micros())
            .bind(sql_number(blob.bytes))
            .bind(blob.digest.as_stored())
            .execute(&mut *db)
            .await
            .map_err(failed("keeping a blob"))?;
        if kept != 1 {
            let known = query("SELECT name FROM blobs WHERE name = $1 AND state = 'kept'");
            let known = known.bind(&blob.name).fetch_optional(db).await;
            let known = known.map_err(failed("looking for a blob"))?;
            return Ok(if known.is_some() { Moved::Before } else { Moved::NeedlessNow });
        }
        query(FREE)
            .bind(wanted.tenant.as_str())
            .bind(wanted.evaluation.as_uuid())
            .bind(i64::from(wanted.attempt))
            .bind(wanted.stream.as_str())
            .execute(db)
            .await
            .map_err(failed("moving output"))?;
        Ok(Moved::Now)
    }
}

/// Gives up on blobs that somebody began to write and never referred to, and on archives that everything
/// was deleted from.
#[derive(Debug)]
pub(crate) struct GiveUpWriting {
    pub(crate) older_than: Timestamp,
}

impl Operation for GiveUpWriting {
    type Output = ();
    type Error = StoreError;

    async fn run(self, db: &mut Connection<'_>, _context: &mut Context<'_>) -> Result<(), StoreError> {
        const WRITING: &str = "UPDATE blobs SET state = 'doomed' WHERE state = 'writing' AND noted_at < $1";
        const EMPTY: &str = "UPDATE blobs SET state = 'doomed' WHERE part = 'archive' AND state = 'kept' \
             AND NOT EXISTS (SELECT 1 FROM archived a WHERE a.blob = blobs.name)";
        query(WRITING)
            .bind(self.older_than.as_micros())
            .execute(&mut *db)
            .await
            .map_err(failed("giving blobs up"))?;
        query(EMPTY).execute(db).await.map_err(failed("giving blobs up")).map(drop)
    }
}

/// Forgets blobs that are deleted.
#[derive(Debug)]
pub(crate) struct ForgetBlobs {
    pub(crate) names: Vec<String>,
}

impl Operation for ForgetBlobs {
    type Output = ();
    type Error = StoreError;

    async fn run(self, db: &mut Connection<'_>, _context: &mut Context<'_>) -> Result<(), StoreError> {
        for name in &self.names {
            query("DELETE FROM blobs WHERE name = $1 AND state = 'doomed'")
                .bind(name)
                .execute(&mut *db)
                .await
                .map_err(failed("forgetting a blob"))?;
        }
        Ok(())
    }
}

/// Takes a turn at work that one process at a time does, or keeps it.
#[derive(Debug)]
pub(crate) struct TakeTurn {
    pub(crate) name: &'static str,
    pub(crate) holder: String,
    pub(crate) now: Timestamp,
    pub(crate) ends_at: Timestamp,
}

impl Operation for TakeTurn {
    type Output = bool;
    type Error = StoreError;

    async fn run(self, db: &mut Connection<'_>, _context: &mut Context<'_>) -> Result<bool, StoreError> {
        const SQL: &str = "INSERT INTO turns (name, holder, ends_at) VALUES ($1, $2, $3) \
             ON CONFLICT (name) DO UPDATE SET holder = $2, ends_at = $3 \
             WHERE turns.holder = $2 OR turns.ends_at <= $4";
        let taken = query(SQL)
            .bind(self.name)
            .bind(self.holder)
            .bind(self.ends_at.as_micros())
            .bind(self.now.as_micros())
            .execute(db)
            .await
            .map_err(failed("taking a turn"))?;
        Ok(taken == 1)
    }
}
