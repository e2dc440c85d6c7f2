//! How much of the sender one target gets: a slow or popular one must not hold the others up, nor be
//! flooded.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hood_core::Timestamp;

/// Requests to one host on their way at once.
const PER_HOST_MAX: u32 = 4;

/// Between two requests to one host: ten a second.
pub(super) const SPACING: Duration = Duration::from_millis(100);

/// Hosts remembered; beyond it those that nothing is on its way to are forgotten.
const HOSTS_MAX: usize = 4096;

#[derive(Clone, Debug, Default)]
pub(super) struct Pace {
    hosts: Arc<Mutex<HashMap<String, Host>>>,
}

#[derive(Clone, Copy, Debug)]
struct Host {
    in_flight: u32,
    /// Nothing is sent to it earlier. Only what is sent moves this: one that was told to come later and
    /// then does must not find its own place in the line taken, by itself and by all who wait.
    free_at: Timestamp,
    /// When the next one that has to wait is to come again.
    line_end: Timestamp,
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
    /// To be asked in the order in which they are due: whoever waits longest comes first.
    pub(super) fn turn(&self, host: &str, now: Timestamp) -> Turn {
        let mut hosts = self.lock();
        if hosts.len() >= HOSTS_MAX && !hosts.contains_key(host) {
            hosts.retain(|_, host| !host.is_idle(now));
        }
        let entry = hosts.entry(host.to_owned());
        let entry = entry.or_insert(Host { in_flight: 0, free_at: now, line_end: now });
        if entry.free_at > now || entry.in_flight >= PER_HOST_MAX {
            let at = entry.line_end.max(entry.free_at).max(now.after(SPACING));
            entry.line_end = at.after(SPACING);
            return Turn::Later(at);
        }
        entry.in_flight += 1;
        entry.free_at = now.after(SPACING);
        Turn::Now(Held { pace: self.clone(), host: host.to_owned() })
    }

    /// Whether somebody was told to come later, and that is still to come.
    pub(super) fn has_line(&self, now: Timestamp) -> bool {
        self.lock().values().any(|host| host.line_end > now)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Host>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Host {
    fn is_idle(&self, now: Timestamp) -> bool {
        self.in_flight == 0 && self.free_at.max(self.line_end) <= now
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

    /// However many wait, and however late each comes: as many are sent as the pace allows.
    #[test]
    fn nobody_who_waits_keeps_the_others_from_being_sent() {
        let pace = Pace::default();
        let mut waiting: Vec<Timestamp> = vec![at(0); 50];
        let mut sent = 0;
        // Somebody looks each 110 ms, a little late each time.
        for look in 0..50 {
            let now = at(look * 110);
            waiting.sort();
            waiting.retain_mut(|due| {
                if *due > now {
                    return true;
                }
                match pace.turn("a", now) {
                    Turn::Now(_) => {
                        sent += 1;
                        false
                    }
                    Turn::Later(then) => {
                        assert!(then > now);
                        *due = then;
                        true
                    }
                }
            });
            assert_eq!(sent, look + 1, "one in each look");
            assert!(waiting.is_empty() || pace.has_line(now));
        }
        assert!(!pace.has_line(at(60_000)));
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
