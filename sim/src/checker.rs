//! Holds a complete history against what was promised. It knows nothing of how the history came to
//! be: a simulated world or real processes.

mod course;
mod ending;

use std::collections::BTreeMap;
use std::fmt;

use hood_core::outcome::Stream;
use hood_core::retry::RetryPolicy;
use hood_core::{EvaluationId, Event};
use hood_dispatch::AttemptKey;
use hood_store::Record;

use crate::history::{Ending, Entry};

/// A promise that was not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub rule: Rule,
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule.as_str(), self.what)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// What was accepted ends, once, and soon after whatever was in its way is over.
    EndsOnce,
    /// Events are numbered from 1 without gaps, one for each transition, and lead to the record.
    Gapless,
    /// Nobody is shown or told what is not durable yet.
    DurableFirst,
    /// A lease's token rises with each holder, and only the highest writes.
    Fenced,
    /// No attempt is executed twice, and no two of an evaluation at once.
    OneExecution,
    /// What is stored of an output is what was printed, to the byte.
    ExactOutput,
    /// The verdict is what happened.
    TrueVerdict,
    /// Attempts are lost no oftener than the policy allows.
    BoundedRetries,
}

impl Rule {
    pub const ALL: [Self; 8] = [
        Self::EndsOnce,
        Self::Gapless,
        Self::DurableFirst,
        Self::Fenced,
        Self::OneExecution,
        Self::ExactOutput,
        Self::TrueVerdict,
        Self::BoundedRetries,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::EndsOnce => "ends-once",
            Self::Gapless => "gapless",
            Self::DurableFirst => "durable-first",
            Self::Fenced => "fenced",
            Self::OneExecution => "one-execution",
            Self::ExactOutput => "exact-output",
            Self::TrueVerdict => "true-verdict",
            Self::BoundedRetries => "bounded-retries",
        }
    }
}

/// What a program does that nobody ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Whole {
    pub stdout: u64,
    pub stderr: u64,
    pub exit: u8,
}

/// What the checker cannot know by itself.
pub trait Expected {
    fn retry(&self) -> RetryPolicy;

    /// The bytes that an attempt prints from the beginning of a stream.
    fn printed(&self, key: AttemptKey, stream: Stream, bytes: u64) -> Vec<u8>;

    /// `None` for one that cannot end by itself.
    fn whole(&self, record: &Record) -> Option<Whole>;
}

/// What was found. A rule that was broken again and again is told once for each time.
pub fn check(history: &[Entry], endings: &[Ending], expected: &dyn Expected) -> Vec<Violation> {
    let logs: BTreeMap<EvaluationId, &[Event]> =
        endings.iter().map(|ending| (ending.record.id, ending.events.as_slice())).collect();
    let (mut found, asked) = course::check(history, &logs);
    for ending in endings {
        let cancel_asked = asked.contains(&ending.record.id);
        ending::check(ending, cancel_asked, expected, &mut found);
    }
    found
}
