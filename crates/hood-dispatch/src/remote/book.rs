//! What a dispatcher remembers of attempts: the highest token that it has seen of each, who listens,
//! and which will never be here again. Synchronous: it decides, and does nothing.

use std::collections::{HashMap, VecDeque};

use futures::future::{BoxFuture, Shared};
use hood_wire::dispatch::{FrameBody, Problem, ProblemCode};
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::convert::problem;
use crate::dispatch::AttemptKey;

/// Attempts of which nothing will be taken any more. What arrives later than this many others were
/// given up has been under way for hours; should it be taken after all, no worker releases it.
const FENCES_MAX: usize = 65_536;

/// The outcome of making a place, for everybody who asked for it.
pub(super) type Opening = Shared<BoxFuture<'static, Result<(), Problem>>>;

#[derive(Debug, Default)]
pub(super) struct Book {
    places: HashMap<AttemptKey, Entry>,
    fences: HashMap<AttemptKey, u64>,
    fenced: VecDeque<AttemptKey>,
    listeners: u64,
}

#[derive(Debug)]
struct Entry {
    highest: u64,
    opening: Option<Opening>,
    listener: Option<Listener>,
    /// Given back when the place is known to be gone.
    permit: Option<OwnedSemaphorePermit>,
}

#[derive(Debug)]
struct Listener {
    number: u64,
    told: watch::Sender<Told>,
}

/// What a stream is told from outside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) acknowledged: u64,
    /// The stream ends with this.
    pub(super) end: Option<FrameBody>,
}

/// What is to be done about an order.
pub(super) enum Execute {
    /// Nothing is here yet; the caller makes a place.
    Make,
    /// It is being made or is here.
    Known(Option<Opening>),
}

fn stale() -> Problem {
    problem(ProblemCode::Stale, String::new())
}

impl Book {
    pub(super) fn execute(&mut self, key: AttemptKey, token: u64) -> Result<Execute, Problem> {
        if self.fences.get(&key).is_some_and(|fence| token <= *fence) {
            return Err(stale());
        }
        if self.places.contains_key(&key) {
            self.raise(key, token)?;
            let opening = self.places.get(&key).and_then(|entry| entry.opening.clone());
            return Ok(Execute::Known(opening));
        }
        self.places.insert(key, Entry::new(token));
        Ok(Execute::Make)
    }

    pub(super) fn opening(&mut self, key: AttemptKey, opening: Opening) {
        if let Some(entry) = self.places.get_mut(&key) {
            entry.opening = Some(opening);
        }
    }

    /// The place was made, with this right to it.
    pub(super) fn occupy(&mut self, key: AttemptKey, permit: OwnedSemaphorePermit) {
        if let Some(entry) = self.places.get_mut(&key) {
            entry.permit = Some(permit);
        }
    }

    /// Takes note of a token, or says that a higher one was seen. Whoever listens with a lower one is
    /// told to stop.
    pub(super) fn raise(&mut self, key: AttemptKey, token: u64) -> Result<(), Problem> {
        let Some(entry) = self.places.get_mut(&key) else { return Ok(()) };
        if token < entry.highest {
            return Err(stale());
        }
        if token > entry.highest {
            entry.highest = token;
            entry.dismiss(&FrameBody::Stale);
        }
        Ok(())
    }

    /// A new stream takes the place of the one before it.
    pub(super) fn listen(
        &mut self,
        key: AttemptKey,
        token: u64,
    ) -> Result<(u64, watch::Receiver<Told>), Problem> {
        self.raise(key, token)?;
        self.listeners += 1;
        let number = self.listeners;
        let (told, receiver) = watch::channel(Told::default());
        let entry = self.places.entry(key).or_insert_with(|| Entry::new(token));
        entry.dismiss(&FrameBody::Replaced);
        entry.listener = Some(Listener { number, told });
        Ok((number, receiver))
    }

    /// A stream has ended; the place may live on.
    pub(super) fn left(&mut self, key: AttemptKey, number: u64) {
        if let Some(entry) = self.places.get_mut(&key)
            && entry.listener.as_ref().is_some_and(|listener| listener.number == number)
        {
            entry.listener = None;
        }
    }

    /// True where somebody listens and passes it on.
    pub(super) fn acknowledge(&mut self, key: AttemptKey, token: u64, number: u64) -> Result<bool, Problem> {
        let Some(entry) = self.places.get(&key) else { return Ok(false) };
        if token != entry.highest {
            return Err(stale());
        }
        let Some(listener) = &entry.listener else { return Ok(false) };
        listener.told.send_if_modified(|told| {
            let higher = number > told.acknowledged;
            told.acknowledged = told.acknowledged.max(number);
            higher
        });
        Ok(true)
    }

    /// Nothing of this attempt is here, and nothing with this token or a lower one will be.
    pub(super) fn fence(&mut self, key: AttemptKey, token: u64) {
        let token = self.places.remove(&key).map_or(token, |entry| entry.highest.max(token));
        match self.fences.insert(key, token) {
            Some(before) => {
                self.fences.insert(key, before.max(token));
            }
            None => self.fenced.push_back(key),
        }
        if self.fenced.len() > FENCES_MAX
            && let Some(oldest) = self.fenced.pop_front()
        {
            self.fences.remove(&oldest);
        }
    }

    pub(super) fn knows(&self, key: AttemptKey) -> bool {
        self.places.contains_key(&key)
    }

    /// An order came, and whether it gave a place is not known yet.
    pub(super) fn is_making(&self, key: AttemptKey) -> bool {
        self.places.get(&key).is_some_and(Entry::is_making)
    }

    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// Those that have a place or are about to.
    pub(super) fn live(&self) -> usize {
        let failed =
            |entry: &&Entry| entry.opening.as_ref().and_then(|o| o.peek()).is_some_and(Result::is_err);
        self.places.len() - self.places.values().filter(failed).count()
    }

    /// Those that nobody listens to and that are not being made.
    pub(super) fn unattended(&self) -> Vec<(AttemptKey, u64)> {
        let entries = self.places.iter();
        let unattended = entries.filter(|(_, entry)| entry.is_unattended());
        unattended.map(|(key, entry)| (*key, entry.highest)).collect()
    }

    /// Fences one that is still unattended.
    pub(super) fn forget_unattended(&mut self, key: AttemptKey, token: u64) {
        if self.places.get(&key).is_some_and(Entry::is_unattended) {
            self.fence(key, token);
        }
    }

    #[cfg(test)]
    fn fences(&self) -> usize {
        self.fences.len()
    }
}

impl Entry {
    const fn new(highest: u64) -> Self {
        Self { highest, opening: None, listener: None, permit: None }
    }

    fn is_making(&self) -> bool {
        self.opening.as_ref().is_some_and(|opening| opening.peek().is_none())
    }

    fn is_unattended(&self) -> bool {
        self.listener.is_none() && !self.is_making()
    }

    fn dismiss(&mut self, with: &FrameBody) {
        if let Some(listener) = self.listener.take() {
            listener.told.send_modify(|told| told.end = Some(with.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use hood_core::{EvaluationId, Timestamp};

    use super::*;

    fn key(n: u32) -> AttemptKey {
        AttemptKey { evaluation: EvaluationId::new(Timestamp::from_micros(0), [0; 10]), attempt: n }
    }

    fn makes(book: &mut Book, token: u64) -> Option<bool> {
        book.execute(key(1), token).ok().map(|execute| matches!(execute, Execute::Make))
    }

    #[test]
    fn an_order_that_comes_again_makes_nothing() {
        let mut book = Book::default();
        assert_eq!(
            [makes(&mut book, 5), makes(&mut book, 5), makes(&mut book, 7)],
            [Some(true), Some(false), Some(false)]
        );
        assert_eq!(makes(&mut book, 5), None, "a lower token after a higher one");
    }

    #[test]
    fn what_was_said_to_be_gone_is_taken_from_nobody_who_is_late() {
        let mut book = Book::default();
        book.fence(key(1), 7);
        assert_eq!([makes(&mut book, 6), makes(&mut book, 7), makes(&mut book, 8)], [None, None, Some(true)]);
        book.fence(key(1), 3);
        assert_eq!(makes(&mut book, 8), None, "the highest that was seen is the fence");
    }

    #[test]
    fn who_has_a_higher_token_is_heard_and_the_other_told_why_not() {
        let mut book = Book::default();
        assert_eq!(makes(&mut book, 1), Some(true));
        let (_, first) = book.listen(key(1), 1).expect("listens");
        let (_, second) = book.listen(key(1), 1).expect("again");
        assert_eq!(first.borrow().end, Some(FrameBody::Replaced));
        let (_, third) = book.listen(key(1), 2).expect("higher");
        assert_eq!(second.borrow().end, Some(FrameBody::Stale));
        assert!(book.listen(key(1), 1).is_err() && book.acknowledge(key(1), 1, 9).is_err());
        book.acknowledge(key(1), 2, 4).expect("the holder's");
        book.acknowledge(key(1), 2, 3).expect("late");
        assert_eq!(*third.borrow(), Told { acknowledged: 4, end: None });
    }

    #[test]
    fn a_stream_that_was_replaced_does_not_take_its_successor_with_it() {
        let mut book = Book::default();
        assert_eq!(makes(&mut book, 1), Some(true));
        let (first, _) = book.listen(key(1), 1).expect("listens");
        let (_, second) = book.listen(key(1), 1).expect("again");
        book.left(key(1), first);
        assert_eq!(book.acknowledge(key(1), 1, 1), Ok(true));
        assert_eq!(second.borrow().acknowledged, 1);
    }

    #[test]
    fn fences_are_bounded() {
        let mut book = Book::default();
        for n in 0..=u32::try_from(FENCES_MAX).expect("small") {
            book.fence(key(n), 1);
            book.fence(key(n), 1);
        }
        assert_eq!(book.fences(), FENCES_MAX);
    }
}
