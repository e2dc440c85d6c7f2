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
        self.set(half, State::Down(reason.to_string()));
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
