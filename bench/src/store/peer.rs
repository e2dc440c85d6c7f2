//! A queue in the shape of pgmq's, of this bench's own SQL: a table of messages, each visible from a
//! time on; a read puts that time off, an archive moves the message into another table. Its functions
//! put their statements together as text each time; here they are prepared, which is quicker.
//!
//! What it is spared: tokens, events, attempts, results, labels, counts, priorities, and telling a
//! caller of a batch about each of its messages.

use std::time::Duration;

use anyhow::bail;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{PgPool, Row as _};

use super::Shape;
use super::ours::{REQUEST_BYTES, join};

const CREATE: &str = "
    CREATE TABLE bench_queue (
        msg_id BIGINT PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
        read_ct INT DEFAULT 0 NOT NULL,
        enqueued_at TIMESTAMPTZ DEFAULT now() NOT NULL,
        vt TIMESTAMPTZ NOT NULL,
        message JSONB
    );
    CREATE INDEX bench_queue_vt ON bench_queue (vt ASC);
    CREATE TABLE bench_archive (
        msg_id BIGINT PRIMARY KEY,
        read_ct INT DEFAULT 0 NOT NULL,
        enqueued_at TIMESTAMPTZ DEFAULT now() NOT NULL,
        archived_at TIMESTAMPTZ DEFAULT now() NOT NULL,
        vt TIMESTAMPTZ NOT NULL,
        message JSONB
    );
    CREATE INDEX bench_archive_archived_at ON bench_archive (archived_at);
";

const SEND: &str = "INSERT INTO bench_queue (vt, message) \
    SELECT clock_timestamp(), CAST(message AS JSONB) FROM unnest($1::TEXT[]) AS message RETURNING msg_id";

const READ: &str = "WITH visible AS (SELECT msg_id FROM bench_queue WHERE vt <= clock_timestamp() \
    ORDER BY msg_id LIMIT $1 FOR UPDATE SKIP LOCKED) \
    UPDATE bench_queue AS q SET vt = clock_timestamp() + interval '1 day', read_ct = read_ct + 1 \
    FROM visible WHERE q.msg_id = visible.msg_id \
    RETURNING q.msg_id, q.read_ct, CAST(q.message AS TEXT) AS message";

const ARCHIVE: &str = "WITH ended AS (DELETE FROM bench_queue WHERE msg_id = ANY($1) \
    RETURNING msg_id, vt, read_ct, enqueued_at, message) \
    INSERT INTO bench_archive (msg_id, vt, read_ct, enqueued_at, message) \
    SELECT msg_id, vt, read_ct, enqueued_at, message FROM ended RETURNING msg_id";

/// A caller that waits longer than this for a connection is stuck.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Peer {
    pool: PgPool,
}

impl Peer {
    pub(super) async fn open(url: &str) -> anyhow::Result<Self> {
        let options: PgConnectOptions = url.parse()?;
        // As many as the store has that write.
        let pool = PgPoolOptions::new().max_connections(4).acquire_timeout(PATIENCE);
        let pool = pool.connect_with(options).await?;
        sqlx::raw_sql(CREATE).execute(&pool).await?;
        Ok(Self { pool })
    }

    pub(super) async fn durability(&self) -> anyhow::Result<String> {
        const SQL: &str = "SELECT 'server_version = ' || current_setting('server_version') || ', fsync = ' \
            || current_setting('fsync') || ', synchronous_commit = ' || current_setting('synchronous_commit') \
            || ', full_page_writes = ' || current_setting('full_page_writes')";
        Ok(sqlx::query_scalar(SQL).fetch_one(&self.pool).await?)
    }

    pub(super) async fn close(self) {
        self.pool.close().await;
    }

    pub(super) async fn accept(&self, count: u64, shape: Shape) -> anyhow::Result<()> {
        let callers = (0..shape.callers).map(|caller| {
            let pool = self.pool.clone();
            tokio::spawn(async move {
                let mut from = caller * shape.batch;
                while from < count {
                    let messages = usize::try_from(shape.batch.min(count - from))?;
                    let message = format!("\"{}\"", "r".repeat(REQUEST_BYTES));
                    let sent = sqlx::query(SEND).bind(vec![message; messages]).fetch_all(&pool).await?;
                    anyhow::ensure!(sent.len() == messages, "only {} were sent", sent.len());
                    from += shape.callers * shape.batch;
                }
                anyhow::Ok(())
            })
        });
        join(callers.collect()).await
    }

    pub(super) async fn claim(&self, limit: u32) -> anyhow::Result<Vec<i64>> {
        claim(&self.pool, limit).await
    }

    /// All that were read together are archived together: its callers have no other way to share a flush.
    pub(super) async fn finish(&self, count: u64, shape: Shape) -> anyhow::Result<()> {
        let workers = (0..shape.workers).map(|worker| {
            let pool = self.pool.clone();
            let mine = count / shape.workers + u64::from(worker < count % shape.workers);
            tokio::spawn(async move {
                let mut left = mine;
                while left > 0 {
                    let claimed = claim(&pool, shape.claim.min(u32::try_from(left)?)).await?;
                    let archived = sqlx::query(ARCHIVE).bind(&claimed).fetch_all(&pool).await?;
                    anyhow::ensure!(archived.len() == claimed.len(), "some were not there any more");
                    left -= claimed.len() as u64;
                }
                anyhow::Ok(())
            })
        });
        join(workers.collect()).await
    }
}

async fn claim(pool: &PgPool, limit: u32) -> anyhow::Result<Vec<i64>> {
    let rows = sqlx::query(READ).bind(i64::from(limit)).fetch_all(pool).await?;
    if rows.is_empty() {
        bail!("the peer's queue is empty");
    }
    rows.iter().map(|row| Ok(row.try_get("msg_id")?)).collect()
}
