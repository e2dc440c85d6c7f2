//! PostgreSQL: many processes, each with a few connections that write and some that read.

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions as _, PgConnection, PgPool};

use super::{Connection, DatabaseUrl, STATEMENTS_CACHED, query};

pub(crate) const FORGET_PLANS: &str = "DISCARD PLANS";

pub(crate) const BEGIN: &str = "BEGIN";

/// One moment for all that a look reads.
pub(crate) const LOOK: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

pub(crate) const DURABILITY: &[(&str, &str)] = &[
    ("server_version", "SELECT current_setting('server_version') AS value"),
    ("fsync", "SELECT current_setting('fsync') AS value"),
    ("synchronous_commit", "SELECT current_setting('synchronous_commit') AS value"),
    ("full_page_writes", "SELECT current_setting('full_page_writes') AS value"),
];

/// A server that does not take a connection within this counts as away.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(3);

/// How long a read waits for a connection, one to be made included. Whoever asked is told to come
/// again rather than kept.
const READER_WAIT: Duration = Duration::from_secs(3);

/// A connection that nobody reads with is given back after so long.
const READER_IDLE_MAX: Duration = Duration::from_secs(300);

/// Set for the session. A process that is frozen in the middle of a transaction must not hold its
/// locks against all others, and nobody waits for a lock longer than its holder may idle.
const SESSION: [(&str, &str); 3] =
    [("idle_in_transaction_session_timeout", "5s"), ("lock_timeout", "15s"), ("timezone", "UTC")];

/// Set for the session of one that writes, too. Each of its statements is meant to go through an index and
/// to cost the same however long a table is: what the server has counted of tables that have just grown,
/// or just been emptied, must not lead it to read them whole. A plan is made for all parameters, and kept
/// for a while: to plan a statement of many rows takes as long as to run it.
const WRITER_SESSION: [(&str, &str); 5] = [
    ("enable_seqscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("plan_cache_mode", "force_generic_plan"),
    ("jit", "off"),
];

/// Set for the session of one that reads for a request, too. Nobody waits for a statement longer than
/// [`super::query`] does; the server shall not work on it for longer either, or a few such statements would
/// keep every connection.
const READER_SESSION: [(&str, &str); 1] = [("statement_timeout", "25s")];

fn options(url: &DatabaseUrl) -> Result<PgConnectOptions, sqlx::Error> {
    Ok(url
        .options()?
        .application_name("fumehood")
        .options(SESSION)
        .statement_cache_capacity(STATEMENTS_CACHED)
        .disable_statement_logging())
}

pub(crate) async fn connect_writer(url: &DatabaseUrl) -> Result<PgConnection, sqlx::Error> {
    let options = options(url)?.options(WRITER_SESSION);
    let connecting = async {
        let mut connection = options.connect().await?;
        insist_on_durability(&mut connection).await?;
        Ok(connection)
    };
    match tokio::time::timeout(CONNECT_TIME_MAX, connecting).await {
        Ok(connected) => connected,
        Err(_) => Err(sqlx::Error::PoolTimedOut),
    }
}

/// Whatever the server's default: a commit is answered once it is on a disk. Stricter levels stay.
async fn insist_on_durability(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    const SQL: &str = "SELECT set_config('synchronous_commit', 'on', false) \
         WHERE current_setting('synchronous_commit') IN ('off', 'local')";
    query(SQL).execute(&mut Connection::Postgres(connection)).await.map(drop)
}

/// Connects when somebody reads: the server may be away now.
pub(crate) fn readers(url: &DatabaseUrl, readers: u32) -> Result<PgPool, sqlx::Error> {
    Ok(pool(readers).connect_lazy_with(options(url)?.options(READER_SESSION)))
}

/// One connection that reads whole tables, however long that takes.
pub(crate) fn reader_of_all(url: &DatabaseUrl) -> Result<PgPool, sqlx::Error> {
    Ok(pool(1).connect_lazy_with(options(url)?))
}

fn pool(connections: u32) -> PgPoolOptions {
    PgPoolOptions::new()
        .max_connections(connections.max(1))
        .acquire_timeout(READER_WAIT)
        .idle_timeout(READER_IDLE_MAX)
}

/// Whether an error is of the connection, and not of what was asked: the server is away, or going.
pub(crate) fn is_away(error: &sqlx::Error) -> bool {
    /// Classes of SQLSTATE: connection exceptions, insufficient resources, operator intervention
    /// (shut down, crashed, starting); and single ones: read-only, as on a standby, and the database
    /// does not exist yet.
    const AWAY: [&str; 5] = ["08", "53", "57P", "25006", "3D000"];
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::PoolTimedOut | sqlx::Error::Protocol(_) => {
            true
        }
        sqlx::Error::Database(error) => {
            let code = error.code().unwrap_or_default();
            code.len() == SQLSTATE_LENGTH && AWAY.iter().any(|class| code.starts_with(class))
        }
        _ => false,
    }
}

/// SQLite's codes are shorter.
const SQLSTATE_LENGTH: usize = 5;

/// The transaction was broken off in favour of another one: done again, it would succeed.
pub(crate) fn is_clash(error: &sqlx::Error) -> bool {
    /// Serialization failure, deadlock, lock not available.
    const CLASHES: [&str; 3] = ["40001", "40P01", "55P03"];
    matches!(error, sqlx::Error::Database(error) if error.code().is_some_and(|code| CLASHES.contains(&&*code)))
}

#[cfg(test)]
mod tests {
    use super::super::query::STATEMENT_TIME_MAX;
    use super::*;

    #[tokio::test]
    async fn the_server_ends_a_read_that_nobody_waits_for_and_none_of_a_whole_table() {
        const BOUND: &str =
            "SELECT CAST(setting AS BIGINT) AS ms FROM pg_settings WHERE name = 'statement_timeout'";
        if let Some(why) = hood_testkit::missing() {
            eprintln!("\nSKIPPED: postgres: {why}");
            return;
        }
        let url = hood_testkit::postgres().await.fresh_database().await;
        let url = DatabaseUrl::parse(&url).expect("an address");
        let bound = async |pool: PgPool| {
            let mut reader = pool.acquire().await.expect("connects");
            let row =
                query(BOUND).fetch_one(&mut Connection::Postgres(&mut reader)).await.expect("a setting");
            Duration::from_millis(row.try_get::<i64>("ms").expect("a number").unsigned_abs())
        };
        let readers = bound(readers(&url, 2).expect("an address")).await;
        assert!(readers > STATEMENT_TIME_MAX, "whoever waits is told first: {readers:?}");
        assert_eq!(bound(reader_of_all(&url).expect("an address")).await, Duration::ZERO, "none");
    }
}
