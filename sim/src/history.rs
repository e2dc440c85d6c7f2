//! Everything that happened, in one order, as whoever sees all of it at once would write it down.
//! What a run cannot see of itself (a chaos run over real processes does not see when a place
//! died) is left out, and what follows from it is not checked.

use std::sync::{Arc, Mutex, PoisonError};

use hood_core::outcome::Stream;
use hood_core::{EvaluationId, Event, Timestamp};
use hood_dispatch::AttemptKey;
use hood_store::Record;

/// One thing that happened, or that somebody saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deed {
    /// A client was told that it is accepted.
    Accepted { id: EvaluationId },
    /// A client was told that its wish to cancel is stored, or the wish may have been.
    CancelAsked { id: EvaluationId },
    /// The store granted a lease: for a new attempt, or of one that had lapsed.
    Leased { key: AttemptKey, token: u64, worker: String, takes_over: bool },
    /// The store has this for good: what the lease's holder wrote.
    Committed { key: AttemptKey, token: u64, events: Vec<Event>, output: Vec<Extent> },
    /// A place said this for the first time.
    Said { key: AttemptKey, number: u64, what: Word },
    /// A place heard that everything up to this report is durable.
    Acknowledged { key: AttemptKey, number: u64 },
    /// The first instruction of the program.
    Began { key: AttemptKey },
    /// Nothing of the program lives any more.
    Died { key: AttemptKey },
    /// A follower was shown an event.
    Observed { follower: u32, id: EvaluationId, event: Event },
}

/// Where a piece of output ends in its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    pub stream: Stream,
    pub end: u64,
}

/// What a report of a place means to the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    Ready,
    Output(Extent),
    Ended,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub at: Timestamp,
    pub deed: Deed,
}

/// An evaluation as the store has it when all is over.
#[derive(Clone, Debug)]
pub struct Ending {
    pub record: Record,
    pub events: Vec<Event>,
    /// Of each attempt, from the first: what is stored of both streams.
    pub output: Vec<[Vec<u8>; 2]>,
}

/// Written by all who do something. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Chronicle(Arc<Mutex<Vec<Entry>>>);

impl Chronicle {
    pub fn write(&self, at: Timestamp, deed: Deed) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Entry { at, deed });
    }

    pub fn read(&self) -> Vec<Entry> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
