//! The other processes' hints, for as long as this process lives.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use redis::RedisError;
use redis::aio::MultiplexedConnection;
use redis::streams::{StreamRangeReply, StreamReadReply};
use tokio::time::sleep;

use super::backoff::Backoff;
use super::config::{BusSide, Endpoint};
use super::link::{Half, Link};
use super::local::Bus;
use super::message::{Heard, Message};

/// While the bus is away everybody looks this often: it is how much later anything is noticed.
const POLL_EVERY: Duration = Duration::from_secs(1);

/// How long the server waits for an entry before it answers that there is none: the answer is how a
/// server that froze is told from one that has nothing to say.
const BLOCK_MS: u64 = 400;

/// Beyond this the server is taken for gone: with the wait, less than `POLL_EVERY`.
const PATIENCE: Duration = Duration::from_millis(900);

/// Entries read at a time of each stream: some hundred kilobytes at most.
const ENTRIES_MAX: u64 = 64;

pub(super) async fn listen(endpoint: Arc<Endpoint>, bus: Arc<Bus>, link: Arc<Link>) {
    let mut backoff = Backoff::default();
    loop {
        let reason = match polling(&bus, Session::begin(&endpoint)).await {
            Ok(mut session) => {
                backoff = Backoff::default();
                link.up(Half::Listening);
                // What was said before the session's beginning was not heard.
                bus.fire_everything();
                session.hear(&bus, &link).await
            }
            Err(reason) => reason,
        };
        link.down(Half::Listening, &reason);
        bus.fire_everything();
        polling(&bus, sleep(backoff.pause())).await;
    }
}

/// Waits for something while the bus is away, with everybody looking meanwhile.
async fn polling<T>(bus: &Bus, waiting: impl Future<Output = T>) -> T {
    tokio::pin!(waiting);
    loop {
        tokio::select! {
            done = &mut waiting => return done,
            () = sleep(POLL_EVERY) => bus.fire_everything(),
        }
    }
}

/// One connection, and how far each stream was read.
struct Session {
    connection: MultiplexedConnection,
    streams: Vec<String>,
    positions: Vec<String>,
    heard: Heard,
}

impl Session {
    async fn begin(endpoint: &Endpoint) -> Result<Self, RedisError> {
        let mut connection = endpoint.connect(PATIENCE).await?;
        let streams: Vec<String> = BusSide::ALL.iter().map(|side| endpoint.stream(*side)).collect();
        let mut positions = Vec::with_capacity(streams.len());
        for stream in &streams {
            positions.push(last_entry(&mut connection, stream).await?);
        }
        Ok(Self { connection, streams, positions, heard: Heard::default() })
    }

    /// Passes on what is heard; ends when nothing can be heard any more.
    async fn hear(&mut self, bus: &Bus, link: &Link) -> RedisError {
        loop {
            let mut read = redis::cmd("XREAD");
            read.arg("COUNT").arg(ENTRIES_MAX).arg("BLOCK").arg(BLOCK_MS).arg("STREAMS");
            read.arg(&self.streams).arg(&self.positions);
            match read.query_async::<Option<StreamReadReply>>(&mut self.connection).await {
                Ok(reply) => self.pass_on(reply.unwrap_or_default(), bus, link),
                Err(error) => return error,
            }
        }
    }

    fn pass_on(&mut self, reply: StreamReadReply, bus: &Bus, link: &Link) {
        for stream in reply.keys {
            let Some(at) = self.streams.iter().position(|known| *known == stream.key) else { continue };
            for entry in stream.ids {
                let message = Message::read(&entry.map);
                let follows = message.as_ref().is_some_and(|message| self.heard.follows(message));
                if !follows {
                    link.missed();
                }
                match message {
                    Some(message) if follows && !message.notice.is_everything() => {
                        message.notice.signals().for_each(|signal| bus.fire(signal));
                    }
                    _ => bus.fire_everything(),
                }
                self.positions[at] = entry.id;
            }
        }
    }
}

/// What comes after this entry is what is said from now on.
async fn last_entry(connection: &mut MultiplexedConnection, stream: &str) -> Result<String, RedisError> {
    const NONE: &str = "0-0";
    let mut last = redis::cmd("XREVRANGE");
    last.arg(stream).arg("+").arg("-").arg("COUNT").arg(1);
    let found: StreamRangeReply = last.query_async(connection).await?;
    Ok(found.ids.into_iter().next().map_or_else(|| NONE.to_owned(), |entry| entry.id))
}
