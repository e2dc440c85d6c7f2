//! Everything that a store keeps, as one stream of lines, from either engine into either: rows as the
//! tables have them, then the bytes of blobs. Whoever reads it back has what was there, or nothing.

mod export;
mod import;

use std::collections::BTreeMap;
use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use uuid::Uuid;

use crate::blobs::BlobError;
use crate::db::{Connection, Row, Value, query};
use crate::error::{OpenError, StoreError};
use crate::writer::failed;

pub use export::export;
pub use import::import;

/// Of the stream; one that is read must be the same.
const FORMAT: u32 = 1;

/// What is moved, in this order.
const TABLES: &[&str] = &[
    "evaluations",
    "requests",
    "results",
    "labels",
    "events",
    "attempts",
    "output",
    "batches",
    "idempotency_keys",
    KEYS,
    "depth_shards",
    "blobs",
    "requeues",
    "deliveries",
    "archived",
    COUNTERS,
];

const COUNTERS: &str = "counters";
const KEYS: &str = "api_keys";

#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    #[error("cannot {doing} the file")]
    File {
        doing: &'static str,
        #[source]
        source: io::Error,
    },
    /// Nothing that we wrote, by its first line.
    #[error("this is no export of fumehood: {why}")]
    NoExport { why: String },
    #[error("the file cannot be used: {why}")]
    Unusable { why: String },
    #[error(
        "the store is not empty: its table {table} has rows; import into one that nothing was accepted by"
    )]
    NotEmpty { table: &'static str },
    #[error("cannot open the store")]
    Open(#[from] OpenError),
    #[error("the store failed")]
    Store(#[from] StoreError),
    #[error("the blobs failed")]
    Blob(#[from] BlobError),
}

/// What was moved.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// By table.
    pub rows: BTreeMap<String, u64>,
    pub blobs: u64,
    pub blob_bytes: u64,
}

/// How far it is: a table, or the blobs, that are done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress<'a> {
    pub what: &'a str,
    pub count: u64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Begin {
        format: u32,
        schema: i64,
        written_by: String,
    },
    Table {
        name: String,
        columns: Vec<Column>,
    },
    /// In the columns' order: numbers and texts as they are, ids as text, bytes in base64.
    Row(Vec<Json>),
    /// Its pieces follow.
    Blob {
        name: String,
        bytes: u64,
    },
    Piece(String),
    End(Moved),
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Column {
    name: String,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Number,
    Text,
    Bytes,
    Id,
}

fn unusable(why: impl Into<String>) -> TransferError {
    TransferError::Unusable { why: why.into() }
}

fn file(doing: &'static str) -> impl FnOnce(io::Error) -> TransferError {
    move |source| TransferError::File { doing, source }
}

/// The columns of a table, by name.
async fn columns(db: &mut Connection<'_>, table: &'static str) -> Result<Vec<Column>, StoreError> {
    let sql = match db {
        Connection::Sqlite(_) => "SELECT name, LOWER(type) AS kind FROM pragma_table_info($1) ORDER BY name",
        Connection::Postgres(_) => {
            "SELECT CAST(a.attname AS TEXT) AS name, CAST(format_type(a.atttypid, NULL) AS TEXT) AS kind \
             FROM pg_catalog.pg_attribute a WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 \
             AND NOT a.attisdropped ORDER BY a.attname"
        }
    };
    let rows = query(sql).bind(table).fetch_all(db).await.map_err(failed("reading the schema"))?;
    let mut columns = rows.iter().map(column).collect::<Result<Vec<_>, _>>()?;
    columns.sort();
    Ok(columns)
}

fn column(row: &Row) -> Result<Column, StoreError> {
    let [name, kind] = ["name", "kind"].map(|of| crate::rows::get::<String>(row, of));
    let kind = match kind?.as_str() {
        "bigint" => Kind::Number,
        "text" => Kind::Text,
        "bytea" => Kind::Bytes,
        "uuid" => Kind::Id,
        other => return Err(crate::rows::corrupt(format!("a column is {other}"))),
    };
    Ok(Column { name: name?, kind })
}

fn read(row: &Row, Column { name, kind }: &Column) -> Result<Json, StoreError> {
    let failed = || failed("reading a row");
    Ok(match kind {
        Kind::Number => row.try_get::<Option<i64>>(name).map_err(failed())?.into(),
        Kind::Text => row.try_get::<Option<String>>(name).map_err(failed())?.into(),
        Kind::Bytes => {
            row.try_get::<Option<Vec<u8>>>(name).map_err(failed())?.map(|bytes| STANDARD.encode(bytes)).into()
        }
        Kind::Id => row.try_get::<Option<Uuid>>(name).map_err(failed())?.map(|id| id.to_string()).into(),
    })
}

fn write(value: Json, kind: Kind) -> Result<Value, TransferError> {
    let wrong = || unusable("a value is not of its column's kind");
    Ok(match (kind, value) {
        (Kind::Number, Json::Null) => Value::Number(None),
        (Kind::Text, Json::Null) => Value::Text(None),
        (Kind::Bytes, Json::Null) => Value::Bytes(None),
        (Kind::Id, Json::Null) => Value::Id(None),
        (Kind::Number, value) => Value::Number(Some(value.as_i64().ok_or_else(wrong)?)),
        (Kind::Text, Json::String(text)) => Value::Text(Some(text)),
        (Kind::Bytes, Json::String(text)) => Value::Bytes(Some(STANDARD.decode(text).map_err(|_| wrong())?)),
        (Kind::Id, Json::String(text)) => Value::Id(Some(text.parse().map_err(|_| wrong())?)),
        _ => return Err(wrong()),
    })
}

#[cfg(test)]
mod tests {
    //! White box: no table is forgotten.

    use super::*;

    #[tokio::test]
    async fn every_table_is_moved_or_named_as_not() {
        // What was migrated, who has which turn, and what places there are: of the installation itself.
        const NOT_MOVED: [&str; 3] = ["capacity", "schema_migrations", "turns"];
        let mut db = crate::testing::memory().await;
        let db = &mut Connection::Sqlite(&mut db);
        let rows =
            query("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name").fetch_all(db).await;
        let there: Vec<String> =
            rows.expect("answers").iter().map(|row| row.try_get("name").expect("text")).collect();
        let mut known: Vec<&str> = TABLES.iter().chain(&NOT_MOVED).copied().collect();
        known.sort_unstable();
        assert_eq!(there, known);
    }
}
