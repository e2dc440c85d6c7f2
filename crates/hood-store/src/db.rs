//! The two engines behind one face. A statement is one text for both; what differs between them is
//! how a connection is made and kept, and the clause that locks rows ([`lock_clause!`]).

pub(crate) mod postgres;
mod query;
mod rows;
pub(crate) mod sqlite;
mod url;

use sqlx::pool::PoolConnection;
use sqlx::{PgConnection, Postgres, Sqlite, SqliteConnection};

pub(crate) use query::{Builder, Locking, Row, Value, query};
pub(crate) use rows::{Rows, row};
pub use url::{DatabaseUrl, UrlError};

/// Statements kept prepared on a connection: more than there are.
const STATEMENTS_CACHED: usize = 256;

/// A connection of either engine, for as long as somebody uses it.
#[derive(Debug)]
pub(crate) enum Connection<'c> {
    Sqlite(&'c mut SqliteConnection),
    Postgres(&'c mut PgConnection),
}

/// Connections that only read.
#[derive(Clone, Debug)]
pub(crate) enum Readers {
    Sqlite(sqlx::SqlitePool),
    Postgres(sqlx::PgPool),
}

#[derive(Debug)]
pub(crate) enum Reader {
    Sqlite(PoolConnection<Sqlite>),
    Postgres(PoolConnection<Postgres>),
}

/// Several statements that see one moment.
#[derive(Debug)]
pub(crate) enum Look {
    Sqlite(sqlx::Transaction<'static, Sqlite>),
    Postgres(sqlx::Transaction<'static, Postgres>),
}

impl Readers {
    pub(crate) async fn acquire(&self) -> Result<Reader, sqlx::Error> {
        match self {
            Self::Sqlite(pool) => pool.acquire().await.map(Reader::Sqlite),
            Self::Postgres(pool) => pool.acquire().await.map(Reader::Postgres),
        }
    }

    pub(crate) async fn begin(&self) -> Result<Look, sqlx::Error> {
        match self {
            Self::Sqlite(pool) => pool.begin().await.map(Look::Sqlite),
            Self::Postgres(pool) => pool.begin_with(postgres::LOOK).await.map(Look::Postgres),
        }
    }

    pub(crate) async fn close(&self) {
        match self {
            Self::Sqlite(pool) => pool.close().await,
            Self::Postgres(pool) => pool.close().await,
        }
    }
}

impl Reader {
    pub(crate) fn connection(&mut self) -> Connection<'_> {
        match self {
            Self::Sqlite(connection) => Connection::Sqlite(connection),
            Self::Postgres(connection) => Connection::Postgres(connection),
        }
    }
}

impl Look {
    pub(crate) fn connection(&mut self) -> Connection<'_> {
        match self {
            Self::Sqlite(transaction) => Connection::Sqlite(transaction),
            Self::Postgres(transaction) => Connection::Postgres(transaction),
        }
    }
}

/// A statement whose SELECT takes rows that its transaction is about to change: `front`, the lock
/// clause, `back`. One connection writes to SQLite, so that there is nobody to skip.
macro_rules! locking {
    ($front:expr, $back:expr) => {
        $crate::db::Locking {
            sqlite: concat!($front, $back),
            postgres: concat!($front, " FOR UPDATE SKIP LOCKED", $back),
        }
    };
}
pub(crate) use locking;

impl Connection<'_> {
    /// Whether other transactions may write at the same time.
    pub(crate) const fn is_shared(&self) -> bool {
        matches!(self, Self::Postgres(_))
    }

    /// A statement without parameters and rows.
    pub(crate) async fn command(&mut self, sql: &'static str) -> Result<(), sqlx::Error> {
        query(sql).execute(self).await.map(drop)
    }

    /// Any number of statements, as a migration is.
    pub(crate) async fn script(&mut self, sql: impl Into<String>) -> Result<(), sqlx::Error> {
        let sql = sqlx::AssertSqlSafe(sql.into());
        match self {
            Self::Sqlite(connection) => sqlx::raw_sql(sql).execute(&mut **connection).await.map(drop),
            Self::Postgres(connection) => sqlx::raw_sql(sql).execute(&mut **connection).await.map(drop),
        }
    }

    /// How what is committed is kept, as the server itself says.
    pub(crate) async fn durability(&mut self) -> Result<Vec<(String, String)>, sqlx::Error> {
        let settings = match self {
            Self::Sqlite(_) => sqlite::DURABILITY,
            Self::Postgres(_) => postgres::DURABILITY,
        };
        let mut reported = Vec::new();
        for (name, sql) in settings {
            let row = query(*sql).fetch_one(self).await?;
            reported.push(((*name).to_owned(), row.try_get("value")?));
        }
        Ok(reported)
    }
}
