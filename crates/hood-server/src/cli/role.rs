//! `fumehood dispatcher`: one role alone, until it is told to stop.

use std::io::{self, Write as _};
use std::net::SocketAddr;

use clap::Args as ClapArgs;

use super::connect::warn;
use super::exit::Exit;
use super::failure::Failure;
use super::global::{Global, load};
use super::run::Interrupts;
use super::terminal::colours_wanted;
use crate::roles::dispatcher;
use crate::telemetry;

const DISPATCHER_EXAMPLES: &str = "\
Examples:
  fumehood dispatcher --listen 0.0.0.0:7471

It has no database and no Redis, and keeps nothing: what it knows, a worker's order told it. It needs
a certificate of the role dispatcher (tls.cert, tls.key, tls.ca; `fumehood pki issue dispatcher` makes
one), and answers workers alone.";

/// Run a dispatcher alone: makes sandboxes for workers, without database or Redis.
#[derive(Debug, ClapArgs)]
#[command(after_help = DISPATCHER_EXAMPLES)]
pub(super) struct DispatcherArgs {
    /// Address and port that workers connect to.
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// Sandboxes at once.
    #[arg(long, value_name = "N")]
    places: Option<u32>,
}

pub(super) async fn dispatcher(args: &DispatcherArgs, global: &Global) -> Result<Exit, Failure> {
    let mut sources = global.sources()?;
    let listen = args.listen.map(|listen| listen.to_string());
    let places = args.places.map(|places| places.to_string());
    for (key, flag, value) in
        [("dispatcher.listen", "--listen", listen), ("worker.places", "--places", places)]
    {
        if let Some(value) = value {
            sources.set(key, &value, flag);
        }
    }
    let loaded = load(&sources)?;
    let config = &loaded.config;
    telemetry::init_logs(&config.log, colours_wanted())
        .map_err(|error| Failure::new("cannot set up logging").because(error))?;
    let _exporting = telemetry::traces::export(config.telemetry.otlp_endpoint.expose(), "dispatcher")
        .map_err(|error| Failure::new("cannot export spans").because(error))?;
    loaded.warnings.iter().for_each(|warning| warn(warning));
    if !config.bus.url.is_empty() {
        warn("bus.url is set, and a dispatcher does not use it: keep it from this role");
    }
    let mut interrupts = Interrupts::listen()?;
    let mut running = tokio::select! {
        started = dispatcher::start(config) => {
            started.map_err(|error| Failure::new("cannot start the dispatcher").because(error))?
        }
        () = interrupts.next() => return Ok(Exit::DONE),
    };
    greet(&running).map_err(Failure::write)?;
    let failed = tokio::select! {
        () = interrupts.next() => None,
        error = running.failed() => Some(error),
    };
    if let Some(error) = failed {
        return Err(Failure::new("a part of the dispatcher ended").because(error).next("start it again"));
    }
    tracing::info!("stopping; a second signal stops at once");
    tokio::select! {
        stopped = running.shutdown() => {
            stopped.map_err(|error| Failure::new("cannot stop cleanly").because(error))?;
        }
        () = interrupts.next() => tracing::warn!("stopped at once; what ran is tried again elsewhere"),
    }
    Ok(Exit::DONE)
}

/// On stdout, for whoever starts it by hand or from a script.
fn greet(running: &dispatcher::Running) -> io::Result<()> {
    let (name, address) = (&running.name, running.address);
    let side = running.side.map(|side| format!("; health and metrics on http://{side}")).unwrap_or_default();
    let text = format!("fumehood dispatcher {name} listens on https://{address}{side}\n");
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush())
}
