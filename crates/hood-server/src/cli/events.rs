//! `fumehood events`: what happened to an evaluation, in order.

use clap::Args as ClapArgs;
use hood_client::{Client, Heard};
use hood_wire::api::{Building, Event, EventList, EventType};

use super::connect::{Connection, FOLLOWING, Need};
use super::exit::Exit;
use super::failure::Failure;
use super::global::Global;
use super::output::{self, Format};
use super::terminal::Text;
use super::words;

const EXAMPLES: &str = "\
Examples:
  fumehood events ID
  fumehood events ID --follow -o json      one JSON document a line, as they happen";

/// Show what happened to an evaluation.
#[derive(Debug, ClapArgs)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The evaluation's id.
    id: String,
    /// Go on until it ends.
    #[arg(short, long)]
    follow: bool,
    /// How to print them.
    #[arg(short = 'o', long, value_name = "FORMAT", default_value = "text")]
    output: Format,
}

pub(super) async fn execute(args: &Args, global: &Global) -> Result<Exit, Failure> {
    let need = if args.follow { Need::Work } else { Need::Look };
    let connection = Connection::open(global, need).await?;
    let client = connection.client.with_retry(FOLLOWING);
    let printed = match args.follow {
        true => follow(args, &client).await,
        false => print(args, &client).await,
    };
    connection.close(printed).await
}

async fn follow(args: &Args, client: &Client) -> Result<Exit, Failure> {
    let mut events = client.follow_events(&args.id, 0);
    let mut told = String::new();
    while let Some(heard) = events.hear().await? {
        match (args.output, heard) {
            (Format::Json, Heard::Event(event)) => output::json_line(&event)?,
            (Format::Text, Heard::Event(event)) => output::text(&line(&event))?,
            (Format::Text, Heard::Building(building)) => {
                let text = news(&building);
                // It may have gone on by less than can be said.
                if text != told {
                    output::text(&text)?;
                }
                told = text;
                continue;
            }
            // What comes here is one kind of document; news are in `env inspect -o json`.
            (Format::Json, Heard::Building(_)) => continue,
        };
    }
    Ok(Exit::DONE)
}

async fn print(args: &Args, client: &Client) -> Result<Exit, Failure> {
    let mut items: Vec<Event> = Vec::new();
    let mut cursor = None;
    loop {
        let page = client.events(&args.id, cursor.as_deref()).await?;
        items.extend(page.items);
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    match args.output {
        Format::Json => output::json(&EventList { items, next_cursor: None }),
        Format::Text => {
            let lines: Vec<String> = items.iter().map(line).collect();
            output::text(&lines.join("\n"))
        }
    }
}

/// Without a number: it is no event.
fn news(building: &Building) -> String {
    let Building { environment, progress } = building;
    let percent = progress.percent.map(|percent| format!(", {percent} %")).unwrap_or_default();
    format!("     building `{}`: {}{percent}", Text::line(environment), Text::line(&progress.stage))
}

fn line(event: &Event) -> String {
    let at = Text::line(&event.at);
    let what = match event.kind {
        EventType::Submitted => "submitted".to_owned(),
        EventType::AttemptStarted => format!("attempt {} started", event.attempt.unwrap_or(0)),
        EventType::Started => "the program started".to_owned(),
        EventType::RetryScheduled => {
            let after = event.not_before.as_deref().map(Text::line).unwrap_or_default();
            format!("attempt {} was lost; the next begins after {after}", event.attempt.unwrap_or(0))
        }
        EventType::Finished => {
            format!("finished: {}", event.verdict.map_or("no verdict", words::verdict))
        }
    };
    format!("{:>3}  {at}  {:<12}  {what}", event.number, words::state(event.state))
}
