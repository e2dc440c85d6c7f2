//! Where a program's output goes: our own stdout and stderr, each byte as it came, or made visible
//! where a terminal would obey it.

use std::io::{self, IsTerminal as _};

use hood_client::Stream;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};

use super::super::terminal::Neutraliser;

pub(in crate::cli) struct Sink {
    writer: Box<dyn AsyncWrite + Send + Unpin>,
    /// `None` where bytes are exact.
    neutraliser: Option<Neutraliser>,
    to_terminal: bool,
    mid_line: bool,
}

/// What a sink saw.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::cli) struct Seen {
    pub(in crate::cli) made_visible: bool,
    /// A terminal's cursor was left in the middle of a line.
    pub(in crate::cli) mid_line: bool,
}

impl Sink {
    pub(in crate::cli) fn of(stream: Stream, raw: bool) -> Self {
        let (writer, to_terminal): (Box<dyn AsyncWrite + Send + Unpin>, _) = match stream {
            Stream::Stdout => (Box::new(tokio::io::stdout()), io::stdout().is_terminal()),
            Stream::Stderr | Stream::Build => (Box::new(tokio::io::stderr()), io::stderr().is_terminal()),
        };
        let neutraliser = (to_terminal && !raw).then(Neutraliser::default);
        Self { writer, neutraliser, to_terminal, mid_line: false }
    }

    pub(in crate::cli) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.neutraliser {
            None => self.put(bytes).await,
            Some(neutraliser) => {
                let shown = neutraliser.push(bytes);
                self.put(shown.as_bytes()).await
            }
        }
    }

    /// What an attempt left unfinished.
    pub(in crate::cli) async fn finish(&mut self) -> io::Result<()> {
        match &mut self.neutraliser {
            None => Ok(()),
            Some(neutraliser) => {
                let shown = neutraliser.finish();
                self.put(shown.as_bytes()).await
            }
        }
    }

    pub(in crate::cli) fn seen(&self) -> Seen {
        Seen {
            made_visible: self.neutraliser.as_ref().is_some_and(|neutraliser| neutraliser.changed),
            mid_line: self.to_terminal && self.mid_line,
        }
    }

    async fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Some(last) = bytes.last() {
            self.mid_line = *last != b'\n';
            self.writer.write_all(bytes).await?;
            self.writer.flush().await?;
        }
        Ok(())
    }
}
