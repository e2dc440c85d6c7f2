//! `fumehood serve`: everything in one process, until it is told to stop.

use std::io::{self, Write as _};
use std::net::SocketAddr;

use clap::{Args as ClapArgs, ValueEnum};

use super::connect::warn;
use super::exit::Exit;
use super::failure::{Failure, next_or};
use super::global::{Global, load};
use super::run::Interrupts;
use super::terminal::colours_wanted;
use crate::config::Loaded;
use crate::roles::DataDirError;
use crate::roles::serve::{self, Options, Running};
use crate::telemetry;

const EXAMPLES: &str = "\
Examples:
  fumehood serve
  fumehood serve --data-dir ./hood --listen 127.0.0.1:0
  fumehood serve --places 200                      for programs that wait more than they compute
  fumehood serve --set limits.maximum.wall_ms=60000

The first start makes an API key, prints it once, and keeps it in the file `token` of the data
directory, where commands of this user find it. SIGTERM or Ctrl-C stops: what runs may end within
server.drain_ms; a second one stops at once. Nothing that was accepted is lost either way.";

/// Run API, queue, worker and sandbox in one process.
#[derive(Debug, ClapArgs)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Address and port; other than loopback only if you name it here or in the configuration.
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,

    /// Evaluations that run at once.
    #[arg(long, value_name = "N")]
    places: Option<u32>,

    /// What happens where a layer of isolation is not proven.
    #[arg(long, value_name = "POLICY")]
    policy: Option<PolicyArg>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum PolicyArg {
    /// Refused.
    Strict,
    /// Runs with less, and says so on every result.
    Development,
}

impl PolicyArg {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Development => "development",
        }
    }
}

pub(super) async fn execute(args: &Args, global: &Global) -> Result<Exit, Failure> {
    let loaded = args.load(global)?;
    telemetry::init_logs(&loaded.config.log, colours_wanted())
        .map_err(|error| Failure::new("cannot set up logging").because(error))?;
    let _exporting = telemetry::traces::export(loaded.config.telemetry.otlp_endpoint.expose(), "serve")
        .map_err(|error| Failure::new("cannot export spans").because(error))?;
    loaded.warnings.iter().for_each(|warning| warn(warning));
    let mut interrupts = Interrupts::listen()?;
    let options = Options { settings: loaded.shown(), ..Options::default() };
    let mut running = tokio::select! {
        started = serve::start(&loaded.config, options) => started.map_err(not_started)?,
        () = interrupts.next() => return Ok(Exit::DONE),
    };
    greet(&running, &loaded)?;
    let failed = tokio::select! {
        () = interrupts.next() => None,
        error = running.failed() => Some(error),
    };
    if let Some(error) = failed {
        return Err(Failure::new("a part of the server ended").because(error).next("start it again"));
    }
    tracing::info!("stopping; a second signal stops at once");
    tokio::select! {
        stopped = running.shutdown() => {
            stopped.map_err(|error| Failure::new("cannot stop cleanly").because(error))?;
        }
        () = interrupts.next() => tracing::warn!("stopped at once; what ran is run again at the next start"),
    }
    Ok(Exit::DONE)
}

impl Args {
    fn load(&self, global: &Global) -> Result<Loaded, Failure> {
        let mut sources = global.sources()?;
        let places = self.places.map(|places| places.to_string());
        let listen = self.listen.map(|listen| listen.to_string());
        let policy = self.policy.map(|policy| policy.as_str().to_owned());
        for (key, flag, value) in [
            ("worker.places", "--places", places),
            ("server.listen", "--listen", listen),
            ("sandbox.policy", "--policy", policy),
        ] {
            if let Some(value) = value {
                sources.set(key, &value, flag);
            }
        }
        load(&sources)
    }
}

fn is_address_in_use(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::AddrInUse)
    })
}

fn not_started(error: anyhow::Error) -> Failure {
    let next = match error.downcast_ref() {
        Some(DataDirError::Held { .. }) => None,
        Some(DataDirError::Io { .. }) => {
            Some("name another directory with --data-dir, or run this as the user whose it is".to_owned())
        }
        None if is_address_in_use(&error) => {
            let next = "another server listens there; stop it, or choose a port with --listen 127.0.0.1:PORT";
            Some(next.to_owned())
        }
        None => Some(next_or(&error, "`fumehood doctor` says what this host lacks")),
    };
    let failure = Failure::new("cannot start").because(error);
    match next {
        Some(next) => failure.next(next),
        None => failure,
    }
}

/// On stdout, for whoever starts it by hand or from a script.
fn greet(running: &Running, loaded: &Loaded) -> Result<(), Failure> {
    let (address, dir) = (running.address, loaded.config.data_dir.display());
    let mut text = format!("fumehood listens on http://{address}\ndata      {dir}\n");
    if running.token_is_new {
        text += &format!("API key   {}  (shown this once, kept in {dir}/token)\n", running.token);
    }
    if running.taken_over > 0 {
        text += &format!("taken over from a predecessor: {} evaluations\n", running.taken_over);
    }
    text += &format!(
        "browse    http://{address}/docs\ntry       curl -s 'http://{address}/v1/evaluations?wait=10s' \\\n            \
         -H \"Authorization: Bearer $(cat '{dir}/token')\" -H 'Content-Type: application/json' \\\n            \
         -d '{{\"code\": \"print(6 * 7)\"}}'\n"
    );
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(Failure::write)
}
