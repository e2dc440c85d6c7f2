//! How many evaluations are in each state that is not terminal. They are counted as they move, and
//! the changes of a whole transaction are written at its end: a row for each state and priority, and
//! not two for each transition. Each writer has a shard, so that they do not wait for each other.

use crate::db::{Connection, query};
use crate::error::StoreError;
use crate::rows::{corrupt, get};
use crate::writer::{Depths, failed};

pub(crate) async fn queued(db: &mut Connection<'_>) -> Result<u64, StoreError> {
    const SQL: &str = "SELECT CAST(COALESCE(SUM(evaluations), 0) AS BIGINT) AS queued FROM depth_shards \
         WHERE state = 'queued'";
    let row = query(SQL).fetch_one(db).await.map_err(failed("measuring the queue"))?;
    u64::try_from(get::<i64>(&row, "queued")?).map_err(|_| corrupt("the queue is shorter than nothing"))
}

/// In one order whoever writes, so that two of one shard cannot wait for each other in a circle.
pub(crate) async fn write(db: &mut Connection<'_>, shard: i64, depths: &Depths) -> Result<(), StoreError> {
    const SQL: &str = "INSERT INTO depth_shards (shard, tenant, state, priority, evaluations) \
         VALUES ($1, $2, $3, $4, $5) ON CONFLICT (tenant, state, priority, shard) \
         DO UPDATE SET evaluations = depth_shards.evaluations + excluded.evaluations";
    for ((tenant, state, priority), change) in depths.iter().filter(|(_, change)| **change != 0) {
        query(SQL)
            .bind(shard)
            .bind(tenant.as_str())
            .bind(state.as_str())
            .bind(i64::from(*priority))
            .bind(*change)
            .execute(db)
            .await
            .map_err(failed("counting the queue"))?;
    }
    Ok(())
}
