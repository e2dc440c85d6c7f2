//! How many evaluations are in each state that is not terminal. They are counted as they move, and
//! the changes of a whole transaction are written at its end: a row for each state and priority, and
//! not two for each transition.

use crate::db::Connection;
use crate::error::StoreError;
use crate::rows::corrupt;
use crate::writer::{Depths, failed};

pub(crate) async fn queued(db: &mut Connection) -> Result<u64, StoreError> {
    const SQL: &str =
        "SELECT CAST(COALESCE(SUM(evaluations), 0) AS BIGINT) FROM depths WHERE state = 'queued'";
    let queued: i64 = sqlx::query_scalar(SQL).fetch_one(db).await.map_err(failed("measuring the queue"))?;
    u64::try_from(queued).map_err(|_| corrupt("the queue is shorter than nothing"))
}

pub(crate) async fn write(db: &mut Connection, depths: &Depths) -> Result<(), StoreError> {
    const SQL: &str = "INSERT INTO depths (tenant, state, priority, evaluations) VALUES ($1, $2, $3, $4) \
         ON CONFLICT (tenant, state, priority) \
         DO UPDATE SET evaluations = depths.evaluations + excluded.evaluations";
    for ((tenant, state, priority), change) in depths.iter().filter(|(_, change)| **change != 0) {
        sqlx::query(SQL)
            .bind(tenant.as_str())
            .bind(state.as_str())
            .bind(i64::from(*priority))
            .bind(change)
            .execute(&mut *db)
            .await
            .map_err(failed("counting the queue"))?;
    }
    Ok(())
}
