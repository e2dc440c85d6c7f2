//! Migrations only append. What was applied is remembered with its checksum, and a database that
//! came from elsewhere, or from a newer program that this one cannot work with, is refused.

use std::path::Path;

use sqlx::Row as _;

use crate::db::{self, Connection};
use crate::error::OpenError;

struct Migration {
    version: i64,
    name: &'static str,
    sql: &'static str,
}

const ALL: [Migration; 2] = [
    Migration { version: 1, name: "initial", sql: include_str!("../migrations/0001_initial.sql") },
    Migration { version: 2, name: "blobs", sql: include_str!("../migrations/0002_blobs.sql") },
];

/// The oldest schema whose programs can work with what this one writes. Raised by a migration that
/// takes something away from them.
const OLDEST_COMPATIBLE: i64 = 1;

pub(crate) async fn migrate(db: &mut Connection, path: &Path) -> Result<(), OpenError> {
    let known = ALL[ALL.len() - 1].version;
    let outer = |source| OpenError::Connect { path: path.to_owned(), source };
    sqlx::raw_sql(
        "CREATE TABLE IF NOT EXISTS schema_migrations (version BIGINT NOT NULL PRIMARY KEY, name TEXT NOT NULL, \
         checksum TEXT NOT NULL, oldest_compatible BIGINT NOT NULL, written_by TEXT NOT NULL)",
    )
    .execute(&mut *db)
    .await
    .map_err(outer)?;
    let applied = sqlx::query(
        "SELECT version, checksum, oldest_compatible, written_by FROM schema_migrations ORDER BY version",
    )
    .fetch_all(&mut *db)
    .await
    .map_err(outer)?;
    for row in &applied {
        let version: i64 = row.try_get("version").map_err(outer)?;
        let checksum: String = row.try_get("checksum").map_err(outer)?;
        match ALL.iter().find(|migration| migration.version == version) {
            Some(migration) if checksum_of(migration) == checksum => {}
            Some(_) => return Err(OpenError::MigrationChanged { path: path.to_owned(), version }),
            None => {
                let oldest_compatible: i64 = row.try_get("oldest_compatible").map_err(outer)?;
                if oldest_compatible > known {
                    let written_by = row.try_get("written_by").map_err(outer)?;
                    let path = path.to_owned();
                    return Err(OpenError::TooNew {
                        path,
                        written_by,
                        found: version,
                        oldest_compatible,
                        known,
                    });
                }
            }
        }
    }
    let last = applied.last().map_or(Ok(0), |row| row.try_get("version")).map_err(outer)?;
    for migration in ALL.iter().filter(|migration| migration.version > last) {
        apply(db, migration).await.map_err(|source| OpenError::Migrate {
            version: migration.version,
            name: migration.name,
            source,
        })?;
    }
    Ok(())
}

async fn apply(connection: &mut Connection, migration: &Migration) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(db::BEGIN).execute(&mut *connection).await?;
    sqlx::raw_sql(migration.sql).execute(&mut *connection).await?;
    sqlx::query("INSERT INTO schema_migrations VALUES ($1, $2, $3, $4, $5)")
        .bind(migration.version)
        .bind(migration.name)
        .bind(checksum_of(migration))
        .bind(OLDEST_COMPATIBLE)
        .bind(env!("CARGO_PKG_VERSION"))
        .execute(&mut *connection)
        .await?;
    sqlx::raw_sql("COMMIT").execute(connection).await?;
    Ok(())
}

fn checksum_of(migration: &Migration) -> String {
    blake3::hash(migration.sql.as_bytes()).to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A migration that was released is history: correct it by another one.
    #[test]
    fn migrations_only_append() {
        let committed = include_str!("../migrations/checksums.txt");
        let now: String =
            ALL.iter().map(|m| format!("{:04}_{} {}\n", m.version, m.name, checksum_of(m))).collect();
        assert!(now.starts_with(committed), "a committed migration was changed; append one instead:\n{now}");
        assert_eq!(now, committed, "append the new line to migrations/checksums.txt");
    }
}
