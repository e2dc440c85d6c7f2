//! `fumehood cancel`: ends evaluations.

use std::time::Duration;

use clap::Args as ClapArgs;

use super::connect::{Connection, Need};
use super::exit::Exit;
use super::failure::{Each, Failure};
use super::global::Global;
use super::output::{self, Format};
use super::{units, words};

const EXAMPLES: &str = "\
Examples:
  fumehood cancel ID
  fumehood cancel ID --grace 0s       kill at once
  fumehood list --state queued -o json | jq -r .items[].id | xargs fumehood cancel";

/// Cancel evaluations, at whatever stage they are. What has ended stays as it is.
#[derive(Debug, ClapArgs)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The evaluations' ids.
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
    /// Time between SIGTERM and the kill, in place of the evaluation's own.
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    grace: Option<Duration>,
    /// How to print what they were when the cancel was stored.
    #[arg(short = 'o', long, value_name = "FORMAT", default_value = "text")]
    output: Format,
}

pub(super) async fn execute(args: &Args, global: &Global) -> Result<Exit, Failure> {
    let connection = Connection::open(global, Need::Look).await?;
    let cancelled = async {
        let mut each = Each::default();
        for id in &args.ids {
            let cancelled = connection.client.cancel(id, args.grace).await;
            let Some(evaluation) = each.take(id, cancelled)? else { continue };
            match args.output {
                Format::Json => output::json_line(&evaluation)?,
                Format::Text => {
                    let note = if evaluation.state.is_terminal() { "" } else { ", cancel asked for" };
                    output::text(&format!("{}  {}{note}", evaluation.id, words::state(evaluation.state)))?
                }
            };
        }
        Ok(each.exit())
    }
    .await;
    connection.close(cancelled).await
}
