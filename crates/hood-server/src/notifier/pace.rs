//! How much of the sender one target gets: a slow or popular one must not hold the others up, nor be
//! flooded.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hood_core::Timestamp;

/// Requests to one host on their way at once.
const PER_HOST_MAX: u32 = 4;

/// Between two requests to one host: ten a second.
const SPACING: Duration = Duration::from_millis(100);

/// Hosts remembered; beyond it those that nothing is on its way to are forgotten.
const HOSTS_MAX: usize = 4096;

#[derive(Clone, Debug, Default)]
pub(super) struct Pace {
    hosts: Arc<Mutex<HashMap<String, Host>>>,
}

#[derive(Clone, Copy, Debug)]
struct Host {
    in_flight: u32,
    /// Nothing is sent to it earlier.
    free_at: Timestamp,
}

/// One request's right to be on its way; dropping it gives it back.
#[derive(Debug)]
pub(super) struct Held {
    pace: Pace,
    host: String,
}

#[derive(Debug)]
pub(super) enum Turn {
    Now(Held),
    Later(Timestamp),
}

impl Pace {
    pub(super) fn turn(&self, host: &str, now: Timestamp) -> Turn {
        let mut hosts = self.lock();
        if hosts.len() >= HOSTS_MAX && !hosts.contains_key(host) {
            hosts.retain(|_, host| host.in_flight > 0 || host.free_at > now);
        }
        let entry = hosts.entry(host.to_owned()).or_insert(Host { in_flight: 0, free_at: now });
        let turn = entry.free_at.max(now);
        // Its place in the line is its own, whether that is now or later.
        entry.free_at = turn.after(SPACING);
        if turn > now || entry.in_flight >= PER_HOST_MAX {
            return Turn::Later(turn.max(now.after(SPACING)));
        }
        entry.in_flight += 1;
        Turn::Now(Held { pace: self.clone(), host: host.to_owned() })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Host>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(host) = self.pace.lock().get_mut(&self.host) {
            host.in_flight = host.in_flight.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_micros(1_700_000_000_000_000 + millis * 1000)
    }

    #[test]
    fn each_waits_its_turn_and_hosts_do_not_wait_for_each_other() {
        let pace = Pace::default();
        let Turn::Now(first) = pace.turn("a", at(0)) else { panic!("nothing is on its way") };
        assert!(matches!(pace.turn("a", at(0)), Turn::Later(then) if then == at(100)));
        assert!(matches!(pace.turn("a", at(0)), Turn::Later(then) if then == at(200)), "one after the other");
        assert!(matches!(pace.turn("b", at(0)), Turn::Now(_)));
        drop(first);
        assert!(matches!(pace.turn("a", at(300)), Turn::Now(_)));
    }

    #[test]
    fn one_host_has_so_many_on_their_way_and_no_more() {
        let pace = Pace::default();
        let mut held = Vec::new();
        for i in 0..4 {
            let Turn::Now(one) = pace.turn("a", at(i * 100)) else { panic!("{i} fits") };
            held.push(one);
        }
        assert!(matches!(pace.turn("a", at(1000)), Turn::Later(_)));
        held.pop();
        assert!(matches!(pace.turn("a", at(2000)), Turn::Now(_)));
    }
}
