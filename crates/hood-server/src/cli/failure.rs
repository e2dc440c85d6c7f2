//! How a command says that it could not do what was asked: what, why, and what to do next.

use std::error::Error as StdError;
use std::fmt;
use std::io::{self, Write as _};

use hood_client::Error;

use super::exit::Exit;
use super::terminal::{Style, Text};
use crate::roles::declarations::DeclarationsError;

#[derive(Debug)]
pub(super) struct Failure {
    what: String,
    why: Vec<String>,
    next: Option<String>,
    exit: Exit,
    /// Whoever reads us went away: there is nobody to say it to.
    silent: bool,
}

impl Failure {
    pub(super) fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), why: Vec::new(), next: None, exit: Exit::FAILED, silent: false }
    }

    pub(super) fn because(mut self, error: impl Into<anyhow::Error>) -> Self {
        self.why.extend(error.into().chain().map(ToString::to_string));
        self
    }

    pub(super) fn next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }

    /// Says what was wanted in the words of whoever wanted it.
    pub(super) fn about(mut self, what: impl Into<String>) -> Self {
        self.what = what.into();
        self
    }

    pub(super) fn exit(mut self, exit: Exit) -> Self {
        self.exit = exit;
        self
    }

    /// Whether it is somebody's own wish.
    pub(super) fn is_interruption(&self) -> bool {
        self.exit == Exit::CANCELLED
    }

    /// Of a write to stdout.
    pub(super) fn write(error: io::Error) -> Self {
        let broken = error.kind() == io::ErrorKind::BrokenPipe;
        let failure = Self { silent: broken, ..Self::new("cannot write to standard output") };
        if broken { failure.exit(Exit::BROKEN_PIPE) } else { failure.because(error) }
    }

    /// Says it on stderr, in as many lines as it has parts.
    pub(super) fn report(&self) -> Exit {
        if !self.silent {
            let style = Style::stderr();
            // Nowhere left to complain to.
            let _ = writeln!(io::stderr(), "{}", self.text(style));
        }
        self.exit
    }

    fn text(&self, style: Style) -> String {
        let safe = |text: &str| Text::new(text).to_string().replace('\n', "\n      ");
        let mut lines = vec![format!("{} {}", style.bad("error:"), safe(&self.what))];
        lines.extend(self.why.iter().map(|why| format!("  {} {}", style.dim("why:"), safe(why))));
        lines.extend(self.next.iter().map(|next| format!(" {} {}", style.dim("next:"), safe(next))));
        lines.join("\n")
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let exit = match error.status() {
            // What no waiting helps against; the other statuses say that the server could not.
            Some(status) if (400..500).contains(&status) && !matches!(status, 408 | 429) => Exit::REFUSED,
            _ => Exit::FAILED,
        };
        let mut failure = Self::new(error.to_string()).exit(exit);
        // The layers between say the same in more words; the innermost names the cause.
        let innermost = std::iter::successors(error.source(), |error| (*error).source()).last();
        failure.why.extend(innermost.map(ToString::to_string));
        failure.next = next_step(&error).map(str::to_owned);
        failure
    }
}

/// What to do about an error that knows it; else what may help.
pub(super) fn next_or(error: &anyhow::Error, otherwise: &str) -> String {
    let declarations = error.downcast_ref().map(DeclarationsError::next_step);
    declarations.unwrap_or_else(|| otherwise.to_owned())
}

/// For commands that take several ids: what is refused for one says nothing about the next.
#[derive(Debug, Default)]
pub(super) struct Each {
    refused: bool,
}

impl Each {
    /// The answer; `None` where it was refused, which is said. A server that cannot answer is no matter of
    /// one id.
    pub(super) fn take<T>(&mut self, id: &str, answer: Result<T, Error>) -> Result<Option<T>, Failure> {
        let failure = match answer {
            Ok(answer) => return Ok(Some(answer)),
            Err(error) => Failure::from(error),
        };
        if failure.exit != Exit::REFUSED {
            return Err(failure);
        }
        self.refused = true;
        Failure { what: format!("{id}: {}", failure.what), ..failure }.report();
        Ok(None)
    }

    pub(super) const fn exit(&self) -> Exit {
        if self.refused { Exit::REFUSED } else { Exit::DONE }
    }
}

fn next_step(error: &Error) -> Option<&'static str> {
    match error {
        Error::Unreachable { .. } => {
            Some("start it with `fumehood serve`, or leave --server out to run without one")
        }
        Error::Unexplained { status: 401 | 403, .. } => Some(TOKEN),
        _ => match error.code()? {
            "unauthenticated" => Some(TOKEN),
            "evaluation_not_found" => Some("`fumehood list` shows what there is"),
            "environment_not_found" => Some("`fumehood env list` shows what there is"),
            "not_terminal" => Some("`fumehood cancel ID` ends it"),
            "misdirected_request" => {
                Some("name the server as it names itself, or list this name in its server.allowed_hosts")
            }
            "refused_for_now" => Some("`fumehood doctor` on the server's machine says what it lacks"),
            "storage_full" => Some("`fumehood delete ID` makes room, or raise store.storage_bytes"),
            "rate_limited" | "queue_full" | "not_ready" | "overloaded" | "shutting_down" => {
                Some("try again later")
            }
            _ => None,
        },
    }
}

const TOKEN: &str = "give the server's key with --token-file or FUMEHOOD_TOKEN; it is in the file `token` of its \
     data directory";
