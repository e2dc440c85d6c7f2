//! Finding the server that a command talks to, or being it.

use std::io::{self, Write as _};
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hood_client::{Client, ListQuery, Pause, Retry, Token};
use hood_wire::api::State;

use super::failure::{Failure, next_or};
use super::global::Global;
use super::run::Interrupts;
use super::terminal::{Style, Text, colours_wanted};
use super::unheard;
use crate::config::{Loaded, Origin};
use crate::roles::serve::{self, Options, Purpose, Running};
use crate::roles::{DataDir, DataDirError, Endpoint};
use crate::seal;
use crate::telemetry;

/// How long another command that starts or ends over the same data directory is waited for.
const SETTLE_TIME: Duration = Duration::from_secs(15);
const SETTLE_INTERVAL: Duration = Duration::from_millis(50);

/// How often a server of this one command looks whether others still need it.
const IDLE_INTERVAL: Duration = Duration::from_millis(200);

/// A retry that takes no longer than this is nobody's concern.
const UNTOLD_PAUSE: Duration = Duration::from_secs(1);
/// And one for a reason that was told is not told again for so long.
const TELL_AGAIN: Duration = Duration::from_secs(30);

/// For what a command was begun: a server that restarts meanwhile is waited for.
pub(super) const FOLLOWING: Retry = Retry { unreachable: Duration::from_secs(60), ..Retry::BRIEF };

/// What a command needs of its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// One that runs evaluations: its own, if there is no other.
    Work,
    /// One that knows of them: as before, but its own takes none up.
    Look,
    /// One that stays when the command has gone.
    Lasting,
}

/// A client, and the server behind it where that is this very process.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) client: Client,
    embedded: Option<Embedded>,
}

/// A server of this command's own.
#[derive(Debug)]
struct Embedded {
    running: Running,
    need: Need,
    since: jiff::Timestamp,
}

impl Connection {
    pub(super) async fn open(global: &Global, need: Need) -> Result<Self, Failure> {
        let token = given_token(global)?;
        if let Some(address) = &global.server {
            unheard::elsewhere(global, address)?;
            return remote(global, address, token).await;
        }
        let mut loaded = global.load()?;
        loaded.warnings.iter().for_each(|warning| warn(warning));
        let deadline = tokio::time::Instant::now() + SETTLE_TIME;
        loop {
            if let Some(connection) = local(global, &mut loaded, need, token.clone()).await? {
                return Ok(connection);
            }
            if tokio::time::Instant::now() >= deadline {
                let dir = loaded.config.data_dir.display();
                return Err(Failure::new(format!("another fumehood holds {dir} and does not answer"))
                    .next("see which process has the file `lock` in it open (fuser), and end it"));
            }
            tokio::time::sleep(SETTLE_INTERVAL).await;
        }
    }

    /// Gives the command's result, once a server of its own has ended: which waits for what other
    /// commands began there, unless somebody interrupts.
    pub(super) async fn close<T>(self, result: Result<T, Failure>) -> Result<T, Failure> {
        let Some(Embedded { running, need, since }) = self.embedded else { return result };
        let mut interrupts = Interrupts::listen()?;
        let interrupted = result.as_ref().is_err_and(Failure::is_interruption);
        if need == Need::Work && !interrupted {
            tokio::select! {
                () = idle(&self.client, since) => {}
                () = interrupts.next() => {}
            }
        }
        let ended = tokio::select! {
            ended = running.shutdown() => ended,
            // Dropped where it stands: a successor finds what it leaves.
            () = interrupts.next() => Ok(()),
        };
        let value = result?;
        ended.map_err(|error| Failure::new("cannot end the server cleanly").because(error))?;
        Ok(value)
    }
}

async fn remote(global: &Global, address: &str, token: Option<Token>) -> Result<Connection, Failure> {
    let token = match token {
        // The key that a data directory keeps is for the server that holds it, and for no other.
        None if is_loopback(address) => {
            let data_dir = global.load()?.config.data_dir;
            match Endpoint::read(&data_dir) {
                Some(server) if proves_itself(address, &server).await? => kept_token(&data_dir),
                _ => None,
            }
        }
        given => given,
    };
    Ok(Connection { client: client(address, token)?, embedded: None })
}

/// One try: the server that holds the data directory, or one of our own. `None` where another
/// process is between the two.
async fn local(
    global: &Global,
    loaded: &mut Loaded,
    need: Need,
    token: Option<Token>,
) -> Result<Option<Connection>, Failure> {
    let data_dir = loaded.config.data_dir.clone();
    quieten(loaded);
    if need == Need::Lasting {
        if Endpoint::read(&data_dir).is_some()
            && let Some(connection) = through(global, loaded, token).await?
        {
            return Ok(Some(connection));
        }
        // Whoever gets the lock knows that nobody has it.
        return match DataDir::lock(&data_dir) {
            Err(DataDirError::Held { .. }) => Ok(None),
            Err(error @ DataDirError::Io { .. }) => Err(unusable(&data_dir, error.into())),
            Ok(_) => Err(Failure::new(format!("no server holds {}", data_dir.display()))
                .next("start one with `fumehood serve`, or name one with --server")),
        };
    }
    let purpose = if need == Need::Work { Purpose::Command } else { Purpose::Look };
    let since = jiff::Timestamp::now();
    let options = Options { purpose, settings: loaded.shown() };
    match serve::start(&loaded.config, options).await {
        Ok(running) => {
            let address = format!("http://{}", running.address);
            let client = client(&address, Some(Token::new(&running.token)))?;
            Ok(Some(Connection { client, embedded: Some(Embedded { running, need, since }) }))
        }
        Err(error) => match error.downcast_ref() {
            Some(DataDirError::Held { .. }) => through(global, loaded, token).await,
            Some(DataDirError::Io { .. }) => Err(unusable(&data_dir, error)),
            None => {
                let next = next_or(&error, "`fumehood doctor` says what this host lacks");
                Err(Failure::new("cannot start a server for this command").because(error).next(next))
            }
        },
    }
}

fn unusable(data_dir: &Path, error: anyhow::Error) -> Failure {
    Failure::new(format!("cannot use the data directory {}", data_dir.display())).because(error).next(
        "name another with --data-dir, or run this as the user whose it is; or name a server with --server",
    )
}

/// The server that announced itself, if it still answers.
async fn through(
    global: &Global,
    loaded: &Loaded,
    token: Option<Token>,
) -> Result<Option<Connection>, Failure> {
    let data_dir = &loaded.config.data_dir;
    let Some(server) = Endpoint::read(data_dir) else { return Ok(None) };
    let address = format!("http://{}", server.address);
    if !proves_itself(&address, &server).await? {
        return Ok(None);
    }
    let client = client(&address, token.or_else(|| kept_token(data_dir)))?;
    match client.with_retry(Retry::NONE).version().await {
        Ok(_) => {
            unheard::here(global, loaded, &server)?;
            Ok(Some(Connection { client, embedded: None }))
        }
        Err(hood_client::Error::Unreachable { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Whether the one at `address` is the server that announced itself. Until it has shown so it gets no key:
/// an announcement outlives a server that is killed, and anybody may listen where that did.
async fn proves_itself(address: &str, server: &Endpoint) -> Result<bool, Failure> {
    let challenge = seal::challenge();
    let answer = client(address, None)?.with_retry(Retry::NONE).proof(&challenge).await;
    Ok(answer.is_ok_and(|answer| answer == server.seal.prove(&challenge)))
}

fn client(address: &str, token: Option<Token>) -> Result<Client, Failure> {
    let builder = Client::builder(address).on_pause(tell_pause);
    let builder = match token {
        Some(token) => builder.token(token),
        None => builder,
    };
    Ok(builder.build()?)
}

/// Many requests may wait for the same reason at once: that is said once.
fn tell_pause(pause: &Pause) {
    static TOLD: Mutex<Option<(String, Instant)>> = Mutex::new(None);
    let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    let again = told.as_ref().is_some_and(|(why, at)| *why == pause.why && at.elapsed() < TELL_AGAIN);
    if pause.delay >= UNTOLD_PAUSE && !again {
        *told = Some((pause.why.clone(), Instant::now()));
        let seconds = pause.delay.as_secs_f64();
        warn(&format!("{}; trying again in {seconds:.0} s", pause.why));
    }
}

/// Says something that is no failure, on stderr.
pub(super) fn warn(text: &str) {
    let _ = writeln!(io::stderr(), "{} {}", Style::stderr().warn("fumehood:"), Text::new(text));
}

fn given_token(global: &Global) -> Result<Option<Token>, Failure> {
    let Some(path) = &global.token_file else {
        let token = std::env::var("FUMEHOOD_TOKEN").ok().filter(|token| !token.trim().is_empty());
        return Ok(token.map(|token| Token::new(&token)));
    };
    std::fs::read_to_string(path).map(|text| Some(Token::new(&text))).map_err(|error| {
        Failure::new(format!("cannot read the token file {}", path.display())).because(error)
    })
}

fn kept_token(data_dir: &Path) -> Option<Token> {
    DataDir::kept_token_in(data_dir).map(|text| Token::new(&text))
}

fn is_loopback(address: &str) -> bool {
    let Some(authority) = address.strip_prefix("http://").and_then(|rest| rest.split('/').next()) else {
        return false;
    };
    let host = match authority.strip_prefix('[') {
        Some(bracketed) => bracketed.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// A command's own server says on stderr only what went wrong, unless told otherwise.
fn quieten(loaded: &mut Loaded) {
    let filter = loaded.entries.iter().find(|entry| entry.key.name == "log.filter");
    if filter.is_some_and(|entry| entry.origin == Origin::Default) {
        "error".clone_into(&mut loaded.config.log.filter);
    }
    // A second try finds it set up already.
    let _ = telemetry::init_logs(&loaded.config.log, colours_wanted());
}

/// Returns once everything has ended that was begun here since then: other commands may have found
/// this server. What an earlier one left is none of their business, and goes on with the next.
async fn idle(client: &Client, since: jiff::Timestamp) {
    let client = client.with_retry(Retry::NONE);
    let query = ListQuery {
        states: vec![State::Queued, State::Provisioning, State::Running],
        since: Some(since.to_string()),
        limit: Some(1),
        ..ListQuery::default()
    };
    let mut told = false;
    loop {
        match client.list(&query).await {
            Ok(page) if !page.items.is_empty() => {}
            Ok(_) | Err(_) => return,
        }
        if !told {
            told = true;
            warn("another command's evaluations are under way here; waiting for them (Ctrl-C: do not)");
        }
        tokio::time::sleep(IDLE_INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::is_loopback;

    #[test]
    fn the_kept_key_goes_to_this_machine_alone() {
        for address in ["http://127.0.0.1:7470", "http://[::1]:7470/", "http://localhost", "http://127.9.9.9"]
        {
            assert!(is_loopback(address), "{address}");
        }
        for address in [
            "http://10.0.0.1:7470",
            "http://127.0.0.1.example",
            "http://localhost.example",
            "http://127.0.0.1@evil.example",
            "https://127.0.0.1",
            "127.0.0.1",
            "",
        ] {
            assert!(!is_loopback(address), "{address}");
        }
    }
}
