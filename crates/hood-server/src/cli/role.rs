//! `fumehood api | worker | dispatcher | notifier`: one role each, until it is told to stop.

use std::io::{self, Write as _};
use std::net::SocketAddr;

use clap::Args as ClapArgs;

use super::connect::warn;
use super::exit::Exit;
use super::failure::{Failure, next_or};
use super::global::{Global, load};
use super::run::Interrupts;
use super::terminal::colours_wanted;
use crate::config::{Config, Loaded};
use crate::roles::{api, dispatcher, notifier, worker};
use crate::telemetry;

const API_EXAMPLES: &str = "\
Examples:
  fumehood api --set store.url=postgres://fumehood@db/fumehood --set blobs.dir=/srv/blobs

It needs PostgreSQL (store.url) and blobs that workers share (blobs.url, or blobs.dir on one
machine). It has no sandbox and no way to a dispatcher. docs/operations/roles.md starts all roles.";

const WORKER_EXAMPLES: &str = "\
Examples:
  fumehood worker --set worker.dispatchers=https://d1:7471,https://d2:7471

It needs PostgreSQL (store.url), blobs that the API shares, a certificate of the role worker
(tls.cert, tls.key, tls.ca) and at least one dispatcher. It has no sandbox of its own. What is
late is waited for; /readyz on metrics.listen says what. docs/operations/roles.md starts all roles.";

const DISPATCHER_EXAMPLES: &str = "\
Examples:
  fumehood dispatcher --listen 0.0.0.0:7471

It has no database and no Redis, and keeps nothing: what it knows, a worker's order told it. It
needs a certificate of the role dispatcher (tls.cert, tls.key, tls.ca), and answers workers alone.
Give it no store.url: whoever holds its machine would hold that too. docs/operations/roles.md
starts all roles.";

const NOTIFIER_EXAMPLES: &str = "\
Examples:
  fumehood notifier --set store.url=postgres://fumehood_n@db/fumehood

It needs PostgreSQL (store.url) and what webhooks are signed with (webhooks.secret), the same for
every notifier. Any number of them share the work. It has no blobs, no certificate and no way to
another role; /readyz on metrics.listen says how it is. docs/operations/roles.md starts all roles.";

/// Run the API alone: accepts evaluations and tells what came of them.
#[derive(Debug, ClapArgs)]
#[command(after_help = API_EXAMPLES)]
pub(super) struct ApiArgs {
    /// Address and port; other than loopback only if you name it here or in the configuration.
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
}

/// Run a worker alone: takes what is queued to dispatchers and writes down what came of it.
#[derive(Debug, ClapArgs)]
#[command(after_help = WORKER_EXAMPLES)]
pub(super) struct WorkerArgs {
    /// Evaluations that run at once: as many as the dispatchers have places for it.
    #[arg(long, value_name = "N")]
    places: Option<u32>,
}

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

/// Run a notifier alone: tells the URLs that submissions named what has ended.
#[derive(Debug, ClapArgs)]
#[command(after_help = NOTIFIER_EXAMPLES)]
pub(super) struct NotifierArgs {}

/// A role that was started.
enum Role {
    Api(api::Running),
    Worker(worker::Running),
    Dispatcher(dispatcher::Running),
    Notifier(notifier::Running),
}

/// Which one is to be.
#[derive(Clone, Copy)]
enum Kind {
    Api,
    Worker,
    Dispatcher,
    Notifier,
}

pub(super) async fn api(args: &ApiArgs, global: &Global) -> Result<Exit, Failure> {
    let listen = args.listen.map(|listen| listen.to_string());
    stand(Kind::Api, &[("server.listen", "--listen", listen)], global).await
}

pub(super) async fn worker(args: &WorkerArgs, global: &Global) -> Result<Exit, Failure> {
    let places = args.places.map(|places| places.to_string());
    stand(Kind::Worker, &[("worker.places", "--places", places)], global).await
}

pub(super) async fn dispatcher(args: &DispatcherArgs, global: &Global) -> Result<Exit, Failure> {
    let listen = args.listen.map(|listen| listen.to_string());
    let places = args.places.map(|places| places.to_string());
    let flags = [("dispatcher.listen", "--listen", listen), ("worker.places", "--places", places)];
    stand(Kind::Dispatcher, &flags, global).await
}

pub(super) async fn notifier(_: &NotifierArgs, global: &Global) -> Result<Exit, Failure> {
    stand(Kind::Notifier, &[], global).await
}

async fn stand(kind: Kind, flags: &[(&str, &str, Option<String>)], global: &Global) -> Result<Exit, Failure> {
    let mut sources = global.sources()?;
    for (key, flag, value) in flags {
        if let Some(value) = value {
            sources.set(key, value, flag);
        }
    }
    let loaded = load(&sources)?;
    let config = &loaded.config;
    telemetry::init_logs(&config.log, colours_wanted())
        .map_err(|error| Failure::new("cannot set up logging").because(error))?;
    let _exporting = telemetry::traces::export(config.telemetry.otlp_endpoint.expose(), kind.as_str())
        .map_err(|error| Failure::new("cannot export spans").because(error))?;
    loaded.warnings.iter().for_each(|warning| warn(warning));
    kind.odd(config).iter().for_each(|oddity| warn(oddity));
    let mut interrupts = Interrupts::listen()?;
    let mut role = tokio::select! {
        started = kind.start(&loaded) => {
            started.map_err(|error| {
                let next = next_or(&error, "mend that and start it again");
                Failure::new(format!("cannot start the {}", kind.as_str())).because(error).next(next)
            })?
        }
        () = interrupts.next() => return Ok(Exit::DONE),
    };
    role.greet().map_err(Failure::write)?;
    let failed = tokio::select! {
        () = interrupts.next() => None,
        error = role.failed() => Some(error),
    };
    if let Some(error) = failed {
        return Err(Failure::new("a part of it ended").because(error).next("start it again"));
    }
    tracing::info!("stopping; a second signal stops at once");
    tokio::select! {
        stopped = role.shutdown() => {
            stopped.map_err(|error| Failure::new("cannot stop cleanly").because(error))?;
        }
        () = interrupts.next() => tracing::warn!("stopped at once; others go on where this one stopped"),
    }
    Ok(Exit::DONE)
}

impl Kind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Worker => "worker",
            Self::Dispatcher => "dispatcher",
            Self::Notifier => "notifier",
        }
    }

    /// What this role was given and must not have.
    fn odd(self, config: &Config) -> Vec<String> {
        let mut odd = Vec::new();
        if matches!(self, Self::Dispatcher) {
            for (key, is_set) in
                [("store.url", !config.store.url.is_empty()), ("bus.url", !config.bus.url.is_empty())]
            {
                if is_set {
                    odd.push(format!(
                        "{key} is set, and a dispatcher does not use it: keep it from this role"
                    ));
                }
            }
        }
        odd
    }

    async fn start(self, loaded: &Loaded) -> anyhow::Result<Role> {
        let config = &loaded.config;
        Ok(match self {
            Self::Api => Role::Api(api::start(config, loaded.shown()).await?),
            Self::Worker => Role::Worker(worker::start(config).await?),
            Self::Dispatcher => Role::Dispatcher(dispatcher::start(config).await?),
            Self::Notifier => Role::Notifier(notifier::start(config).await?),
        })
    }
}

impl Role {
    /// On stdout, for whoever starts it by hand or from a script.
    fn greet(&self) -> io::Result<()> {
        let text = match self {
            Self::Api(running) => format!("fumehood api listens on http://{}\n", running.address),
            Self::Worker(running) => {
                format!("fumehood worker {} works{}\n", running.name, aside(running.side))
            }
            Self::Dispatcher(running) => {
                let (name, address) = (&running.name, running.address);
                format!("fumehood dispatcher {name} listens on https://{address}{}\n", aside(running.side))
            }
            Self::Notifier(running) => format!("fumehood notifier works{}\n", aside(running.side)),
        };
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush())
    }

    async fn failed(&mut self) -> anyhow::Error {
        match self {
            Self::Api(running) => running.failed().await,
            Self::Worker(running) => running.failed().await,
            Self::Dispatcher(running) => running.failed().await,
            Self::Notifier(running) => running.failed().await,
        }
    }

    async fn shutdown(self) -> anyhow::Result<()> {
        match self {
            Self::Api(running) => running.shutdown().await,
            Self::Worker(running) => running.shutdown().await,
            Self::Dispatcher(running) => running.shutdown().await,
            Self::Notifier(running) => running.shutdown().await,
        }
    }
}

fn aside(side: Option<SocketAddr>) -> String {
    side.map(|address| format!("; health and metrics on http://{address}")).unwrap_or_default()
}
