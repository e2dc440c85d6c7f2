//! `fumehood env`: what code can run in.

mod build;
mod export;
mod import;
mod lock;
mod registry;
mod upkeep;

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};
use comfy_table::Cell;
use hood_dispatch::environment::{EnvironmentError, Library};
use hood_wire::api::{Environment, EnvironmentState, ForeignImage, Limits};

use super::connect::{Connection, Need};
use super::exit::Exit;
use super::failure::{Failure, next_or};
use super::global::Global;
use super::output::{self, Format};
use super::terminal::{Style, Text};
use super::units;
use crate::roles::open_library;

const EXAMPLES: &str = "\
Examples:
  fumehood env list
  fumehood env inspect minimal -o json
  fumehood env build minimal
  fumehood env lock mine
  fumehood env gc

list and inspect ask the server, as other commands do. The others work on the images of this
machine's data directory, beside a server that runs or without one; gc alone wants it stopped.";

/// Show, build and remove what code can run in.
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
        #[command(flatten)]
        output: Output,
    },
    /// One of them: what it is for, what holds it, its digest, limits and packages.
    #[command(visible_alias = "get")]
    Inspect {
        /// Its name.
        name: String,
        #[command(flatten)]
        output: Output,
    },
    /// Build images before they are needed, and check those that are built.
    Build {
        /// Their names.
        #[arg(required = true)]
        names: Vec<String>,
        #[command(flatten)]
        output: Output,
    },
    /// Decide which packages an environment is made of, by version and hash, as apt and pip know them.
    Lock {
        /// Its name.
        name: String,
        /// Where to write the lock, in place of beside its declaration.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        #[command(flatten)]
        output: Output,
    },
    Import(import::Args),
    Export(export::Args),
    Pull(registry::PullArgs),
    Push(registry::PushArgs),
    /// Remove images; a declared environment is built again when it is next needed.
    Rm {
        /// Names of their environments.
        #[arg(required = true)]
        names: Vec<String>,
        #[command(flatten)]
        output: Output,
    },
    /// Remove every image that no environment has any more, and downloads that none is locked to; stop
    /// `fumehood serve` first, for programs may run from them.
    Gc {
        #[command(flatten)]
        output: Output,
    },
}

#[derive(Clone, Copy, Debug, ClapArgs)]
struct Output {
    /// How to print it.
    #[arg(short = 'o', long = "output", value_name = "FORMAT", default_value = "text")]
    format: Format,
}

pub(super) async fn execute(args: Args, global: &Global) -> Result<Exit, Failure> {
    match args.command {
        Command::List { output } => list(output.format, global).await,
        Command::Inspect { name, output } => inspect(&name, output.format, global).await,
        Command::Build { names, output } => build::execute(&names, output.format, global).await,
        Command::Lock { name, out, output } => {
            lock::execute(&name, out.as_deref(), output.format, global).await
        }
        Command::Import(args) => import::execute(args, global).await,
        Command::Export(args) => export::execute(args, global).await,
        Command::Pull(args) => registry::pull(args, global).await,
        Command::Push(args) => registry::push(args, global).await,
        Command::Rm { names, output } => upkeep::remove(&names, output.format, global),
        Command::Gc { output } => upkeep::collect(output.format, global),
    }
}

async fn list(format: Format, global: &Global) -> Result<Exit, Failure> {
    let connection = Connection::open(global, Need::Look).await?;
    let printed = async {
        let list = connection.client.environments().await?;
        match format {
            Format::Json => output::json(&list),
            Format::Text => output::text(&table(&list.items)),
        }
    }
    .await;
    connection.close(printed).await
}

async fn inspect(name: &str, format: Format, global: &Global) -> Result<Exit, Failure> {
    let connection = Connection::open(global, Need::Look).await?;
    let printed = async {
        let environment = connection.client.environment(name).await?;
        match format {
            Format::Json => output::json(&environment),
            Format::Text => output::text(&describe(&environment)),
        }
    }
    .await;
    connection.close(printed).await
}

/// The library of this machine, whether or not a server has it open too.
fn library(global: &Global) -> Result<Library, Failure> {
    if let Some(server) = &global.server {
        return Err(Failure::new(
            "images are built and removed on the machine that has them, not over a server",
        )
        .because(anyhow::anyhow!("--server, or else the variable FUMEHOOD_SERVER, names {server}"))
        .next("run this there; here: leave --server out, and `unset FUMEHOOD_SERVER`"));
    }
    let config = global.load()?.config;
    open_library(&config).map_err(|error| {
        let next = next_or(&error, "`fumehood doctor` says what this host lacks");
        Failure::new(format!("cannot open the images in {}", config.environments.images_dir.display()))
            .because(error)
            .next(next)
    })
}

fn failed(what: String, error: EnvironmentError) -> Failure {
    let next = match &error {
        EnvironmentError::Unknown { .. } => "`fumehood env list` shows what there is",
        EnvironmentError::Fetch { .. } => {
            "see that names and versions are right, and that what has them answers from here (`apt-get update`, \
             `pip download NAME`)"
        }
        EnvironmentError::ImportAgain { .. } => "`fumehood env import`, or `env pull`, brings it again",
        _ => return Failure::new(what).because(error),
    };
    let unknown = matches!(error, EnvironmentError::Unknown { .. });
    let failure = Failure::new(what).because(error).next(next);
    if unknown { failure.exit(Exit::REFUSED) } else { failure }
}

fn state(environment: &Environment) -> String {
    let percent = environment.progress.as_ref().and_then(|progress| progress.percent);
    if let (EnvironmentState::Building, Some(percent)) = (environment.state, percent) {
        return format!("building, {percent} %");
    }
    let word = match environment.state {
        EnvironmentState::NotBuilt => "not built",
        EnvironmentState::Building => "building",
        EnvironmentState::Ready => "ready",
        EnvironmentState::Failed => "failed",
    };
    word.to_owned()
}

fn table(environments: &[Environment]) -> String {
    let rows = environments.iter().map(|environment| {
        let default = if environment.default { " (default)" } else { "" };
        vec![
            Cell::new(format!("{}{default}", Text::line(&environment.name))),
            Cell::new(state(environment)),
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
    if let Some(security) = &environment.security {
        line("security", security);
    }
    line("state", &state(environment));
    let anywhere = if environment.portable { "the same on every machine" } else { "of this machine only" };
    line("base", &format!("{} ({anywhere})", environment.base));
    line("isolation", &environment.isolation);
    line("calls", &environment.system_calls);
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
    if let Some(image) = &environment.image {
        as_its_maker_says(image).iter().for_each(|(name, value)| line(name, value));
    }
    line("classes", &environment.allowed_classes.join(", "));
    for (name, default, maximum) in limits(&environment.default_limits, &environment.maximum_limits) {
        line(name, &format!("{default}, at most {maximum}"));
    }
    for package in &environment.packages {
        line("package", &format!("{} {}", package.name, package.version));
    }
    lines.join("\n")
}

/// Settings of an imported image, those that it has.
fn as_its_maker_says(image: &ForeignImage) -> Vec<(&'static str, String)> {
    let words = |words: &[String]| serde_json::to_string(words).unwrap_or_default();
    let mut said = vec![("image", image.reference.clone()), ("image digest", image.source_digest.clone())];
    for (name, list) in [("entrypoint", &image.entrypoint), ("command", &image.command)] {
        if !list.is_empty() {
            said.push((name, words(list)));
        }
    }
    said.extend(image.env.iter().map(|variable| ("env", format!("{}={}", variable.name, variable.value))));
    said.extend(image.workdir.clone().map(|dir| ("workdir", dir)));
    said.extend(image.user.as_ref().map(|user| ("user", format!("{user} (not used: programs run as 1000)"))));
    said
}

/// The limits that people ask for most, each with its default and its maximum.
fn limits(default: &Limits, maximum: &Limits) -> [(&'static str, String, String); 3] {
    let none = || "-".to_owned();
    let bytes = |value: Option<u64>| value.map_or_else(none, units::show_bytes);
    let wall = |value: Option<u64>| value.map_or_else(none, |ms| format!("{} s", ms / 1000));
    [
        ("wall time", wall(default.wall_ms), wall(maximum.wall_ms)),
        ("memory", bytes(default.memory_bytes), bytes(maximum.memory_bytes)),
        ("disk", bytes(default.disk_bytes), bytes(maximum.disk_bytes)),
    ]
}
