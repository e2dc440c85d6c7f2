//! For the white-box tests: an empty database, and what it would do with a statement.

use std::path::Path;

use sqlx::{Connection as _, Row as _, SqlSafeStr};

use crate::db::Connection;

pub(crate) async fn memory() -> Connection {
    let mut db = Connection::connect("sqlite::memory:").await.expect("opens");
    crate::migrate::migrate(&mut db, Path::new("memory")).await.expect("migrates");
    db
}

pub(crate) async fn plan(db: &mut Connection, sql: impl SqlSafeStr) -> String {
    let sql = format!("EXPLAIN QUERY PLAN {}", sql.into_sql_str().as_str());
    let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).fetch_all(db).await.expect("is a statement");
    rows.iter().map(|row| row.get::<String, _>("detail") + "\n").collect()
}
