//! What an evaluation's end was told to whom, and what came of it.

use hood_core::{EvaluationId, Tenant, Timestamp};
use serde::{Deserialize, Serialize};

use super::line::unreadable;
use crate::db::{Connection, Row, query};
use crate::error::StoreError;
use crate::model::{DeliveryId, DeliveryRecord, DeliveryState};
use crate::rows::{get, number, small};
use crate::writer::failed;

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct DeliveryLine {
    event: u64,
    url: String,
    state: String,
    tries: u32,
    created_at: i64,
    settled_at: Option<i64>,
    last_status: Option<u16>,
    last_reason: Option<String>,
}

/// Each with its last claim, in the order of the claims.
pub(super) async fn read(
    db: &mut Connection<'_>,
    (tenant, id): (&Tenant, EvaluationId),
) -> Result<(Vec<DeliveryLine>, Vec<u64>), StoreError> {
    const SQL: &str = "SELECT event, url, state, token, tries, created_at, settled_at, last_status, last_reason \
         FROM deliveries WHERE tenant = $1 AND evaluation = $2 ORDER BY token, event";
    let rows = query(SQL)
        .bind(tenant.as_str())
        .bind(id.as_uuid())
        .fetch_all(db)
        .await
        .map_err(failed("reading deliveries"))?;
    let lines = rows.iter().map(line).collect::<Result<_, _>>()?;
    Ok((lines, rows.iter().map(|row| number(row, "token")).collect::<Result<_, _>>()?))
}

fn line(row: &Row) -> Result<DeliveryLine, StoreError> {
    let status = get::<Option<i64>>(row, "last_status")?;
    Ok(DeliveryLine {
        event: number(row, "event")?,
        url: get(row, "url")?,
        state: get(row, "state")?,
        tries: small(row, "tries")?,
        created_at: get(row, "created_at")?,
        settled_at: get(row, "settled_at")?,
        last_status: status.and_then(|status| u16::try_from(status).ok()),
        last_reason: get(row, "last_reason")?,
    })
}

impl DeliveryLine {
    pub(super) fn record(
        self,
        (tenant, evaluation): (&Tenant, EvaluationId),
    ) -> Result<DeliveryRecord, StoreError> {
        Ok(DeliveryRecord {
            id: DeliveryId { tenant: tenant.clone(), evaluation, event: self.event },
            state: DeliveryState::parse(&self.state).ok_or_else(|| unreadable(&self.state))?,
            url: self.url,
            tries: self.tries,
            created_at: Timestamp::from_micros(self.created_at),
            due_at: None,
            settled_at: self.settled_at.map(Timestamp::from_micros),
            last_status: self.last_status,
            last_reason: self.last_reason,
        })
    }
}
