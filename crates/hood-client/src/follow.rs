//! Streams that are taken up again where they broke off.

use std::sync::Arc;

use bytes::Bytes;
use hood_wire::api::{Building, Event};
use reqwest::{Response, StatusCode};

use crate::Error;
use crate::call::{Call, Caller};
use crate::retry::Backoff;
use crate::sse::{Message, Parser};

/// What an evaluation writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stream {
    Stdout,
    Stderr,
    /// Both of a build's.
    Build,
}

impl Stream {
    /// The program's two.
    pub const PROGRAM: [Self; 2] = [Self::Stdout, Self::Stderr];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::Build => "build",
        }
    }
}

/// The connection of a stream, and the patience with it: which is renewed whenever it moves.
#[derive(Debug)]
struct Link {
    caller: Arc<Caller>,
    response: Option<Response>,
    backoff: Backoff,
}

impl Link {
    fn new(caller: Arc<Caller>) -> Self {
        let backoff = Backoff::new(caller.retry);
        Self { caller, response: None, backoff }
    }

    /// The open response, or the one that `call` opens.
    async fn open(&mut self, call: impl FnOnce() -> Call) -> Result<&mut Response, Error> {
        let response = match self.response.take() {
            Some(response) => response,
            None => self.caller.try_once(&call(), None).await?,
        };
        Ok(self.response.insert(response))
    }

    fn moved(&mut self) {
        self.backoff = Backoff::new(self.caller.retry);
    }

    /// Lets the connection go and waits before the next one, if there may be one.
    async fn broke(&mut self, error: Error) -> Result<(), Error> {
        self.response = None;
        self.caller.pause(&mut self.backoff, error).await
    }
}

/// The bytes of one stream of one attempt, in order, none twice and none left out.
#[derive(Debug)]
pub struct OutputStream {
    link: Link,
    id: String,
    stream: Stream,
    attempt: u32,
    offset: u64,
    ended: bool,
}

impl OutputStream {
    pub(crate) fn new(caller: Arc<Caller>, id: &str, (stream, attempt): (Stream, u32), offset: u64) -> Self {
        Self { link: Link::new(caller), id: id.to_owned(), stream, attempt, offset, ended: false }
    }

    /// Where the next byte stands in the stream.
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// The next bytes; `None` once the attempt has ended and all was given. Dropping the future
    /// loses nothing.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        while !self.ended {
            match self.step().await {
                Ok(Some(bytes)) if bytes.is_empty() => {}
                Ok(Some(bytes)) => {
                    self.link.moved();
                    self.offset += bytes.len() as u64;
                    return Ok(Some(bytes));
                }
                Ok(None) => self.ended = true,
                Err(error) => self.link.broke(error).await?,
            }
        }
        Ok(None)
    }

    async fn step(&mut self) -> Result<Option<Bytes>, Error> {
        let Self { id, stream, attempt, offset, .. } = self;
        let call = || {
            Call::get(&["v1", "evaluations", id, stream.as_str()]).query([
                ("follow", "true".to_owned()),
                ("offset", offset.to_string()),
                ("attempt", attempt.to_string()),
            ])
        };
        let chunk = self.link.open(call).await?.chunk().await;
        chunk.map_err(|source| self.link.caller.unreachable(source))
    }
}

/// What comes over a stream of events.
#[derive(Clone, Debug, PartialEq)]
pub enum Heard {
    Event(Box<Event>),
    /// How far the build is that the evaluation waits for: news, of which some may be missed.
    Building(Building),
}

/// The events of one evaluation, in order, none twice and none left out, up to the terminal one.
#[derive(Debug)]
pub struct EventStream {
    link: Link,
    id: String,
    last: u64,
    parser: Parser,
    ready: std::collections::VecDeque<Heard>,
    ended: bool,
}

impl EventStream {
    pub(crate) fn new(caller: Arc<Caller>, id: &str, after: u64) -> Self {
        Self {
            link: Link::new(caller),
            id: id.to_owned(),
            last: after,
            parser: Parser::default(),
            ready: std::collections::VecDeque::new(),
            ended: false,
        }
    }

    /// The next event; `None` after the terminal one. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Option<Event>, Error> {
        loop {
            match self.hear().await? {
                Some(Heard::Event(event)) => return Ok(Some(*event)),
                Some(Heard::Building(_)) => {}
                None => return Ok(None),
            }
        }
    }

    /// As [`EventStream::next`], with news of what the evaluation waits for between the events.
    pub async fn hear(&mut self) -> Result<Option<Heard>, Error> {
        loop {
            if let Some(heard) = self.ready.pop_front() {
                self.ended |= matches!(&heard, Heard::Event(event) if event.state.is_terminal());
                return Ok(Some(heard));
            }
            if self.ended {
                return Ok(None);
            }
            match self.step().await {
                Ok(Some(messages)) if messages.is_empty() => {}
                Ok(Some(messages)) => {
                    self.link.moved();
                    self.take(messages)?;
                }
                Ok(None) if self.ended => {}
                // The server goes down, or a proxy lost patience.
                Ok(None) => self.broke(Error::Ended("the stream of events")).await?,
                Err(error) => self.broke(error).await?,
            }
        }
    }

    async fn broke(&mut self, error: Error) -> Result<(), Error> {
        // Half a message of the old connection is no beginning of the new one's first.
        self.parser = Parser::default();
        self.link.broke(error).await
    }

    async fn step(&mut self) -> Result<Option<Vec<Message>>, Error> {
        let Self { id, last, .. } = self;
        let call = || {
            let call = Call::get(&["v1", "evaluations", id, "events"]).accept("text/event-stream");
            if *last > 0 { call.header("last-event-id", *last) } else { call }
        };
        let response = self.link.open(call).await?;
        if response.status() == StatusCode::NO_CONTENT {
            // What was asked for comes after the last event.
            self.ended = true;
            return Ok(None);
        }
        let chunk = response.chunk().await.map_err(|source| self.link.caller.unreachable(source))?;
        let Some(bytes) = chunk else { return Ok(None) };
        self.parser.push(&bytes).map(Some).map_err(|error| Error::Protocol(error.to_string()))
    }

    fn take(&mut self, messages: Vec<Message>) -> Result<(), Error> {
        let odd = |source| Error::Document { what: "an event".to_owned(), source };
        for message in messages {
            if message.event == Building::EVENT {
                let news = serde_json::from_str(&message.data).map_err(odd)?;
                self.ready.push_back(Heard::Building(news));
                continue;
            }
            // News of another kind, of a newer server.
            if !message.has_id {
                continue;
            }
            let event: Event = serde_json::from_str(&message.data).map_err(odd)?;
            if event.number <= self.last {
                continue;
            }
            if event.number != self.last + 1 {
                let (last, number) = (self.last, event.number);
                return Err(Error::Protocol(format!("event {number} came after event {last}")));
            }
            self.last = event.number;
            self.ready.push_back(Heard::Event(Box::new(event)));
        }
        Ok(())
    }
}
