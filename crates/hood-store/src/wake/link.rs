//! Whether the bus is there, said once when that changes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// How far the hints of this process go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    /// No other process is asked for: the bus is memory.
    Alone,
    Connected,
    /// The others are heard by polling alone: later, and never wrong.
    CutOff {
        reason: String,
    },
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Half {
    Listening,
    Publishing,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Unknown,
    Up,
    Down(String),
}

/// Both ways that hints go.
#[derive(Debug, Default)]
pub(super) struct Link {
    halves: Mutex<Halves>,
    outages: AtomicU64,
    gaps: AtomicU64,
}

/// What went wrong on the bus, since the process began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mishaps {
    /// Times that the others could not be reached any more.
    pub outages: u64,
    /// Times that hints were found missing, or could not be read.
    pub gaps: u64,
}

#[derive(Debug, Default)]
struct Halves {
    listening: State,
    publishing: State,
    /// An outage was logged, and its end was not yet.
    told: bool,
}

impl Link {
    pub(super) fn up(&self, half: Half) {
        self.set(half, State::Up);
    }

    pub(super) fn down(&self, half: Half, reason: &redis::RedisError) {
        self.set(half, State::Down(cut(reason.to_string())));
    }

    fn set(&self, half: Half, state: State) {
        let mut halves = self.halves.lock().unwrap_or_else(PoisonError::into_inner);
        match half {
            Half::Listening => halves.listening = state,
            Half::Publishing => halves.publishing = state,
        }
        match halves.reach() {
            Reach::CutOff { reason } if !halves.told && halves.is_down() => {
                halves.told = true;
                self.outages.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(
                    error = %reason,
                    "the bus cannot be reached; until it can, other processes are heard by polling"
                );
            }
            Reach::Connected if halves.told => {
                halves.told = false;
                tracing::info!("the bus is reached again");
            }
            _ => {}
        }
    }

    /// Something was said that this process did not hear.
    pub(super) fn missed(&self) {
        self.gaps.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn mishaps(&self) -> Mishaps {
        let [outages, gaps] = [&self.outages, &self.gaps].map(|count| count.load(Ordering::Relaxed));
        Mishaps { outages, gaps }
    }

    pub(super) fn reach(&self) -> Reach {
        self.halves.lock().unwrap_or_else(PoisonError::into_inner).reach()
    }
}

/// Of an error that is logged and shown: enough to say what it is. One about an entry that cannot be
/// read holds all of the entry, which anybody on the bus may have written.
const REASON_BYTES_MAX: usize = 512;

fn cut(mut reason: String) -> String {
    let bytes = reason.len();
    if bytes > REASON_BYTES_MAX {
        reason.truncate(reason.floor_char_boundary(REASON_BYTES_MAX));
        reason.push_str(&format!("… ({bytes} bytes)"));
    }
    reason
}

impl Halves {
    fn is_down(&self) -> bool {
        [&self.listening, &self.publishing].into_iter().any(|half| matches!(half, State::Down(_)))
    }

    fn reach(&self) -> Reach {
        match (&self.listening, &self.publishing) {
            (State::Up, State::Up) => Reach::Connected,
            (State::Down(reason), _) | (_, State::Down(reason)) => Reach::CutOff { reason: reason.clone() },
            _ => Reach::CutOff { reason: "not connected yet".to_owned() },
        }
    }
}

#[cfg(test)]
mod tests {
    //! White box.

    use redis::{FromRedisValue as _, RedisError, Value};

    use super::*;

    #[test]
    fn what_cannot_be_read_is_not_repeated_whole() {
        let entry = Value::BulkString("é".repeat(50_000).into_bytes());
        let error = RedisError::from(u64::from_redis_value(entry).expect_err("no number"));
        assert!(error.to_string().len() > 100_000, "it repeats all of it");
        let link = Link::default();
        link.down(Half::Listening, &error);
        let Reach::CutOff { reason } = link.reach() else { panic!("it is down") };
        assert!(reason.len() < REASON_BYTES_MAX + 32, "{} bytes", reason.len());
        assert!(error.to_string().starts_with(&reason[..100]), "{reason}");
    }
}
