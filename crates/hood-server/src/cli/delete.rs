//! `fumehood delete`: removes evaluations that have ended.

use clap::Args as ClapArgs;

use super::connect::{Connection, Need};
use super::exit::Exit;
use super::failure::{Each, Failure};
use super::global::Global;

const EXAMPLES: &str = "\
Examples:
  fumehood delete ID
  fumehood list --since 1d --all -o json | jq -r .items[].id | xargs fumehood delete";

/// Delete evaluations that have ended, with their output.
#[derive(Debug, ClapArgs)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The evaluations' ids.
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
}

pub(super) async fn execute(args: &Args, global: &Global) -> Result<Exit, Failure> {
    let connection = Connection::open(global, Need::Look).await?;
    let deleted = async {
        let mut each = Each::default();
        for id in &args.ids {
            each.take(id, connection.client.delete(id).await)?;
        }
        Ok(each.exit())
    }
    .await;
    connection.close(deleted).await
}
