//! What a lease's holder writes: all of it, or none.

use hood_core::lifecycle::AnyEvaluation;
use hood_core::outcome::Stream;
use hood_core::{EventKind, State, Transition};

use super::book::Book;
use super::row::Row;
use crate::error::CommitError;
use crate::model::{Chunk, Commit, Lease};

impl Book {
    /// True where it is back in the queue now.
    pub(super) fn commit(&mut self, lease: &Lease, commit: Commit) -> Result<bool, CommitError> {
        let bound = self.config.storage_bytes.saturating_sub(self.storage().used_bytes);
        let Some(row) = self.held(lease) else { return self.check_repeated(lease, &commit) };
        let fresh = fresh(lease, row, &commit.transitions)?.to_vec();
        check(lease, row.evaluation, &fresh, commit.result.is_some())?;
        // On a copy, so that what fails half way has written nothing.
        let mut changed = row.clone();
        append(lease, &mut changed, &commit.output, bound)?;
        changed.environment_digest = commit.environment_digest.or(changed.environment_digest);
        changed.current(|attempt| {
            attempt.decision = commit.decision.or_else(|| attempt.decision.take());
            attempt.lost = commit.lost.or_else(|| attempt.lost.take());
        });
        for transition in &fresh {
            changed.step(transition)?;
        }
        if commit.result.is_some() {
            changed.result = commit.result;
        }
        let requeued = changed.state() == State::Queued;
        *row = changed;
        Ok(requeued)
    }

    /// Nobody holds it with this lease. If that is because of this very commit, it stands as it was
    /// written.
    fn check_repeated(&mut self, lease: &Lease, commit: &Commit) -> Result<bool, CommitError> {
        let row = self.of_lease(lease).ok_or(CommitError::StaleLease)?;
        let last_event = row.evaluation.history().last_event;
        match commit.transitions.last() {
            Some(last) if last.event().number <= last_event => {
                check_known(lease, row, &commit.transitions).map(|()| false)
            }
            _ => Err(CommitError::StaleLease),
        }
    }
}

/// The transitions that are not in the log yet. Those that are must be in it word for word.
fn fresh<'c>(
    lease: &Lease,
    row: &Row,
    transitions: &'c [Transition],
) -> Result<&'c [Transition], CommitError> {
    check_known(lease, row, transitions)?;
    let last_event = row.evaluation.history().last_event;
    let known = transitions.iter().take_while(|transition| transition.event().number <= last_event).count();
    Ok(&transitions[known..])
}

fn check_known(lease: &Lease, row: &Row, transitions: &[Transition]) -> Result<(), CommitError> {
    let last_event = row.evaluation.history().last_event;
    for event in transitions.iter().map(Transition::event).filter(|event| event.number <= last_event) {
        if !row.events.contains(event) {
            return Err(CommitError::OutOfOrder {
                evaluation: lease.evaluation,
                number: event.number,
                last_event,
            });
        }
    }
    Ok(())
}

/// Whether the core would have it so.
fn check(
    lease: &Lease,
    before: AnyEvaluation,
    fresh: &[Transition],
    has_result: bool,
) -> Result<(), CommitError> {
    let evaluation = lease.evaluation;
    let mut reached = before;
    for event in fresh.iter().map(Transition::event) {
        let begins = matches!(event.kind, EventKind::AttemptStarted { .. });
        let last_event = reached.history().last_event;
        let held = matches!(reached.state(), State::Provisioning | State::Running);
        if begins || !held || reached.apply(event).is_err() {
            return Err(CommitError::OutOfOrder { evaluation, number: event.number, last_event });
        }
    }
    if reached.state().is_terminal() == has_result {
        Ok(())
    } else {
        Err(CommitError::Unpaired { evaluation })
    }
}

/// Appends what is new of the chunks, up to `room` bytes: a stream that has no room is cut.
fn append(lease: &Lease, row: &mut Row, chunks: &[Chunk], mut room: u64) -> Result<(), CommitError> {
    let Some(attempt) = row.attempts.last_mut() else { return Err(CommitError::StaleLease) };
    for stream in Stream::ALL {
        if attempt.record.output_cut {
            continue;
        }
        let stored = attempt.stream(stream).len();
        let mut fresh = Vec::new();
        for chunk in chunks.iter().filter(|chunk| chunk.stream == stream) {
            let reached = (stored + fresh.len()) as u64;
            let Some(known) = reached.checked_sub(chunk.offset) else {
                let (evaluation, offset) = (lease.evaluation, chunk.offset);
                return Err(CommitError::OutputGap { evaluation, stream, offset, stored: reached });
            };
            let known = usize::try_from(known).unwrap_or(usize::MAX);
            fresh.extend_from_slice(chunk.bytes.get(known..).unwrap_or_default());
        }
        match room.checked_sub(fresh.len() as u64) {
            Some(left) => {
                room = left;
                attempt.stream_mut(stream).append(&mut fresh);
            }
            None => attempt.record.output_cut = true,
        }
    }
    Ok(())
}
