use std::collections::{BTreeMap, HashSet};

use hood_core::{State, Tenant};

use crate::wake::Signal;

/// How many evaluations came to a state that is not terminal, less those that left it.
pub(crate) type Depths = BTreeMap<(Tenant, State, u8), i64>;

/// What one transaction has done beside its rows.
#[derive(Debug, Default)]
pub(super) struct Room {
    /// Bytes in use when it began, and what was added since.
    pub(super) used_bytes: u64,
    /// What was added alone.
    pub(super) added_bytes: u64,
    /// Evaluations queued when it began; `depths` has what changed since.
    pub(super) queued: u64,
    pub(super) depths: Depths,
    /// Wake-ups to send once it is durable.
    pub(super) signals: HashSet<Signal>,
}

/// What bytes take when they are written: as much again in the log, until that is folded.
fn stored(bytes: usize) -> u64 {
    (bytes as u64).saturating_mul(2)
}

/// What one operation sees of the transaction, and what it does beside its rows: of no account
/// until it is known that they are kept.
#[derive(Debug)]
pub(crate) struct Context<'r> {
    room: &'r mut Room,
    grown: u64,
    depths: Depths,
    signals: HashSet<Signal>,
}

impl<'r> Context<'r> {
    pub(super) fn of(room: &'r mut Room) -> Self {
        Self { room, grown: 0, depths: Depths::new(), signals: HashSet::new() }
    }

    pub(super) fn keep(self) {
        let room = self.room;
        room.used_bytes = room.used_bytes.saturating_add(self.grown);
        room.added_bytes = room.added_bytes.saturating_add(self.grown);
        room.signals.extend(self.signals);
        for (key, change) in self.depths {
            *room.depths.entry(key).or_default() += change;
        }
    }

    pub(crate) fn used_bytes(&self) -> u64 {
        self.room.used_bytes.saturating_add(self.grown)
    }

    pub(crate) fn queued(&self) -> u64 {
        let changes = self.room.depths.iter().chain(&self.depths);
        let change = changes.filter(|((_, state, _), _)| *state == State::Queued).map(|(_, n)| n).sum();
        self.room.queued.saturating_add_signed(change)
    }

    /// Whether so many bytes more stay within a bound.
    pub(crate) fn fits(&self, bytes: usize, bound: u64) -> bool {
        self.used_bytes().saturating_add(stored(bytes)) <= bound
    }

    pub(crate) fn grow(&mut self, bytes: usize) {
        self.grown = self.grown.saturating_add(stored(bytes));
    }

    pub(crate) fn signal(&mut self, signal: Signal) {
        self.signals.insert(signal);
    }

    /// One evaluation goes from a state to another; a new one comes from nowhere.
    pub(crate) fn moved(&mut self, (tenant, priority): (&Tenant, u8), from: Option<State>, to: State) {
        for (state, change) in [(from, -1), (Some(to), 1)] {
            if let Some(state) = state.filter(|state| !state.is_terminal()) {
                *self.depths.entry((tenant.clone(), state, priority)).or_default() += change;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    //! White box: from outside one sees the log only after it was folded.

    use super::*;

    #[test]
    fn what_is_written_takes_as_much_again_in_the_log() {
        let mut room = Room { used_bytes: 100, ..Room::default() };
        let mut first = Context::of(&mut room);
        assert!(first.fits(50, 200) && !first.fits(51, 200), "to the byte");
        first.grow(30);
        assert!(first.fits(20, 200) && !first.fits(21, 200), "its own counts at once");
        first.keep();
        let mut undone = Context::of(&mut room);
        undone.grow(20);
        drop(undone);
        assert!(Context::of(&mut room).fits(20, 200), "what was undone counts no more");
    }
}
