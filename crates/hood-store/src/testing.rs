//! For the white-box tests: an empty database, and what it would do with a statement.

use sqlx::{Connection as _, SqliteConnection};

use crate::db::Connection;
use crate::migrate::{Duty, ensure};

pub(crate) async fn memory() -> SqliteConnection {
    let mut db = SqliteConnection::connect("sqlite::memory:").await.expect("opens");
    ensure(&mut Connection::Sqlite(&mut db), "memory", Duty::Migrate).await.expect("migrates");
    db
}

pub(crate) async fn plan(db: &mut SqliteConnection, sql: &str) -> String {
    let mut explain = crate::db::Builder::new("EXPLAIN QUERY PLAN ");
    explain.push(sql);
    let rows = explain.build().fetch_all(&mut Connection::Sqlite(db)).await.expect("is a statement");
    rows.iter().map(|row| row.try_get::<String>("detail").expect("text") + "\n").collect()
}
