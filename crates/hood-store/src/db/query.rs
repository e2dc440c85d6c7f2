//! One statement with its parameters, run on whichever engine is there.

use std::io;
use std::time::Duration;

use futures::stream::{BoxStream, StreamExt as _, TryStreamExt as _};
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{
    Arguments as _, AssertSqlSafe, Decode, Postgres, Row as _, SqlSafeStr as _, SqlStr, Sqlite, Type,
};
use uuid::Uuid;

use super::Connection;

/// How long a server may take for one statement. It is nearly always milliseconds; beyond this it is
/// frozen or unreachable, and whoever waits is told so.
pub(super) const STATEMENT_TIME_MAX: Duration = Duration::from_secs(20);

/// See [`super::locking!`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Locking {
    pub(crate) sqlite: &'static str,
    pub(crate) postgres: &'static str,
}

#[derive(Debug)]
pub(crate) enum Text {
    Both(&'static str),
    Locking(Locking),
    Built(String),
}

impl From<&'static str> for Text {
    fn from(sql: &'static str) -> Self {
        Self::Both(sql)
    }
}

impl From<Locking> for Text {
    fn from(sql: Locking) -> Self {
        Self::Locking(sql)
    }
}

/// What a parameter can be. An absent one keeps its type: PostgreSQL wants to know it.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    Number(Option<i64>),
    Text(Option<String>),
    Bytes(Option<Vec<u8>>),
    Id(Option<Uuid>),
}

macro_rules! values {
    ($($from:ty => $variant:ident, |$value:ident| $convert:expr;)*) => {
        $(impl From<$from> for Value {
            fn from($value: $from) -> Self {
                Self::$variant(Some($convert))
            }
        }

        impl From<Option<$from>> for Value {
            fn from(value: Option<$from>) -> Self {
                Self::$variant(value.map(|$value| $convert))
            }
        })*
    };
}
values! {
    i64 => Number, |value| value;
    &str => Text, |value| value.to_owned();
    String => Text, |value| value;
    &String => Text, |value| value.clone();
    &[u8] => Bytes, |value| value.to_vec();
    Vec<u8> => Bytes, |value| value;
    Uuid => Id, |value| value;
}

impl From<&Option<String>> for Value {
    fn from(value: &Option<String>) -> Self {
        Self::Text(value.clone())
    }
}

#[derive(Debug)]
pub(crate) struct Query {
    text: Text,
    values: Vec<Value>,
}

pub(crate) fn query(sql: impl Into<Text>) -> Query {
    Query { text: sql.into(), values: Vec::new() }
}

impl Query {
    pub(crate) fn bind(mut self, value: impl Into<Value>) -> Self {
        self.values.push(value.into());
        self
    }

    fn for_sqlite(self) -> Result<sqlx::query::Query<'static, Sqlite, SqliteArguments>, sqlx::Error> {
        let mut arguments = SqliteArguments::default();
        for value in self.values {
            match value {
                Value::Number(value) => arguments.add(value),
                Value::Text(value) => arguments.add(value),
                Value::Bytes(value) => arguments.add(value),
                Value::Id(value) => arguments.add(value),
            }
            .map_err(sqlx::Error::Encode)?;
        }
        Ok(sqlx::query_with(self.text.into_sql(|locking| locking.sqlite), arguments))
    }

    fn for_postgres(self) -> Result<sqlx::query::Query<'static, Postgres, PgArguments>, sqlx::Error> {
        let mut arguments = PgArguments::default();
        for value in self.values {
            match value {
                Value::Number(value) => arguments.add(value),
                Value::Text(value) => arguments.add(value),
                Value::Bytes(value) => arguments.add(value),
                Value::Id(value) => arguments.add(value),
            }
            .map_err(sqlx::Error::Encode)?;
        }
        Ok(sqlx::query_with(self.text.into_sql(|locking| locking.postgres), arguments))
    }

    /// How many rows it changed.
    pub(crate) async fn execute(self, db: &mut Connection<'_>) -> Result<u64, sqlx::Error> {
        match db {
            Connection::Sqlite(db) => Ok(self.for_sqlite()?.execute(&mut **db).await?.rows_affected()),
            Connection::Postgres(db) => {
                Ok(in_time(self.for_postgres()?.execute(&mut **db)).await?.rows_affected())
            }
        }
    }

    pub(crate) async fn fetch_one(self, db: &mut Connection<'_>) -> Result<Row, sqlx::Error> {
        self.fetch_optional(db).await?.ok_or(sqlx::Error::RowNotFound)
    }

    pub(crate) async fn fetch_optional(self, db: &mut Connection<'_>) -> Result<Option<Row>, sqlx::Error> {
        match db {
            Connection::Sqlite(db) => {
                Ok(self.for_sqlite()?.fetch_optional(&mut **db).await?.map(Row::Sqlite))
            }
            Connection::Postgres(db) => {
                Ok(in_time(self.for_postgres()?.fetch_optional(&mut **db)).await?.map(Row::Postgres))
            }
        }
    }

    pub(crate) async fn fetch_all(self, db: &mut Connection<'_>) -> Result<Vec<Row>, sqlx::Error> {
        match db {
            Connection::Sqlite(db) => {
                Ok(self.for_sqlite()?.fetch_all(&mut **db).await?.into_iter().map(Row::Sqlite).collect())
            }
            Connection::Postgres(db) => {
                let rows = in_time(self.for_postgres()?.fetch_all(&mut **db)).await?;
                Ok(rows.into_iter().map(Row::Postgres).collect())
            }
        }
    }

    /// Row by row, so that large ones are not in memory together.
    pub(crate) fn fetch<'c>(
        self,
        db: &'c mut Connection<'_>,
    ) -> Result<BoxStream<'c, Result<Row, sqlx::Error>>, sqlx::Error> {
        Ok(match db {
            Connection::Sqlite(db) => self.for_sqlite()?.fetch(&mut **db).map_ok(Row::Sqlite).boxed(),
            Connection::Postgres(db) => self.for_postgres()?.fetch(&mut **db).map_ok(Row::Postgres).boxed(),
        })
    }
}

impl Text {
    fn into_sql(self, of_engine: impl FnOnce(Locking) -> &'static str) -> SqlStr {
        match self {
            Self::Both(sql) => sql.into_sql_str(),
            Self::Locking(sql) => of_engine(sql).into_sql_str(),
            Self::Built(sql) => AssertSqlSafe(sql).into_sql_str(),
        }
    }
}

/// What the server answers within [`STATEMENT_TIME_MAX`].
async fn in_time<T>(answer: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    match tokio::time::timeout(STATEMENT_TIME_MAX, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, "the server does not answer"))),
    }
}

#[derive(Debug)]
pub(crate) enum Row {
    Sqlite(SqliteRow),
    Postgres(PgRow),
}

impl Row {
    pub(crate) fn try_get<'r, T>(&'r self, column: &str) -> Result<T, sqlx::Error>
    where
        T: Decode<'r, Sqlite> + Type<Sqlite> + Decode<'r, Postgres> + Type<Postgres>,
    {
        match self {
            Self::Sqlite(row) => row.try_get(column),
            Self::Postgres(row) => row.try_get(column),
        }
    }
}

/// A statement that is put together as it is needed.
#[derive(Debug, Default)]
pub(crate) struct Builder {
    sql: String,
    values: Vec<Value>,
}

impl Builder {
    pub(crate) fn new(sql: &str) -> Self {
        Self { sql: sql.to_owned(), values: Vec::new() }
    }

    pub(crate) fn push(&mut self, sql: &str) -> &mut Self {
        self.sql.push_str(sql);
        self
    }

    pub(crate) fn push_bind(&mut self, value: impl Into<Value>) -> &mut Self {
        self.values.push(value.into());
        self.sql.push_str(&format!("${}", self.values.len()));
        self
    }

    #[cfg(test)]
    pub(crate) fn sql(&self) -> &str {
        &self.sql
    }

    pub(crate) fn build(self) -> Query {
        Query { text: Text::Built(self.sql), values: self.values }
    }
}
