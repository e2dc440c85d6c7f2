//! What became of deliveries, and of what infrastructure failed.

use hood_core::{EvaluationId, Tenant};
use uuid::Uuid;

use crate::db::{Builder, Connection, Row, query};
use crate::error::StoreError;
use crate::model::{DeliveryRecord, DeliveryState, Lives, Page};
use crate::ops::deliver;
use crate::rows::{corrupt, get, moment, small, time};
use crate::writer::failed;

pub(crate) async fn lives(
    db: &mut Connection<'_>,
    tenant: &Tenant,
    id: EvaluationId,
) -> Result<Lives, StoreError> {
    const SQL: &str = "SELECT evaluation, again FROM requeues WHERE tenant = $1 AND evaluation = $2 \
         UNION ALL SELECT evaluation, again FROM requeues WHERE tenant = $1 AND again = $2";
    let rows = query(SQL)
        .bind(tenant.as_str())
        .bind(id.as_uuid())
        .fetch_all(db)
        .await
        .map_err(failed("reading requeues"))?;
    let mut lives = Lives::default();
    for row in &rows {
        let [before, after] = ["evaluation", "again"].map(|column| get::<Uuid>(row, column));
        let (before, after) = (EvaluationId::from_uuid(before?), EvaluationId::from_uuid(after?));
        if before == id {
            lives.after = Some(after);
        } else {
            lives.before = Some(before);
        }
    }
    Ok(lives)
}

/// Newest first.
pub(crate) async fn deliveries(
    db: &mut Connection<'_>,
    tenant: &Tenant,
    states: &[DeliveryState],
    (evaluation, cursor): (Option<EvaluationId>, Option<EvaluationId>),
    limit: u32,
) -> Result<Page<DeliveryRecord>, StoreError> {
    let mut sql = Builder::new(
        "SELECT tenant, evaluation, event, url, state, tries, created_at, due_at, settled_at, last_status, \
         last_reason FROM deliveries WHERE tenant = ",
    );
    sql.push_bind(tenant.as_str());
    if !states.is_empty() {
        sql.push(" AND state IN (");
        for (i, state) in states.iter().take(DeliveryState::ALL.len()).enumerate() {
            sql.push(if i == 0 { "" } else { ", " }).push_bind(state.as_str());
        }
        sql.push(")");
    }
    if let Some(evaluation) = evaluation {
        sql.push(" AND evaluation = ").push_bind(evaluation.as_uuid());
    }
    if let Some(cursor) = cursor {
        sql.push(" AND evaluation < ").push_bind(cursor.as_uuid());
    }
    sql.push(" ORDER BY evaluation DESC LIMIT ").push_bind(i64::from(limit) + 1);
    let rows = sql.build().fetch_all(db).await.map_err(failed("listing deliveries"))?;
    let mut items = rows.iter().map(record).collect::<Result<Vec<_>, _>>()?;
    let more = items.len() > limit as usize;
    items.truncate(limit as usize);
    let next = items.last().filter(|_| more).map(|last| last.id.evaluation);
    Ok(Page { items, next })
}

fn record(row: &Row) -> Result<DeliveryRecord, StoreError> {
    let state: String = get(row, "state")?;
    let state = DeliveryState::parse(&state).ok_or_else(|| corrupt(format!("no delivery is {state}")))?;
    let status = get::<Option<i64>>(row, "last_status")?;
    Ok(DeliveryRecord {
        id: deliver::id(row)?,
        url: get(row, "url")?,
        state,
        tries: small(row, "tries")?,
        created_at: moment(row, "created_at")?,
        due_at: Some(moment(row, "due_at")?).filter(|_| state == DeliveryState::Pending),
        settled_at: time(row, "settled_at")?,
        last_status: status.and_then(|status| u16::try_from(status).ok()),
        last_reason: get(row, "last_reason")?,
    })
}
