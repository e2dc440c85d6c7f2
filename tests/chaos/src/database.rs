//! The database of a run: a witness inside it that notes every lease, and the ways to take it away.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use hood_testkit::{Location, PostgresOptions};

use crate::history::{Earlier, LeaseTaken};

/// Notes a lease whenever a row's token changes.
const SQLITE_WITNESS: &str = "
CREATE TABLE chaos_leases (seq INTEGER PRIMARY KEY, evaluation TEXT, at INTEGER, worker TEXT, token INTEGER,
    old_worker TEXT, old_token INTEGER, old_expires INTEGER);
CREATE TRIGGER chaos_lease AFTER UPDATE OF lease_token ON evaluations WHEN NEW.lease_token <> OLD.lease_token
BEGIN
    INSERT INTO chaos_leases (evaluation, at, worker, token, old_worker, old_token, old_expires)
    VALUES (lower(hex(NEW.id)), CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER), NEW.worker,
        NEW.lease_token, OLD.worker, OLD.lease_token, OLD.lease_expires_at);
END;
";

const POSTGRES_WITNESS: &str = "
CREATE TABLE chaos_leases (seq BIGSERIAL, evaluation UUID, at BIGINT, worker TEXT, token BIGINT,
    old_worker TEXT, old_token BIGINT, old_expires BIGINT);
CREATE FUNCTION chaos_lease() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    INSERT INTO public.chaos_leases (evaluation, at, worker, token, old_worker, old_token, old_expires)
    VALUES (NEW.id, (extract(epoch FROM clock_timestamp()) * 1000000)::BIGINT, NEW.worker, NEW.lease_token,
        OLD.worker, OLD.lease_token, OLD.lease_expires_at);
    RETURN NULL;
END $$;
CREATE TRIGGER chaos_lease AFTER UPDATE OF lease_token ON evaluations FOR EACH ROW
    WHEN (NEW.lease_token <> OLD.lease_token) EXECUTE FUNCTION chaos_lease();
";

const LEASES: &str = "SELECT evaluation, at, worker, token, old_worker, old_token, old_expires \
     FROM chaos_leases ORDER BY seq";

/// SQLite is spoken to through the interpreter that the sandbox needs anyway.
const SQLITE_RUN: &str = "
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)
if sys.argv[2].startswith('SELECT'):
    for row in db.execute(sys.argv[2]):
        print('|'.join('' if value is None else str(value) for value in row))
else:
    db.executescript(sys.argv[2])
";

/// Holds the write lock until its input ends.
const SQLITE_HOLD: &str = "
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)
db.execute('BEGIN IMMEDIATE')
print('held', flush=True)
sys.stdin.read()
db.execute('ROLLBACK')
";

/// After which a frozen database is taken to stand still.
const SETTLED: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub(crate) enum Database {
    Sqlite { file: PathBuf },
    Postgres(Postgres),
}

/// A cluster of our own, and the database in it.
#[derive(Clone, Debug)]
pub(crate) struct Postgres {
    pub(crate) cluster: Arc<hood_testkit::Postgres>,
    pub(crate) name: String,
}

impl Postgres {
    /// Starts a cluster and makes a database in it; answers where it is, too.
    pub(crate) async fn start(location: Location) -> anyhow::Result<(Self, String)> {
        blocking(|| {
            let cluster = hood_testkit::Postgres::start_at(PostgresOptions::default(), location)?;
            let url = cluster.create_database()?;
            let name = url.rsplit('/').next().unwrap_or_default().to_owned();
            Ok((Self { cluster: Arc::new(cluster), name }, url))
        })
        .await
        .context("start PostgreSQL")
    }

    async fn with(
        &self,
        act: impl FnOnce(&hood_testkit::Postgres) -> io::Result<()> + Send + 'static,
    ) -> anyhow::Result<()> {
        let cluster = Arc::clone(&self.cluster);
        blocking(move || act(&cluster)).await.context("PostgreSQL")
    }
}

/// Away from the one thread that everything else runs on.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    Ok(tokio::task::spawn_blocking(work).await??)
}

/// A database that answers nobody's writes. [`Stall::end`] lets it go on.
#[derive(Debug)]
pub(crate) enum Stall {
    Sqlite(Child),
    Postgres(Postgres),
}

impl Database {
    pub(crate) fn install_witness(&self) -> anyhow::Result<()> {
        match self {
            Self::Sqlite { file } => sqlite(file, SQLITE_WITNESS).map(drop),
            Self::Postgres(Postgres { cluster, name }) => {
                cluster.sql(name, POSTGRES_WITNESS).map(drop).map_err(Into::into)
            }
        }
        .context("install the witness of leases")
    }

    pub(crate) fn leases(&self) -> anyhow::Result<Vec<LeaseTaken>> {
        let text = match self {
            Self::Sqlite { file } => sqlite(file, LEASES),
            Self::Postgres(Postgres { cluster, name }) => cluster.sql(name, LEASES).map_err(Into::into),
        };
        text.context("read the leases")?.lines().map(lease).collect()
    }

    /// Whether there is a process that can be struck.
    pub(crate) const fn is_a_victim(&self) -> bool {
        match self {
            Self::Sqlite { .. } => false,
            Self::Postgres(_) => true,
        }
    }

    pub(crate) async fn kill(&self) -> anyhow::Result<()> {
        match self {
            Self::Sqlite { .. } => bail!("SQLite has no process"),
            Self::Postgres(postgres) => postgres.with(hood_testkit::Postgres::kill9).await,
        }
    }

    pub(crate) async fn restart(&self) -> anyhow::Result<()> {
        match self {
            Self::Sqlite { .. } => bail!("SQLite has no process"),
            Self::Postgres(postgres) => postgres.with(hood_testkit::Postgres::restart).await,
        }
    }

    /// Lets nothing more be written until the stall ends.
    pub(crate) async fn stall(&self) -> anyhow::Result<Stall> {
        match self {
            Self::Sqlite { file } => {
                let mut holder = Command::new("python3")
                    .args(["-I", "-c", SQLITE_HOLD])
                    .arg(file)
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .spawn()
                    .context("hold the database")?;
                let mut said = holder.stdout.take().context("a pipe")?;
                let held = tokio::task::spawn_blocking(move || {
                    let mut word = [0; 4];
                    std::io::Read::read_exact(&mut said, &mut word)
                });
                held.await?.context("hold the database")?;
                Ok(Stall::Sqlite(holder))
            }
            Self::Postgres(postgres) => {
                postgres.with(hood_testkit::Postgres::freeze).await?;
                tokio::time::sleep(SETTLED).await;
                Ok(Stall::Postgres(postgres.clone()))
            }
        }
    }
}

impl Stall {
    pub(crate) async fn end(self) -> anyhow::Result<()> {
        match self {
            Self::Postgres(postgres) => postgres.with(hood_testkit::Postgres::thaw).await?,
            Self::Sqlite(mut holder) => {
                drop(holder.stdin.take());
                tokio::task::spawn_blocking(move || holder.wait()).await?.context("let the database go")?;
            }
        }
        Ok(())
    }
}

fn sqlite(file: &Path, sql: &str) -> anyhow::Result<String> {
    let output = Command::new("python3").args(["-I", "-c", SQLITE_RUN]).arg(file).arg(sql).output()?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// A row, its columns apart by `|`.
fn lease(row: &str) -> anyhow::Result<LeaseTaken> {
    let columns: Vec<&str> = row.split('|').collect();
    let [evaluation, at, worker, token, old_worker, old_token, old_expires] = columns[..] else {
        bail!("`{row}` is no lease");
    };
    let earlier = match old_expires {
        "" => None,
        expires => Some(Earlier {
            worker: old_worker.to_owned(),
            token: old_token.parse().context("a token")?,
            expires_at: expires.parse().context("a moment")?,
        }),
    };
    let hex: String = evaluation.chars().filter(|letter| *letter != '-').collect();
    Ok(LeaseTaken {
        evaluation: format!("ev_{hex}"),
        at: at.parse().context("a moment")?,
        worker: worker.to_owned(),
        token: token.parse().context("a token")?,
        earlier,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read() {
        let first = lease("0a0b|100|worker-1|1||0|").expect("a lease");
        assert_eq!((first.evaluation.as_str(), first.token, first.earlier), ("ev_0a0b", 1, None));
        let second = lease("0a-0b|200|worker-2|2|worker-1|1|150").expect("a lease");
        let earlier = Earlier { worker: "worker-1".to_owned(), token: 1, expires_at: 150 };
        assert_eq!((second.evaluation.as_str(), second.earlier), ("ev_0a0b", Some(earlier)));
        assert!(lease("0a0b|100").is_err());
    }
}
