//! What the database keeps of evaluations that are archived, and how they get there.

use std::ops::Range;

use hood_core::{EvaluationId, Tenant, Timestamp};
use uuid::Uuid;

use super::client::{forget_labels, forget_rows};
use crate::blobs::Blob;
use crate::db::{Connection, Row, query};
use crate::error::StoreError;
use crate::ops::blobs::{self, read_blob};
use crate::rows::{corrupt, get, number, sql_number};
use crate::writer::{Context, Operation, failed};

/// Where an evaluation is in an object of the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) tenant: Tenant,
    pub(crate) evaluation: EvaluationId,
    /// What it was when it was read: one that has changed since stays, and is read anew.
    pub(crate) seen: Seen,
    pub(crate) at: u64,
    pub(crate) bytes: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) last_event: u64,
    /// The last claim of each delivery. None of them was pending.
    pub(crate) deliveries: Vec<u64>,
}

type Key = (Tenant, EvaluationId);

fn key(row: &Row, id: &'static str) -> Result<Key, StoreError> {
    Ok((Tenant::new(get::<String>(row, "tenant")?), EvaluationId::from_uuid(get(row, id)?)))
}

/// Those in the tables that ended before a moment, the oldest first, less those whose output is still on
/// its way into a blob, and those that somebody is still to be told of.
pub(crate) async fn ended(
    db: &mut Connection<'_>,
    before: Timestamp,
    limit: u32,
) -> Result<Vec<Key>, StoreError> {
    const SQL: &str = "SELECT tenant, id AS evaluation FROM evaluations e WHERE finished_at < $1 AND NOT EXISTS \
         (SELECT 1 FROM blobs b WHERE b.tenant = e.tenant AND b.evaluation = e.id AND b.state = 'wanted') \
         AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.tenant = e.tenant AND d.evaluation = e.id \
         AND d.state = 'pending') \
         ORDER BY finished_at LIMIT $2";
    keys(db, SQL, (before, limit)).await
}

pub(crate) async fn archived_before(
    db: &mut Connection<'_>,
    before: Timestamp,
    limit: u32,
) -> Result<Vec<Key>, StoreError> {
    const SQL: &str =
        "SELECT tenant, evaluation FROM archived WHERE finished_at < $1 ORDER BY finished_at LIMIT $2";
    keys(db, SQL, (before, limit)).await
}

async fn keys(
    db: &mut Connection<'_>,
    sql: &'static str,
    (before, limit): (Timestamp, u32),
) -> Result<Vec<Key>, StoreError> {
    let rows = query(sql)
        .bind(before.as_micros())
        .bind(i64::from(limit))
        .fetch_all(db)
        .await
        .map_err(failed("looking for what ended long ago"))?;
    rows.iter().map(|row| key(row, "evaluation")).collect()
}

pub(crate) async fn find(
    db: &mut Connection<'_>,
    (tenant, id): (&Tenant, EvaluationId),
) -> Result<Option<(Blob, Range<u64>)>, StoreError> {
    const SQL: &str = "SELECT a.frame_at, a.frame_bytes, b.name, b.bytes, b.digest FROM archived a \
         JOIN blobs b ON b.name = a.blob WHERE a.tenant = $1 AND a.evaluation = $2";
    let row = query(SQL)
        .bind(tenant.as_str())
        .bind(id.as_uuid())
        .fetch_optional(db)
        .await
        .map_err(failed("looking into the archive"))?;
    let Some(row) = row else { return Ok(None) };
    let (at, bytes) = (number(&row, "frame_at")?, number(&row, "frame_bytes")?);
    Ok(Some((read_blob(&row)?, at..at + bytes)))
}

pub(crate) async fn is_archived(
    db: &mut Connection<'_>,
    (tenant, id): (&Tenant, EvaluationId),
) -> Result<bool, StoreError> {
    let row = query("SELECT state FROM archived WHERE tenant = $1 AND evaluation = $2")
        .bind(tenant.as_str())
        .bind(id.as_uuid())
        .fetch_optional(db)
        .await
        .map_err(failed("looking into the archive"))?;
    Ok(row.is_some())
}

/// Evaluations leave the tables for an object that is durable. Tells how many: those that somebody
/// deleted or changed meanwhile are not among them.
#[derive(Debug)]
pub(crate) struct Archive {
    pub(crate) blob: Blob,
    pub(crate) entries: Vec<Entry>,
    pub(crate) now: Timestamp,
}

impl Operation for Archive {
    type Output = u64;
    type Error = StoreError;

    async fn run(self, db: &mut Connection<'_>, _context: &mut Context<'_>) -> Result<u64, StoreError> {
        if !blobs::keep(db, &self.blob, self.now).await? {
            return Err(corrupt(format!("{} was given up before it was kept", self.blob.name)));
        }
        let mut left = 0;
        for entry in &self.entries {
            left += u64::from(self.leave(db, entry).await?);
        }
        Ok(left)
    }
}

impl Archive {
    /// All of one entry or nothing, behind a savepoint of its own: the others do not wait for it.
    async fn leave(&self, db: &mut Connection<'_>, entry: &Entry) -> Result<bool, StoreError> {
        db.command("SAVEPOINT entry").await.map_err(failed("archiving"))?;
        let left = self.try_to_leave(db, entry).await?;
        if !left {
            db.command("ROLLBACK TO SAVEPOINT entry").await.map_err(failed("archiving"))?;
        }
        db.command("RELEASE SAVEPOINT entry").await.map_err(failed("archiving"))?;
        Ok(left)
    }

    async fn try_to_leave(&self, db: &mut Connection<'_>, entry: &Entry) -> Result<bool, StoreError> {
        const LEAVE: &str = "DELETE FROM evaluations WHERE tenant = $1 AND id = $2 AND last_event = $3 \
             AND state IN ('succeeded', 'failed', 'cancelled') \
             RETURNING state, labels, batch, idempotency_key, position, finished_at";
        let key = (&entry.tenant, entry.evaluation);
        let row = query(LEAVE)
            .bind(entry.tenant.as_str())
            .bind(entry.evaluation.as_uuid())
            .bind(sql_number(entry.seen.last_event))
            .fetch_optional(&mut *db)
            .await
            .map_err(failed("archiving"))?;
        let Some(row) = row else { return Ok(false) };
        if !take_deliveries(db, entry).await? {
            return Ok(false);
        }
        self.note(db, entry, &row).await?;
        forget_rows(db, key).await?;
        forget_labels(db, key, &row).await?;
        Ok(true)
    }

    async fn note(&self, db: &mut Connection<'_>, entry: &Entry, row: &Row) -> Result<(), StoreError> {
        const SQL: &str = "INSERT INTO archived (tenant, evaluation, state, batch, idempotency_key, position, \
             finished_at, blob, frame_at, frame_bytes) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";
        query(SQL)
            .bind(entry.tenant.as_str())
            .bind(entry.evaluation.as_uuid())
            .bind(get::<String>(row, "state")?)
            .bind(get::<Option<Uuid>>(row, "batch")?)
            .bind(get::<Option<String>>(row, "idempotency_key")?)
            .bind(get::<i64>(row, "position")?)
            .bind(get::<i64>(row, "finished_at")?)
            .bind(&self.blob.name)
            .bind(sql_number(entry.at))
            .bind(sql_number(entry.bytes))
            .execute(db)
            .await
            .map_err(failed("archiving"))
            .map(drop)
    }
}

/// True where they are what was read: one that is told once more meanwhile has not been told yet.
async fn take_deliveries(db: &mut Connection<'_>, entry: &Entry) -> Result<bool, StoreError> {
    const SETTLED: &str = "DELETE FROM deliveries WHERE tenant = $1 AND evaluation = $2 AND state <> 'pending' \
         RETURNING token";
    const LEFT: &str = "SELECT event FROM deliveries WHERE tenant = $1 AND evaluation = $2 LIMIT 1";
    let of_entry = |sql| query(sql).bind(entry.tenant.as_str()).bind(entry.evaluation.as_uuid());
    let taken = of_entry(SETTLED).fetch_all(&mut *db).await.map_err(failed("archiving deliveries"))?;
    let mut tokens = taken.iter().map(|row| number(row, "token")).collect::<Result<Vec<_>, _>>()?;
    tokens.sort_unstable();
    let left = of_entry(LEFT).fetch_optional(db).await.map_err(failed("archiving deliveries"))?;
    Ok(left.is_none() && tokens == entry.seen.deliveries)
}

/// Forgets one that is archived; gives the columns that others hang on. `None` where it is not.
pub(super) async fn forget(
    db: &mut Connection<'_>,
    (tenant, id): (&Tenant, EvaluationId),
) -> Result<Option<Row>, StoreError> {
    const FORGET: &str = "DELETE FROM archived WHERE tenant = $1 AND evaluation = $2 \
         RETURNING blob, batch, idempotency_key";
    let row = query(FORGET)
        .bind(tenant.as_str())
        .bind(id.as_uuid())
        .fetch_optional(&mut *db)
        .await
        .map_err(failed("deleting from the archive"))?;
    if let Some(row) = &row {
        doom_if_empty(db, &get::<String>(row, "blob")?).await?;
    }
    Ok(row)
}

async fn doom_if_empty(db: &mut Connection<'_>, blob: &str) -> Result<(), StoreError> {
    const SQL: &str = "UPDATE blobs SET state = 'doomed' WHERE name = $1 \
         AND NOT EXISTS (SELECT 1 FROM archived WHERE blob = $1)";
    query(SQL).bind(blob).execute(db).await.map_err(failed("deleting from the archive")).map(drop)
}
