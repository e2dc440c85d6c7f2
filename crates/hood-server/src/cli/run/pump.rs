//! One of the program's streams, from the server to ours. Each stream has a pump of its own: a
//! slow reader of one does not hold the other up.

use std::io;

use hood_client::{Client, Error, Stream};
use tokio::sync::mpsc;

use super::sink::{Seen, Sink};

/// More attempts than any evaluation has.
pub(super) const ATTEMPTS_AHEAD: usize = 64;

/// What a pump says when it has ended.
#[derive(Debug)]
pub(super) struct Pumped {
    pub(super) stream: Stream,
    /// Bytes of the last attempt that were shown.
    pub(super) offset: u64,
    pub(super) seen: Seen,
    pub(super) trouble: Option<Trouble>,
}

#[derive(Debug)]
pub(super) enum Trouble {
    Client(Error),
    Write(io::Error),
}

/// Shows every attempt that is announced, each from its beginning to its end.
pub(super) async fn pump(
    client: Client,
    id: String,
    stream: Stream,
    raw: bool,
    mut attempts: mpsc::Receiver<u32>,
) -> Pumped {
    let mut sink = Sink::of(stream, raw);
    let mut offset = 0;
    let mut trouble = None;
    while trouble.is_none()
        && let Some(attempt) = attempts.recv().await
    {
        let mut output = client.follow_output(&id, stream, attempt, 0);
        trouble = loop {
            match output.next().await {
                Ok(Some(bytes)) => {
                    if let Err(error) = sink.write(&bytes).await {
                        break Some(Trouble::Write(error));
                    }
                }
                Ok(None) => break sink.finish().await.err().map(Trouble::Write),
                Err(error) => break Some(Trouble::Client(error)),
            }
        };
        offset = output.offset();
    }
    Pumped { stream, offset, seen: sink.seen(), trouble }
}
