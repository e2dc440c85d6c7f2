//! Migrations only append. What was applied is remembered with its checksum, and a database that
//! came from elsewhere, or from a newer program that this one cannot work with, is refused.

use std::time::Duration;

use crate::db::{self, Connection, DatabaseUrl, Row, query};
use crate::error::OpenError;
use crate::rows::get;

struct Migration {
    version: i64,
    name: &'static str,
    sqlite: &'static str,
    postgres: &'static str,
    /// The oldest schema whose programs can work with what this one leaves. Raised by a migration
    /// that takes something away from them.
    oldest_compatible: i64,
}

/// One text for both engines.
macro_rules! portable {
    ($version:literal, $name:literal, $file:literal, $oldest_compatible:literal) => {
        Migration {
            version: $version,
            name: $name,
            sqlite: include_str!(concat!("../migrations/", $file)),
            postgres: include_str!(concat!("../migrations/", $file)),
            oldest_compatible: $oldest_compatible,
        }
    };
}

/// For what only a shared server has: users, their rights, its vacuum.
macro_rules! on_postgres {
    ($version:literal, $name:literal, $file:literal, $oldest_compatible:literal) => {
        Migration {
            version: $version,
            name: $name,
            sqlite: "",
            postgres: include_str!(concat!("../migrations/", $file)),
            oldest_compatible: $oldest_compatible,
        }
    };
}

const ALL: &[Migration] = &[
    portable!(1, "initial", "0001_initial.sql", 1),
    portable!(2, "blobs", "0002_blobs.sql", 1),
    portable!(3, "sharded_depths", "0003_sharded_depths.sql", 3),
    portable!(4, "requeues_and_deliveries", "0004_requeues_and_deliveries.sql", 3),
    on_postgres!(5, "roles", "0005_roles.postgres.sql", 3),
    on_postgres!(6, "notifier", "0006_notifier.postgres.sql", 3),
    portable!(7, "builds", "0007_builds.sql", 3),
    portable!(8, "archive", "0008_archive.sql", 3),
    on_postgres!(9, "archive_rights", "0009_archive_rights.postgres.sql", 3),
    on_postgres!(10, "vacuum", "0010_vacuum.postgres.sql", 3),
    portable!(11, "oldest", "0011_oldest.sql", 3),
    portable!(12, "inputs", "0012_inputs.sql", 3),
    on_postgres!(13, "input_rights", "0013_input_rights.postgres.sql", 3),
    on_postgres!(14, "living_rows", "0014_living_rows.postgres.sql", 3),
    on_postgres!(15, "api_rights", "0015_api_rights.postgres.sql", 3),
];

/// A migration that is still to be applied, or was just now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    pub version: i64,
    pub name: &'static str,
    pub sql: &'static str,
}

/// What a server's schema lacks. Nothing is changed.
pub async fn pending_on(url: &DatabaseUrl) -> Result<Vec<Step>, OpenError> {
    let at = url.to_string();
    let mut connection = connect(url).await?;
    steps(&mut Connection::Postgres(&mut connection), &at).await
}

/// What was applied just now. Until this is dropped nobody else migrates, so that what goes with it is
/// done once, too.
#[derive(Debug)]
pub struct Migrated {
    pub steps: Vec<Step>,
    _turn: sqlx::PgConnection,
}

/// Applies what a server's schema lacks. Of several who do so at once, the others wait.
pub async fn migrate(url: &DatabaseUrl) -> Result<Migrated, OpenError> {
    let at = url.to_string();
    let mut turn = connect(url).await?;
    let db = &mut Connection::Postgres(&mut turn);
    lock(db, &at).await?;
    let steps = steps(db, &at).await?;
    apply_all(db, &at).await?;
    Ok(Migrated { steps, _turn: turn })
}

async fn connect(url: &DatabaseUrl) -> Result<sqlx::PgConnection, OpenError> {
    let outer = |source| OpenError::Connect { at: url.to_string(), source };
    db::postgres::connect_writer(url).await.map_err(outer)
}

async fn steps(db: &mut Connection<'_>, at: &str) -> Result<Vec<Step>, OpenError> {
    let pending = pending(db, at).await?;
    let step = |m: &&Migration| Step { version: m.version, name: m.name, sql: text(m, db) };
    Ok(pending.iter().map(step).collect())
}

/// Whether a program brings the schema up to date itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duty {
    /// Where it owns the schema.
    Migrate,
    /// Where another one does, and this one may only look.
    Check,
}

/// Of all who migrate at once one does: "fume", and nothing.
const LOCK: i64 = 0x6675_6d65_0000_0000;

/// Leaves a schema that this program can work with, or says why there is none.
pub(crate) async fn ensure(db: &mut Connection<'_>, at: &str, duty: Duty) -> Result<(), OpenError> {
    let pending = pending(db, at).await?;
    let Some(first) = pending.first() else { return Ok(()) };
    if duty == Duty::Check {
        return Err(OpenError::NotMigrated { at: at.to_owned(), found: first.version - 1, known: known() });
    }
    if !db.is_shared() {
        return apply_all(db, at).await;
    }
    lock(db, at).await?;
    let migrated = apply_all(db, at).await;
    let unlock = query("SELECT pg_advisory_unlock($1)").bind(LOCK).execute(db).await;
    unlock.map_err(|source| OpenError::Connect { at: at.to_owned(), source })?;
    migrated
}

/// Waits until nobody else migrates; the session's until it ends.
async fn lock(db: &mut Connection<'_>, at: &str) -> Result<(), OpenError> {
    let locked = query("SELECT pg_advisory_lock($1)").bind(LOCK).execute(db).await;
    locked.map(drop).map_err(|source| OpenError::Connect { at: at.to_owned(), source })
}

async fn apply_all(db: &mut Connection<'_>, at: &str) -> Result<(), OpenError> {
    // Looked at again: another one may have been at it before the lock was ours.
    for migration in pending(db, at).await? {
        apply(db, migration).await.map_err(|source| OpenError::Migrate {
            version: migration.version,
            name: migration.name,
            source,
        })?;
    }
    Ok(())
}

pub(crate) fn known() -> i64 {
    ALL.last().map_or(0, |last| last.version)
}

/// What is still to be applied, in order.
async fn pending(db: &mut Connection<'_>, at: &str) -> Result<Vec<&'static Migration>, OpenError> {
    let mut last = 0;
    for row in applied(db).await.map_err(|source| OpenError::Connect { at: at.to_owned(), source })? {
        last = accept(db, at, &row)?;
    }
    Ok(ALL.iter().filter(|migration| migration.version > last).collect())
}

async fn applied(db: &mut Connection<'_>) -> Result<Vec<Row>, sqlx::Error> {
    let there = match db {
        Connection::Sqlite(_) => "SELECT name FROM sqlite_schema WHERE name = 'schema_migrations'",
        Connection::Postgres(_) => {
            "SELECT relname FROM pg_catalog.pg_class WHERE oid = to_regclass('schema_migrations')"
        }
    };
    if query(there).fetch_optional(db).await?.is_none() {
        return Ok(Vec::new());
    }
    const SQL: &str =
        "SELECT version, checksum, oldest_compatible, written_by FROM schema_migrations ORDER BY version";
    query(SQL).fetch_all(db).await
}

/// The version of an applied migration that we can live with.
fn accept(db: &Connection<'_>, at: &str, row: &Row) -> Result<i64, OpenError> {
    let (at, found) = (at.to_owned(), get::<i64>(row, "version")?);
    match ALL.iter().find(|migration| migration.version == found) {
        Some(migration) if checksum_of(text(migration, db)) == get::<String>(row, "checksum")? => {}
        Some(_) => return Err(OpenError::MigrationChanged { at, version: found }),
        None => {
            let oldest_compatible: i64 = get(row, "oldest_compatible")?;
            if oldest_compatible > known() {
                let written_by = get(row, "written_by")?;
                return Err(OpenError::TooNew { at, written_by, found, oldest_compatible, known: known() });
            }
        }
    }
    Ok(found)
}

/// Who works while this migrates takes locks in an order of its own: one of the two that wait for each
/// other is broken off, and that may be the migration, which has changed nothing then.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(200);

async fn apply(db: &mut Connection<'_>, migration: &Migration) -> Result<(), sqlx::Error> {
    let mut tried = 1;
    loop {
        match try_to_apply(db, migration).await {
            Err(error) if tried < TRIES && db::postgres::is_clash(&error) => {
                tracing::info!(version = migration.version, error = %error, "a migration is tried once more");
                tokio::time::sleep(PAUSE * tried).await;
                tried += 1;
            }
            done => return done,
        }
    }
}

async fn try_to_apply(db: &mut Connection<'_>, migration: &Migration) -> Result<(), sqlx::Error> {
    db.command(if db.is_shared() { db::postgres::BEGIN } else { db::sqlite::BEGIN }).await?;
    let applied = apply_within(db, migration).await;
    db.command(if applied.is_ok() { "COMMIT" } else { "ROLLBACK" }).await?;
    applied
}

async fn apply_within(db: &mut Connection<'_>, migration: &Migration) -> Result<(), sqlx::Error> {
    db.script(
        "CREATE TABLE IF NOT EXISTS schema_migrations (version BIGINT NOT NULL PRIMARY KEY, name TEXT NOT NULL, \
         checksum TEXT NOT NULL, oldest_compatible BIGINT NOT NULL, written_by TEXT NOT NULL)",
    )
    .await?;
    let sql = text(migration, db);
    db.script(sql).await?;
    query("INSERT INTO schema_migrations VALUES ($1, $2, $3, $4, $5)")
        .bind(migration.version)
        .bind(migration.name)
        .bind(checksum_of(sql))
        .bind(migration.oldest_compatible)
        .bind(env!("CARGO_PKG_VERSION"))
        .execute(db)
        .await
        .map(drop)
}

const fn text(migration: &Migration, db: &Connection<'_>) -> &'static str {
    match db {
        Connection::Sqlite(_) => migration.sqlite,
        Connection::Postgres(_) => migration.postgres,
    }
}

fn checksum_of(sql: &str) -> String {
    blake3::hash(sql.as_bytes()).to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A migration that was released is history: correct it by another one.
    #[test]
    fn migrations_only_append() {
        let committed = include_str!("../migrations/checksums.txt");
        let now: String = ALL
            .iter()
            .flat_map(|m| {
                let mut texts = vec![(m.sqlite, ""), (m.postgres, " on postgres")];
                texts.dedup_by_key(|(sql, _)| *sql);
                texts.retain(|(sql, _)| !sql.is_empty());
                let line = |(sql, on): (&str, &str)| {
                    format!("{:04}_{}{on} {}\n", m.version, m.name, checksum_of(sql))
                };
                texts.into_iter().map(line).collect::<Vec<_>>()
            })
            .collect();
        assert!(now.starts_with(committed), "a committed migration was changed; append one instead:\n{now}");
        assert_eq!(now, committed, "append the new line to migrations/checksums.txt");
    }
}
