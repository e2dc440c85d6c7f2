//! What waits, of everybody together: counts for whoever watches the installation, and no ids.

use hood_core::{State, Timestamp};

use crate::db::{Connection, query};
use crate::error::StoreError;
use crate::model::{Backlog, DeliveryBacklog};
use crate::rows::{get, number, priority, state, time};
use crate::writer::failed;

/// How many of a queue's front are looked at for the one that has waited the longest: one that came
/// back after a loss stands before those that have waited all the while.
const FRONT: i64 = 32;

/// Beyond so many it is not counted how many.
const DELIVERIES_COUNTED: i64 = 10_000;

const DEPTH: &str = "SELECT state, priority, CAST(SUM(evaluations) AS BIGINT) AS evaluations FROM depth_shards \
     GROUP BY state, priority HAVING SUM(evaluations) > 0 ORDER BY state, priority DESC";

const OLDEST: &str = "SELECT MIN(queued_at) AS queued_at FROM (SELECT queued_at FROM evaluations \
     WHERE state = 'queued' AND ready = 1 AND priority = $1 ORDER BY priority DESC, id LIMIT $2) front";

const DELIVERIES: &str = "SELECT COUNT(*) AS n, MIN(due_at) AS due_at FROM (SELECT due_at FROM deliveries \
     WHERE state = 'pending' ORDER BY due_at LIMIT $1) waiting";

pub(crate) async fn backlog(db: &mut Connection<'_>) -> Result<Backlog, StoreError> {
    let rows = query(DEPTH).fetch_all(&mut *db).await.map_err(failed("reading the queue"))?;
    let depth = rows.iter().map(|row| Ok((state(row)?, priority(row)?, number(row, "evaluations")?)));
    let depth = depth.collect::<Result<Vec<(State, u8, u64)>, StoreError>>()?;
    let mut oldest = Vec::new();
    for (_, priority, _) in depth.iter().filter(|(state, ..)| *state == State::Queued) {
        let front = query(OLDEST).bind(i64::from(*priority)).bind(FRONT).fetch_one(&mut *db).await;
        if let Some(since) = time(&front.map_err(failed("reading the queue"))?, "queued_at")? {
            oldest.push((*priority, since));
        }
    }
    Ok(Backlog { depth, oldest })
}

pub(crate) async fn delivery_backlog(db: &mut Connection<'_>) -> Result<DeliveryBacklog, StoreError> {
    let row = query(DELIVERIES).bind(DELIVERIES_COUNTED).fetch_one(db).await;
    let row = row.map_err(failed("counting deliveries"))?;
    let due_at = get::<Option<i64>>(&row, "due_at")?.map(Timestamp::from_micros);
    Ok(DeliveryBacklog { pending: number(&row, "n")?, due_at })
}

#[cfg(test)]
mod tests {
    //! White box: what the engine plans to do, however many wait.

    use super::*;
    use crate::testing::{memory, plan};

    #[tokio::test]
    async fn a_queues_front_is_read_from_its_own_index() {
        let mut db = memory().await;
        for (sql, index) in [(OLDEST, "evaluations_ready"), (DELIVERIES, "deliveries_due")] {
            let plan = plan(&mut db, sql).await;
            assert!(plan.contains(index) && !plan.contains("TEMP B-TREE"), "{plan}");
        }
    }
}
