//! `fumehood list`: which evaluations there are.

use clap::{Args as ClapArgs, ValueEnum};
use comfy_table::Cell;
use hood_client::{Client, ListQuery};
use hood_wire::api::{EvaluationList, EvaluationSummary, State};

use super::connect::{Connection, Need, warn};
use super::exit::Exit;
use super::failure::Failure;
use super::global::{Global, pair};
use super::output::{self, Format};
use super::terminal::{Style, Text};
use super::{pages, units, words};

const EXAMPLES: &str = "\
Examples:
  fumehood list
  fumehood list --state failed --since 1h
  fumehood list --label course=7 --label sheet=3 --all -o json";

/// Evaluations with --all: beyond this a person wants a narrower question.
const ALL_MAX: usize = 100_000;

/// List evaluations, newest first.
#[derive(Debug, ClapArgs)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Only in this state; may be repeated.
    #[arg(long, value_name = "STATE")]
    state: Vec<StateArg>,
    /// Only with this label; repeated, with all of them.
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = pair)]
    labels: Vec<(String, String)>,
    /// Only those accepted since: RFC 3339, or how long ago, as in 30m or 2d.
    #[arg(long, value_name = "WHEN", value_parser = since)]
    since: Option<String>,
    /// Only those of this batch.
    #[arg(long, value_name = "ID")]
    batch: Option<String>,
    /// How many at most.
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// All that there are.
    #[arg(long, conflicts_with = "limit")]
    all: bool,
    /// How to print them.
    #[arg(short = 'o', long, value_name = "FORMAT", default_value = "text")]
    output: Format,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum StateArg {
    Queued,
    Provisioning,
    Running,
    Succeeded,
    Failed,
    Cancelled,
}

impl From<StateArg> for State {
    fn from(state: StateArg) -> Self {
        match state {
            StateArg::Queued => Self::Queued,
            StateArg::Provisioning => Self::Provisioning,
            StateArg::Running => Self::Running,
            StateArg::Succeeded => Self::Succeeded,
            StateArg::Failed => Self::Failed,
            StateArg::Cancelled => Self::Cancelled,
        }
    }
}

pub(super) fn since(text: &str) -> Result<String, String> {
    if let Ok(ago) = units::duration(text) {
        let ago = jiff::SignedDuration::try_from(ago).map_err(|error| error.to_string())?;
        let then = jiff::Timestamp::now().checked_sub(ago).map_err(|error| error.to_string())?;
        return Ok(then.to_string());
    }
    text.parse::<jiff::Timestamp>()
        .map(|at| at.to_string())
        .map_err(|_| "write a time such as 2026-01-31T12:00:00Z, or how long ago, as in 30m or 2d".to_owned())
}

pub(super) async fn execute(args: &Args, global: &Global) -> Result<Exit, Failure> {
    let connection = Connection::open(global, Need::Look).await?;
    let list = collect(&connection.client, args).await;
    let list = connection.close(list).await?;
    if args.output == Format::Json {
        return output::json(&list);
    }
    let style = Style::stdout();
    let rows = list.items.iter().map(|item| row(item, style)).collect();
    let head = ["ID", "STATE", "VERDICT", "EXIT", "ENVIRONMENT", "CREATED", "LABELS"];
    output::text(&output::table(&head, rows, &[3]))?;
    if list.next_cursor.is_some() {
        warn(&format!("there are more than these {}; -n N or --all shows them", list.items.len()));
    }
    Ok(Exit::DONE)
}

async fn collect(client: &Client, args: &Args) -> Result<EvaluationList, Failure> {
    let wanted = if args.all { ALL_MAX } else { args.limit as usize };
    let mut query = ListQuery {
        states: args.state.iter().copied().map(State::from).collect(),
        labels: args.labels.clone(),
        since: args.since.clone(),
        batch: args.batch.clone(),
        ..ListQuery::default()
    };
    let (items, next_cursor) = pages::collect(wanted, async |cursor, limit| {
        (query.cursor, query.limit) = (cursor, Some(limit));
        client.list(&query).await.map(|page| (page.items, page.next_cursor))
    })
    .await?;
    Ok(EvaluationList { items, next_cursor })
}

fn row(item: &EvaluationSummary, style: Style) -> Vec<Cell> {
    let exit = match (item.exit_code, item.signal) {
        (Some(code), _) => code.to_string(),
        (None, Some(signal)) => words::signal(signal),
        (None, None) => "-".to_owned(),
    };
    let labels: Vec<String> =
        item.labels.iter().map(|(name, value)| Text::line(&format!("{name}={value}"))).collect();
    vec![
        Cell::new(Text::line(&item.id)),
        Cell::new(words::state(item.state)),
        item.verdict.map_or_else(|| Cell::new("-"), |verdict| words::cell(style, verdict)),
        Cell::new(exit),
        Cell::new(Text::line(&item.environment)),
        Cell::new(Text::line(&item.created_at)),
        Cell::new(labels.join(" ")),
    ]
}
