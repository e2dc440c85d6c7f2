//! One dispatcher, as the worker knows it: the way to it, what it last offered, and whether it
//! answers.

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::{Either, select};
use hood_wire::dispatch::{Catalogue, Listen};

use super::merge::Word;
use super::transport::{Answer, Call, Failure, Frames, Said, Transport};
use super::{CALL_TIMEOUT, OPENING_TIMEOUT, World};
use crate::dispatch::AttemptKey;

#[derive(Debug)]
pub(super) struct Peer {
    /// Where it is, for people.
    pub(super) address: String,
    transport: Arc<dyn Transport>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    word: Option<Word>,
    /// Orders sent since that word.
    taken: u32,
    last_answer: Option<Duration>,
    /// Since when, and why, it does not answer.
    away: Option<(Duration, String)>,
}

/// What came of asking for the catalogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    Same,
    Changed,
    Nothing,
}

impl Peer {
    pub(super) fn new(address: String, transport: Arc<dyn Transport>) -> Self {
        Self { address, transport, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call that is given up on in time.
    pub(super) async fn call(&self, world: &dyn World, call: Call) -> Result<Said<Answer>, Failure> {
        let timeout = if matches!(call, Call::Execute { .. }) { OPENING_TIMEOUT } else { CALL_TIMEOUT };
        within(world, timeout, self.transport.call(call)).await
    }

    pub(super) async fn listen(
        &self,
        world: &dyn World,
        key: AttemptKey,
        listen: Listen,
    ) -> Result<Said<Frames>, Failure> {
        within(world, CALL_TIMEOUT, self.transport.listen(key, listen)).await
    }

    /// Asks for the catalogue. Says once when the dispatcher goes and once when it is back.
    pub(super) async fn ask(&self, world: &dyn World) -> Heard {
        let answer = self.call(world, Call::Capacity).await;
        let now = world.now();
        let failure = match answer {
            Ok(Said { by, what: Answer::Capacity(catalogue) }) if by == catalogue.executor => {
                return self.heard(now, &catalogue);
            }
            Ok(Said { by, .. }) => format!("`{by}` answers in another's name"),
            Err(failure) => failure.to_string(),
        };
        let mut state = self.state();
        if state.away.is_none() {
            tracing::warn!(dispatcher = %self.address, reason = %failure, "a dispatcher does not answer");
        }
        let since = state.away.as_ref().map_or(now, |(since, _)| *since);
        let was_there = state.away.replace((since, failure)).is_none();
        if was_there && state.word.is_some() { Heard::Changed } else { Heard::Nothing }
    }

    fn heard(&self, now: Duration, catalogue: &Catalogue) -> Heard {
        let word = Word::from_wire(catalogue);
        let mut state = self.state();
        let was_away = state.away.take();
        if let Some((since, _)) = &was_away {
            let away_ms = now.saturating_sub(*since).as_millis();
            tracing::info!(dispatcher = %self.address, away_ms, "a dispatcher answers again");
        }
        state.last_answer = Some(now);
        state.taken = 0;
        let same = was_away.is_none() && state.word.as_ref() == Some(&word);
        state.word = Some(word);
        if same { Heard::Same } else { Heard::Changed }
    }

    /// One place of it was spoken for.
    pub(super) fn takes(&self) {
        let mut state = self.state();
        state.taken = state.taken.saturating_add(1);
    }

    /// What it offers, less what was asked of it since it said so. One that is away offers what it
    /// did, closed.
    pub(super) fn word(&self) -> Option<Word> {
        let state = self.state();
        let mut word = state.word.clone()?;
        for offer in &mut word.offers {
            offer.free = offer.free.saturating_sub(state.taken);
            offer.open = state.away.is_none();
        }
        Some(word)
    }

    /// The life of the dispatcher that last said what it offers; empty for one that names none.
    pub(super) fn life(&self) -> String {
        self.state().word.as_ref().map(|word| word.life.clone()).unwrap_or_default()
    }

    pub(super) fn executor(&self) -> Option<String> {
        self.state().word.as_ref().map(|word| word.executor.clone())
    }

    /// Since when it is away and why; whether it ever answered.
    pub(super) fn away(&self) -> Option<(Duration, String)> {
        let state = self.state();
        match (&state.away, state.last_answer) {
            (Some(away), _) => Some(away.clone()),
            (None, None) => Some((Duration::ZERO, "it was not asked yet".to_owned())),
            (None, Some(_)) => None,
        }
    }
}

async fn within<T>(
    world: &dyn World,
    timeout: Duration,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    match select(pin!(work), world.sleep(timeout)).await {
        Either::Left((answer, _)) => answer,
        Either::Right(((), _)) => {
            Err(Failure::Unreachable(format!("no answer within {} ms", timeout.as_millis())))
        }
    }
}
