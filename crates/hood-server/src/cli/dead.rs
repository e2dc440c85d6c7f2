//! `fumehood dead`: evaluations that infrastructure failed, and another life for them.

use std::collections::BTreeMap;

use clap::{Args as ClapArgs, Subcommand};
use comfy_table::Cell;
use hood_client::{Client, DeadQuery};
use hood_wire::api::{
    AttemptSummary, DeadEvaluation, DeadList, Requeue, RequeueFilter, RequeueOutcome, RequeueReport,
    RequeueRequest,
};

use super::connect::{Connection, Need, warn};
use super::exit::Exit;
use super::failure::Failure;
use super::global::{Global, pair};
use super::list::since;
use super::output::{self, Format};
use super::pages;
use super::terminal::Text;

const EXAMPLES: &str = "\
Examples:
  fumehood dead list
  fumehood dead list --label course=7 -o json | jq -r .items[].id
  fumehood dead requeue ID ID
  fumehood dead requeue --label course=7 --since 1d --dry-run
  fumehood dead requeue --label course=7 --since 1d --expect 12";

/// See what infrastructure failed for good, with every attempt, and give it another life.
#[derive(Debug, ClapArgs)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List them, newest first.
    List(List),
    /// Submit their requests again, each as a new evaluation; what was requeued before is not again.
    Requeue(RequeueArgs),
}

/// Which of them.
#[derive(Debug, ClapArgs)]
struct Which {
    /// Only with this label; repeated, with all of them.
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = pair)]
    labels: Vec<(String, String)>,
    /// Only those accepted since: RFC 3339, or how long ago, as in 30m or 2d.
    #[arg(long, value_name = "WHEN", value_parser = since)]
    since: Option<String>,
    /// Only those of this batch.
    #[arg(long, value_name = "ID")]
    batch: Option<String>,
}

#[derive(Debug, ClapArgs)]
struct List {
    #[command(flatten)]
    which: Which,
    /// Also those that were requeued.
    #[arg(long)]
    all: bool,
    /// How many at most.
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// How to print them.
    #[arg(short = 'o', long, value_name = "FORMAT", default_value = "text")]
    output: Format,
}

#[derive(Debug, ClapArgs)]
struct RequeueArgs {
    /// The evaluations' ids; without any, all that the filters match.
    #[arg(value_name = "ID", conflicts_with_all = ["labels", "since", "batch", "expect"])]
    ids: Vec<String>,
    #[command(flatten)]
    which: Which,
    /// How many the filters are to match; where it is another number nothing is done.
    #[arg(long, value_name = "N")]
    expect: Option<u64>,
    /// Say what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,
    /// How to print what came of it.
    #[arg(short = 'o', long, value_name = "FORMAT", default_value = "text")]
    output: Format,
}

pub(super) async fn execute(args: &Args, global: &Global) -> Result<Exit, Failure> {
    let connection = Connection::open(global, Need::Look).await?;
    match &args.command {
        Command::List(args) => {
            let list = collect(&connection.client, args).await;
            show(&connection.close(list).await?, args.output)
        }
        Command::Requeue(args) => {
            let report = requeue(&connection.client, args).await;
            report_on(&connection.close(report).await?, args.output)
        }
    }
}

async fn collect(client: &Client, args: &List) -> Result<DeadList, Failure> {
    let wanted = args.limit as usize;
    let mut query = DeadQuery {
        labels: args.which.labels.clone(),
        since: args.which.since.clone(),
        batch: args.which.batch.clone(),
        all: args.all,
        ..DeadQuery::default()
    };
    let (items, next_cursor) = pages::collect(wanted, async |cursor, limit| {
        (query.cursor, query.limit) = (cursor, Some(limit));
        client.dead(&query).await.map(|page| (page.items, page.next_cursor))
    })
    .await?;
    Ok(DeadList { items, next_cursor })
}

fn show(list: &DeadList, format: Format) -> Result<Exit, Failure> {
    if format == Format::Json {
        return output::json(list);
    }
    let rows = list.items.iter().flat_map(rows).collect();
    output::text(&output::table(&["ID", "CREATED", "ATTEMPT", "LOST", "REASON"], rows, &[2]))?;
    if list.next_cursor.is_some() {
        warn(&format!("there are more than these {}; -n N shows them", list.items.len()));
    }
    Ok(Exit::DONE)
}

/// One row for each attempt, so that every one of them is seen; one where there was none.
fn rows(dead: &DeadEvaluation) -> Vec<Vec<Cell>> {
    let row = |number: String, kind: &str, reason: &str| {
        let again = dead.requeued_as.as_ref().map(|again| format!(" (requeued as {again})"));
        vec![
            Cell::new(Text::line(&dead.id)),
            Cell::new(Text::line(&dead.created_at)),
            Cell::new(number),
            Cell::new(Text::line(kind)),
            Cell::new(Text::line(&format!("{reason}{}", again.unwrap_or_default()))),
        ]
    };
    if dead.attempts.is_empty() {
        let refusal = dead.evidence.as_ref().and_then(|evidence| evidence.refusal.as_ref());
        let reason = refusal.map_or("", |refusal| refusal.reason.as_str());
        return vec![row("-".to_owned(), "-", reason)];
    }
    let of = |attempt: &AttemptSummary| match &attempt.lost {
        Some(lost) => row(attempt.number.to_string(), &lost.kind, &lost.reason),
        None => row(attempt.number.to_string(), "-", ""),
    };
    dead.attempts.iter().map(of).collect()
}

async fn requeue(client: &Client, args: &RequeueArgs) -> Result<RequeueReport, Failure> {
    let Which { labels, since, batch } = &args.which;
    let by_filter = args.ids.is_empty();
    if by_filter && labels.is_empty() && since.is_none() && batch.is_none() {
        return Err(Failure::new("name the evaluations, or say which by --label, --since or --batch"));
    }
    if by_filter && args.expect.is_none() && !args.dry_run {
        return Err(Failure::new("a filter needs --expect N, so that nothing else is begun than you mean")
            .next("see how many it matches: the same with --dry-run"));
    }
    let filter = RequeueFilter {
        labels: BTreeMap::from_iter(labels.iter().cloned()),
        since: since.clone(),
        batch: batch.clone(),
    };
    let request = RequeueRequest {
        ids: args.ids.clone(),
        filter: by_filter.then_some(filter),
        expect: args.expect,
        dry_run: args.dry_run,
    };
    Ok(client.requeue(&request).await?)
}

fn report_on(report: &RequeueReport, format: Format) -> Result<Exit, Failure> {
    let fine = |item: &Requeue| {
        matches!(
            item.outcome,
            RequeueOutcome::Requeued | RequeueOutcome::WouldRequeue | RequeueOutcome::AlreadyRequeued
        )
    };
    let exit = if report.items.iter().all(fine) { Exit::DONE } else { Exit::NO };
    if format == Format::Json {
        output::json(report)?;
        return Ok(exit);
    }
    let line = |item: &Requeue| {
        let again = item.requeued_as.as_deref().unwrap_or("-");
        format!("{}  {}  {again}", item.id, outcome(item.outcome))
    };
    let mut lines: Vec<String> = report.items.iter().map(line).collect();
    if report.dry_run {
        lines.push(format!("{} match; nothing was done. To do it: --expect {0}", report.matched));
    }
    output::text(&lines.join("\n"))?;
    Ok(exit)
}

const fn outcome(outcome: RequeueOutcome) -> &'static str {
    match outcome {
        RequeueOutcome::Requeued => "requeued as",
        RequeueOutcome::WouldRequeue => "would be requeued",
        RequeueOutcome::AlreadyRequeued => "was requeued before as",
        RequeueOutcome::NotDead => "has not ended as an infrastructure error",
        RequeueOutcome::Archived => "is archived: submit it again",
        RequeueOutcome::NotFound => "is not there",
    }
}
