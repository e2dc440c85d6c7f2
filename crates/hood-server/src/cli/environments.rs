//! `fumehood env`: what code can run in.

use clap::{Args as ClapArgs, Subcommand};
use comfy_table::Cell;
use hood_wire::api::{Environment, EnvironmentState};

use super::connect::{Connection, Need};
use super::exit::Exit;
use super::failure::Failure;
use super::global::Global;
use super::output::{self, Format};
use super::terminal::{Style, Text};
use super::units;

const EXAMPLES: &str = "\
Examples:
  fumehood env list
  fumehood env get minimal -o json";

/// Show the environments that code can run in.
#[derive(Debug, ClapArgs)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// All of them.
    List {
        /// How to print them.
        #[arg(short = 'o', long, value_name = "FORMAT", default_value = "text")]
        output: Format,
    },
    /// One of them, with its packages.
    Get {
        /// Its name.
        name: String,
        /// How to print it.
        #[arg(short = 'o', long, value_name = "FORMAT", default_value = "text")]
        output: Format,
    },
}

pub(super) async fn execute(args: &Args, global: &Global) -> Result<Exit, Failure> {
    let connection = Connection::open(global, Need::Look).await?;
    let client = &connection.client;
    let printed = async {
        match &args.command {
            Command::List { output } => {
                let list = client.environments().await?;
                match output {
                    Format::Json => output::json(&list),
                    Format::Text => output::text(&table(&list.items)),
                }
            }
            Command::Get { name, output } => {
                let environment = client.environment(name).await?;
                match output {
                    Format::Json => output::json(&environment),
                    Format::Text => output::text(&describe(&environment)),
                }
            }
        }
    }
    .await;
    connection.close(printed).await
}

const fn state(state: EnvironmentState) -> &'static str {
    match state {
        EnvironmentState::NotBuilt => "not built",
        EnvironmentState::Building => "building",
        EnvironmentState::Ready => "ready",
        EnvironmentState::Failed => "failed",
    }
}

fn table(environments: &[Environment]) -> String {
    let rows = environments.iter().map(|environment| {
        let default = if environment.default { " (default)" } else { "" };
        vec![
            Cell::new(format!("{}{default}", Text::line(&environment.name))),
            Cell::new(state(environment.state)),
            Cell::new(environment.interpreter.as_deref().map_or_else(|| "-".to_owned(), Text::line)),
            Cell::new(environment.size_bytes.map_or_else(|| "-".to_owned(), units::show_bytes)),
            Cell::new(Text::line(&environment.description)),
        ]
    });
    output::table(&["NAME", "STATE", "INTERPRETER", "SIZE", "DESCRIPTION"], rows.collect(), &[3])
}

fn describe(environment: &Environment) -> String {
    let style = Style::stdout();
    let mut lines = Vec::new();
    let mut line = |name: &str, value: &str| {
        lines.push(format!("{} {}", style.dim(&format!("{name:12}")), Text::line(value)));
    };
    line("name", &environment.name);
    line("description", &environment.description);
    line("state", state(environment.state));
    line("base", &environment.base);
    for (name, value) in [
        ("error", &environment.error),
        ("digest", &environment.digest),
        ("interpreter", &environment.interpreter),
    ] {
        if let Some(value) = value {
            line(name, value);
        }
    }
    if let Some(bytes) = environment.size_bytes {
        line("size", &units::show_bytes(bytes));
    }
    line("classes", &environment.allowed_classes.join(", "));
    for package in &environment.packages {
        line("package", &format!("{} {}", package.name, package.version));
    }
    lines.join("\n")
}
