//! The command line. Every command that speaks of evaluations is a client of the HTTP API, whether
//! the server is elsewhere, on this machine, or started for this one command in this process.

mod batch;
mod cancel;
mod completions;
mod config;
mod connect;
mod dead;
mod delete;
mod doctor;
mod environments;
mod events;
mod exit;
mod failure;
mod get;
mod global;
mod list;
mod logs;
mod migrate;
mod output;
mod pages;
mod pki;
mod role;
mod run;
mod serve;
mod spinner;
mod terminal;
mod transfer;
mod unheard;
mod units;
mod version;
mod words;

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use exit::Exit;
use failure::Failure;
use global::Global;

use crate::unpacker;

/// What every command's exit status can be, besides those of `run` and `batch`.
const AFTER_HELP: &str = "\
Exit status:
  0 done, 1 the answer is no (doctor, config check, batch), 125 Fumehood failed or was called
  wrongly, 126 refused. `fumehood run` gives its program's own: `fumehood help run` has the table.

Without --server, the default data directory is used: through the server that holds it, or else by a
server that lives as long as the command does.";

/// Runs untrusted evaluations behind strong isolation, and gives back results that can be trusted.
#[derive(Debug, Parser)]
#[command(name = "fumehood", version, after_help = AFTER_HELP, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(Box<run::Args>),
    Batch(batch::Args),
    Serve(serve::Args),
    Api(role::ApiArgs),
    Worker(role::WorkerArgs),
    Dispatcher(role::DispatcherArgs),
    Notifier(role::NotifierArgs),
    List(list::Args),
    Get(get::Args),
    Logs(logs::Args),
    Events(events::Args),
    Cancel(cancel::Args),
    Delete(delete::Args),
    Dead(dead::Args),
    #[command(name = "env", visible_alias = "environments")]
    Environments(environments::Args),
    Doctor(doctor::Args),
    Config(config::Args),
    Pki(pki::Args),
    Migrate(migrate::Args),
    Export(transfer::ExportArgs),
    Import(transfer::ImportArgs),
    Completions(completions::Args),
    Version(version::Args),
    /// Print the API's OpenAPI document.
    #[command(hide = true)]
    Openapi {
        /// The dispatcher's, which workers speak.
        #[arg(long)]
        dispatcher: bool,
    },
    #[command(name = unpacker::COMMAND, hide = true)]
    UnpackImage(unpacker::Args),
}

pub fn main() -> ExitCode {
    main_with(std::env::args_os())
}

fn main_with(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    crate::tls::install_provider();
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => return say_usage(&error),
    };
    if let Command::UnpackImage(args) = cli.command {
        return unpacker::execute(args);
    }
    let exit = match cli.command.execute(&cli.global) {
        Ok(exit) => exit,
        Err(failure) => failure.report(),
    };
    exit.into()
}

/// Help and version go to stdout and are no failure; what was typed wrongly is, and must not look
/// like a program's own exit status.
fn say_usage(error: &clap::Error) -> ExitCode {
    // Nowhere to say it: the status alone must do.
    let _ = error.print();
    let _ = std::io::stdout().flush();
    if error.use_stderr() { Exit::FAILED.into() } else { Exit::DONE.into() }
}

impl Command {
    fn execute(self, global: &Global) -> Result<Exit, Failure> {
        match self {
            Self::Config(args) => config::execute(&args, global),
            Self::Pki(args) => pki::execute(&args),
            Self::Doctor(args) => doctor::execute(&args, global),
            Self::Completions(args) => completions::execute(&args, Cli::command()),
            Self::Openapi { dispatcher: true } => output::text(&crate::dispatcher::openapi()),
            Self::Openapi { .. } => output::text(&crate::api::openapi()),
            online => {
                let runtime = tokio::runtime::Builder::new_multi_thread()
                    .enable_all()
                    .build()
                    .map_err(|error| Failure::new("cannot start the runtime").because(error))?;
                let result = runtime.block_on(online.execute_online(global));
                // A blocked write or read of a terminal must not hold the exit up.
                runtime.shutdown_background();
                result
            }
        }
    }

    async fn execute_online(self, global: &Global) -> Result<Exit, Failure> {
        match self {
            Self::Run(args) => run::execute(&args, global).await,
            Self::Batch(args) => batch::execute(&args, global).await,
            Self::Serve(args) => serve::execute(&args, global).await,
            Self::Api(args) => role::api(&args, global).await,
            Self::Worker(args) => role::worker(&args, global).await,
            Self::Migrate(args) => migrate::execute(&args, global).await,
            Self::Export(args) => transfer::export(&args, global).await,
            Self::Import(args) => transfer::import(&args, global).await,
            Self::Dispatcher(args) => role::dispatcher(&args, global).await,
            Self::Notifier(args) => role::notifier(&args, global).await,
            Self::List(args) => list::execute(&args, global).await,
            Self::Get(args) => get::execute(&args, global).await,
            Self::Logs(args) => logs::execute(&args, global).await,
            Self::Events(args) => events::execute(&args, global).await,
            Self::Cancel(args) => cancel::execute(&args, global).await,
            Self::Delete(args) => delete::execute(&args, global).await,
            Self::Dead(args) => dead::execute(&args, global).await,
            Self::Environments(args) => environments::execute(args, global).await,
            Self::Version(args) => version::execute(&args, global).await,
            Self::Config(_)
            | Self::Pki(_)
            | Self::Doctor(_)
            | Self::Completions(_)
            | Self::Openapi { .. }
            | Self::UnpackImage(_) => Ok(Exit::DONE),
        }
    }
}
