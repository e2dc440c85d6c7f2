//! What is known of a run once it is over.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hood_wire::api::{Evaluation, Event};

use crate::member::Role;
use crate::work::Work;

/// Microseconds since 1970. All processes of a run are on one machine, and so on one clock.
pub(crate) type Micros = i64;

pub(crate) fn now() -> Micros {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// One evaluation, as the API tells it when everything is over.
#[derive(Clone, Debug)]
pub(crate) struct History {
    pub(crate) work: Work,
    pub(crate) cancel_asked: bool,
    pub(crate) evaluation: Evaluation,
    pub(crate) events: Vec<Event>,
    pub(crate) outputs: Vec<Output>,
    /// What a client saw that followed it from the first event on, through every death.
    pub(crate) followed: Option<Vec<Event>>,
}

#[derive(Clone, Debug)]
pub(crate) struct Output {
    pub(crate) attempt: u32,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
}

/// One line in the log of whoever owns places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sighting {
    pub(crate) at: Micros,
    /// Index of the member that said it.
    pub(crate) member: usize,
    pub(crate) what: What,
    pub(crate) evaluation: String,
    pub(crate) attempt: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// A place is to be made.
    Ordered,
    /// The program is let go.
    Released,
    /// Its end is known.
    Ended,
}

/// A lease that was given, as the database itself noted it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LeaseTaken {
    pub(crate) evaluation: String,
    pub(crate) at: Micros,
    pub(crate) worker: String,
    pub(crate) token: i64,
    /// Of the lease before, where it had not been given back.
    pub(crate) earlier: Option<Earlier>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Earlier {
    pub(crate) worker: String,
    pub(crate) token: i64,
    pub(crate) expires_at: Micros,
}

/// A life of one of our processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Life {
    pub(crate) pid: u32,
    pub(crate) began: Micros,
    pub(crate) ended: Option<Micros>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum How {
    Kill,
    Freeze,
    /// Whatever two send each other vanishes.
    Part,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Victim {
    Member(usize),
    Database,
    Bus,
    /// Two that speak to each other, by their index.
    Pair(usize),
}

/// A blow that was dealt.
#[derive(Clone, Debug)]
pub(crate) struct Incident {
    pub(crate) at: Micros,
    pub(crate) victim: Victim,
    pub(crate) how: How,
}

/// One of the processes of a run, as the judge needs to know it.
#[derive(Clone, Debug)]
pub(crate) struct Person {
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) lives: Vec<Life>,
}

impl Person {
    /// Whether a lease's holder is this one, or one of its earlier lives. Holders are named after
    /// their member, or after their process.
    pub(crate) fn is(&self, holder: &str) -> bool {
        let pid = holder.rsplit('-').next().and_then(|pid| pid.parse::<u32>().ok());
        holder == self.name || self.lives.iter().any(|life| Some(life.pid) == pid)
    }
}

/// Everything that was seen.
#[derive(Debug, Default)]
pub(crate) struct Chronicle {
    pub(crate) histories: Vec<History>,
    pub(crate) sightings: Vec<Sighting>,
    pub(crate) leases: Vec<LeaseTaken>,
    pub(crate) people: Vec<Person>,
    pub(crate) incidents: Vec<Incident>,
    /// What the pairs are called.
    pub(crate) pairs: Vec<&'static str>,
    /// Ids that the API lists as this run's.
    pub(crate) listed: Vec<String>,
}
