//! `fumehood migrate`: brings the schema of a PostgreSQL up to date, as the owner of the database.

use clap::Args as ClapArgs;
use hood_store::{DatabaseUrl, OpenError, Step};

use super::exit::Exit;
use super::failure::Failure;
use super::global::Global;
use super::output;
use crate::roles::key;

const EXAMPLES: &str = "\
Examples:
  FUMEHOOD_STORE_URL=postgres://owner@db:5432/fumehood fumehood migrate --data-dir /srv/fumehood/api
  fumehood migrate --dry-run";

/// Bring the database that store.url names up to date; run it as its owner, before newer roles start.
///
/// Roles that run apart never migrate: they wait until this was done. Two at once are safe. Where the
/// database holds no API key, the first one is made too, printed once, and kept in the data directory.
/// A SQLite database is brought up to date by whatever opens it.
#[derive(Debug, ClapArgs)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Print the statements that would be run, and change nothing.
    #[arg(long)]
    dry_run: bool,
}

pub(super) async fn execute(args: &Args, global: &Global) -> Result<Exit, Failure> {
    let loaded = global.load()?;
    let url = loaded.config.store.url.expose();
    if url.is_empty() {
        return output::text(
            "SQLite is brought up to date by whatever opens it: nothing to do\n(store.url is not set; for \
             PostgreSQL give --set store.url=… or FUMEHOOD_STORE_URL)",
        );
    }
    let url =
        DatabaseUrl::parse(url).map_err(|error| Failure::new("store.url cannot be used").because(error))?;
    let failed = |error: OpenError| {
        let away = matches!(error, OpenError::Connect { .. });
        let failure = Failure::new(format!("cannot migrate {url}")).because(error);
        if !away {
            return failure;
        }
        failure.next(
            "see with `psql` that the server answers there, that the database exists, and that user and password are \
             those of its owner",
        )
    };
    if args.dry_run {
        let steps = hood_store::pending_on(&url).await.map_err(failed)?;
        return told(&url, &steps, |Step { version, name, sql }| format!("-- {version} {name}\n{sql}"));
    }
    // Held until the key is made, too: of several who migrate a new database one makes it.
    let migrated = hood_store::migrate(&url).await.map_err(failed)?;
    told(&url, &migrated.steps, |Step { version, name, .. }| format!("applied {version} {name}"))?;
    let made = key::make_first(&loaded.config).await;
    let made = made.map_err(|error| Failure::new("no API key was made").because(error))?;
    let dir = loaded.config.data_dir.display();
    match made {
        Some(key) => output::text(&format!("API key {key}  (shown this once, kept in {dir}/token)")),
        None => Ok(Exit::DONE),
    }
}

fn told(url: &DatabaseUrl, steps: &[Step], line: impl Fn(&Step) -> String) -> Result<Exit, Failure> {
    if steps.is_empty() {
        return output::text(&format!("{url} is up to date"));
    }
    output::text(&steps.iter().map(line).collect::<Vec<_>>().join("\n"))
}
