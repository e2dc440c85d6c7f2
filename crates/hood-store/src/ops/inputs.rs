//! Requests that are too large for a row. Each is an object of its evaluation: noted before its first
//! byte is written, and referred to in the transaction that accepts the evaluation.

use hood_core::{EvaluationId, Tenant, Timestamp};

use super::blobs::read_blob;
use crate::blobs::Blob;
use crate::db::{Connection, Rows, query, row};
use crate::error::StoreError;
use crate::rows::{corrupt, sql_number};
use crate::writer::{Context, Operation, Turn, failed};

/// Never used again, as the evaluation's id is not.
pub(crate) fn name(evaluation: EvaluationId) -> String {
    let hex = evaluation.as_uuid().simple().to_string();
    // The last digits are random: they spread files over directories.
    format!("inputs/{}/{hex}", &hex[30..])
}

/// Notes blobs of one submission before they are written. What is to be in them is known already.
#[derive(Debug)]
pub(crate) struct NoteInputs {
    pub(crate) tenant: Tenant,
    pub(crate) now: Timestamp,
    pub(crate) inputs: Vec<(EvaluationId, Blob)>,
}

impl Operation for NoteInputs {
    type Output = ();
    type Error = StoreError;

    fn turn(&self) -> Turn {
        // New rows, which nobody else knows of.
        Turn::Accept { key: None, evaluations: 0 }
    }

    async fn run(self, db: &mut Connection<'_>, _context: &mut Context<'_>) -> Result<(), StoreError> {
        let mut rows = Rows::of(
            "INSERT INTO blobs (name, tenant, evaluation, part, state, noted_at, bytes, digest) VALUES",
            "",
        );
        let (tenant, now) = (self.tenant.as_str(), self.now.as_micros());
        for (evaluation, Blob { name, bytes, digest }) in &self.inputs {
            let (id, bytes, digest) = (evaluation.as_uuid(), sql_number(*bytes), digest.as_stored());
            rows.push(row![name, tenant, id, "input", "writing", now, bytes, digest]);
        }
        rows.execute(db).await.map_err(failed("noting blobs")).map(drop)
    }
}

/// The state in words that no index has: by its key each row is found at once, and by its state together
/// with all that others are writing.
pub(super) const KEEP: (&str, &str) = (
    "WITH v (name) AS (VALUES",
    ") UPDATE blobs SET state = 'kept' FROM v WHERE blobs.name = v.name \
     AND COALESCE(blobs.state, '') = 'writing'",
);

/// Blobs that were noted, and are durable now, are referred to from here on: all of them.
pub(super) async fn keep(db: &mut Connection<'_>, names: &[&String]) -> Result<(), StoreError> {
    let mut rows = Rows::of(KEEP.0, KEEP.1);
    for name in names {
        rows.push(row![*name]);
    }
    let kept = rows.execute(db).await.map_err(failed("keeping blobs"))?;
    if kept != names.len() as u64 {
        return Err(corrupt("a request's blob was given up before it was kept"));
    }
    Ok(())
}

/// Nobody came to refer to these, or somebody did who was not heard of: then they stay.
#[derive(Debug)]
pub(crate) struct GiveUpInputs {
    pub(crate) names: Vec<String>,
}

impl Operation for GiveUpInputs {
    type Output = ();
    type Error = StoreError;

    async fn run(self, db: &mut Connection<'_>, _context: &mut Context<'_>) -> Result<(), StoreError> {
        for name in &self.names {
            query("UPDATE blobs SET state = 'doomed' WHERE name = $1 AND state = 'writing'")
                .bind(name)
                .execute(&mut *db)
                .await
                .map_err(failed("giving blobs up"))?;
        }
        Ok(())
    }
}

pub(crate) async fn find(db: &mut Connection<'_>, name: &str) -> Result<Option<Blob>, StoreError> {
    const SQL: &str = "SELECT name, bytes, digest FROM blobs WHERE name = $1 AND state = 'kept'";
    let row =
        query(SQL).bind(name).fetch_optional(db).await.map_err(failed("looking for a request's blob"))?;
    row.as_ref().map(read_blob).transpose()
}

/// The blob of an evaluation that may be given another life.
pub(crate) async fn of_dead(
    db: &mut Connection<'_>,
    (tenant, id): (&Tenant, EvaluationId),
) -> Result<Option<Blob>, StoreError> {
    const SQL: &str = "SELECT b.name, b.bytes, b.digest FROM evaluations e \
         JOIN requests r ON r.tenant = e.tenant AND r.evaluation = e.id \
         JOIN blobs b ON b.name = r.blob AND b.state = 'kept' \
         WHERE e.tenant = $1 AND e.id = $2 AND e.verdict = 'infrastructure_error' \
         AND NOT EXISTS (SELECT 1 FROM requeues q WHERE q.tenant = e.tenant AND q.evaluation = e.id)";
    let row = query(SQL)
        .bind(tenant.as_str())
        .bind(id.as_uuid())
        .fetch_optional(db)
        .await
        .map_err(failed("looking for a request's blob"))?;
    row.as_ref().map(read_blob).transpose()
}
