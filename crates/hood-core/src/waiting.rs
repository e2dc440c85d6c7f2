//! Whether what has waited too long may be given up on just now, and with which reason.

use std::time::Duration;

use crate::time::Timestamp;

/// Dispatchers that are not heard have this long, or `queue_ttl` where that is shorter: a worker that
/// has just begun, or one of whose dispatchers restarts, knows nothing yet of what could be taken.
const HEARD_WITHIN: Duration = Duration::from_secs(10);

/// What one look at the catalogue says of places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// No executor has ever been heard.
    Unheard,
    /// None that answers has places.
    Closed,
    Open,
}

/// How it has been with places, as far as this worker has seen.
#[derive(Clone, Copy, Debug)]
pub struct Places {
    seen: Sight,
    /// Since when it is so; that the worker began counts as a change.
    since: Timestamp,
}

/// What one look at the queue has left there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// All that was due has been taken: what is left waits for its own time, and not for a place.
    NothingDue,
    /// There may be more, and no place of this worker's is free.
    Perhaps,
}

/// Why nothing took what has waited for too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Never in this worker's life has a dispatcher answered.
    NeverHeard { for_the: Duration },
    /// No place is open.
    Closed,
    /// There are places, and all are taken; they were there for as long as anybody may wait.
    Taken,
    /// All are taken, and there were none until a while ago.
    TakenSince { open_for: Duration },
}

impl Places {
    pub const fn unseen(now: Timestamp) -> Self {
        Self { seen: Sight::Unheard, since: now }
    }

    pub fn look(&mut self, seen: Sight, now: Timestamp) {
        if seen != self.seen {
            *self = Self { seen, since: now };
        }
    }

    /// `None` while what waits may still be taken.
    pub fn cause(&self, left: Left, queue_ttl: Duration, now: Timestamp) -> Option<Cause> {
        let so_for = now.since(self.since);
        match (self.seen, left) {
            (Sight::Open, Left::NothingDue) => None,
            (Sight::Open, Left::Perhaps) if so_for >= queue_ttl => Some(Cause::Taken),
            (Sight::Open, Left::Perhaps) => Some(Cause::TakenSince { open_for: so_for }),
            (Sight::Unheard | Sight::Closed, _) if so_for < HEARD_WITHIN.min(queue_ttl) => None,
            (Sight::Unheard, _) => Some(Cause::NeverHeard { for_the: so_for }),
            (Sight::Closed, _) => Some(Cause::Closed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(3);

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_micros(seconds * 1_000_000)
    }

    #[test]
    fn a_dispatcher_that_was_never_heard_is_waited_for_and_then_named_as_the_reason() {
        let mut places = Places::unseen(at(100));
        places.look(Sight::Unheard, at(102));
        assert_eq!(places.cause(Left::Perhaps, TTL, at(102)), None, "it has just begun");
        let never = Some(Cause::NeverHeard { for_the: TTL });
        assert_eq!(places.cause(Left::Perhaps, TTL, at(103)), never);
        let long = Duration::from_secs(3600);
        assert_eq!(places.cause(Left::Perhaps, long, at(109)), None);
        assert!(places.cause(Left::Perhaps, long, at(110)).is_some(), "no longer than that");
    }

    #[test]
    fn what_may_still_be_taken_is_not_given_up_on() {
        let mut places = Places::unseen(at(0));
        places.look(Sight::Open, at(100));
        assert_eq!(places.cause(Left::NothingDue, TTL, at(200)), None);
        let since = Some(Cause::TakenSince { open_for: Duration::from_secs(1) });
        assert_eq!(places.cause(Left::Perhaps, TTL, at(101)), since, "not for the whole time");
        places.look(Sight::Open, at(102));
        assert_eq!(places.cause(Left::Perhaps, TTL, at(103)), Some(Cause::Taken));
    }

    #[test]
    fn a_dispatcher_that_went_away_has_a_while_to_come_back() {
        let mut places = Places::unseen(at(0));
        places.look(Sight::Open, at(1));
        places.look(Sight::Closed, at(50));
        assert_eq!(places.cause(Left::Perhaps, TTL, at(52)), None);
        assert_eq!(places.cause(Left::Perhaps, TTL, at(53)), Some(Cause::Closed));
    }
}
