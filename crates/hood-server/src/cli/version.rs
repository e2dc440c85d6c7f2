//! `fumehood version`: of this binary, and of the server that it would talk to.

use clap::Args as ClapArgs;
use hood_wire::api::Version;
use serde::Serialize;

use super::connect::{Connection, Need};
use super::exit::Exit;
use super::failure::Failure;
use super::global::Global;
use super::output::{self, Format};
use super::terminal::Text;

/// Print the version of this binary, and of the server if --server names one.
#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    /// How to print it.
    #[arg(short = 'o', long, value_name = "FORMAT", default_value = "text")]
    output: Format,
}

#[derive(Serialize)]
struct Versions {
    client: &'static str,
    server: Option<Version>,
}

pub(super) async fn execute(args: &Args, global: &Global) -> Result<Exit, Failure> {
    let server = match &global.server {
        Some(_) => Some(Connection::open(global, Need::Lasting).await?.client.version().await?),
        None => None,
    };
    let client = env!("CARGO_PKG_VERSION");
    if args.output == Format::Json {
        return output::json(&Versions { client, server });
    }
    let mut text = format!("fumehood {client}");
    if let Some(server) = server {
        text += &format!("\nserver {} (API {})", Text::line(&server.version), Text::line(&server.api));
    }
    output::text(&text)
}
