//! The life of an evaluation as types. Each stage is a type that holds only that stage's data and
//! has methods only for the transitions that leave it: one that the diagram does not have cannot be
//! written down.
//!
//! ```text
//! queued ──lease──▶ provisioning ──start──▶ running ──end──▶ succeeded │ failed │ cancelled
//!   ▲ │                 │   │                 │  │
//!   │ └──────end────────┼───┴──────end────────┼──┴──▶ (any terminal state)
//!   └───────────lose────┴─────────lose────────┘
//! ```

use crate::event::{Event, EventKind};
use crate::retry::{Loss, Losses, RetryPolicy};
use crate::time::Timestamp;
use crate::verdict::Verdict;

/// The code of a stage: what a column and the API show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    Queued,
    Provisioning,
    Running,
    Succeeded,
    Failed,
    Cancelled,
}

impl State {
    pub const ALL: [Self; 6] =
        [Self::Queued, Self::Provisioning, Self::Running, Self::Succeeded, Self::Failed, Self::Cancelled];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Provisioning => "provisioning",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }

    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }

    /// The terminal state that a verdict leads to.
    pub const fn of(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Succeeded => Self::Succeeded,
            Verdict::Cancelled => Self::Cancelled,
            _ => Self::Failed,
        }
    }
}

/// What every stage knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct History {
    /// The number of the last event.
    pub last_event: u64,
    /// Attempts begun so far; the current one's number while there is one.
    pub attempts: u32,
    pub losses: Losses,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queued {
    /// No earlier than this; `None` for one that was never lost.
    pub not_before: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Provisioning;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Running;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    pub verdict: Verdict,
}

/// An evaluation in stage `S`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evaluation<S> {
    history: History,
    stage: S,
}

/// One step of a life, made only by the methods below: what the store commits, row and event in
/// one transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    event: Event,
    after: History,
}

impl Transition {
    pub const fn event(&self) -> &Event {
        &self.event
    }

    pub const fn after(&self) -> &History {
        &self.after
    }

    pub const fn to(&self) -> State {
        self.event.kind.state()
    }
}

/// An evaluation whose next stage is known to the compiler, with the step that led there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step<S> {
    pub evaluation: Evaluation<S>,
    pub transition: Transition,
}

/// Where a lost attempt leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterLoss {
    Retried(Step<Queued>),
    Final(Step<Ended>),
}

impl AfterLoss {
    pub const fn transition(&self) -> &Transition {
        match self {
            Self::Retried(step) => &step.transition,
            Self::Final(step) => &step.transition,
        }
    }
}

impl<S> Evaluation<S> {
    pub const fn history(&self) -> &History {
        &self.history
    }

    pub const fn stage(&self) -> &S {
        &self.stage
    }

    fn step<T>(self, at: Timestamp, kind: EventKind, after: History, stage: T) -> Step<T> {
        let after = History { last_event: self.history.last_event + 1, ..after };
        let event = Event { number: after.last_event, at, kind };
        Step { evaluation: Evaluation { history: after, stage }, transition: Transition { event, after } }
    }

    fn end_with(self, at: Timestamp, verdict: Verdict) -> Step<Ended> {
        let history = self.history;
        self.step(at, EventKind::Finished { verdict }, history, Ended { verdict })
    }

    fn lose_with(self, at: Timestamp, loss: Loss, policy: &RetryPolicy, dice: f64) -> AfterLoss {
        let losses = self.history.losses.and(loss);
        let after = History { losses, ..self.history };
        if !policy.allows(losses) {
            let verdict = Verdict::InfrastructureError;
            return AfterLoss::Final(self.step(
                at,
                EventKind::Finished { verdict },
                after,
                Ended { verdict },
            ));
        }
        let not_before = at.after(policy.backoff(losses, dice));
        let kind = EventKind::RetryScheduled { attempt: after.attempts, not_before };
        AfterLoss::Retried(self.step(at, kind, after, Queued { not_before: Some(not_before) }))
    }
}

impl Evaluation<Queued> {
    /// A new evaluation and its first event.
    pub const fn submit(at: Timestamp) -> Step<Queued> {
        let none = Losses { infrastructure: 0, own_death: 0, suspect: 0 };
        let history = History { last_event: 1, attempts: 0, losses: none };
        let event = Event { number: 1, at, kind: EventKind::Submitted };
        Step {
            evaluation: Self { history, stage: Queued { not_before: None } },
            transition: Transition { event, after: history },
        }
    }

    /// Begins the next attempt. Its number rises here, in the transaction that leases it, so that a
    /// crash of whoever runs it counts.
    pub fn lease(self, at: Timestamp) -> Step<Provisioning> {
        let attempt = self.history.attempts + 1;
        let after = History { attempts: attempt, ..self.history };
        self.step(at, EventKind::AttemptStarted { attempt }, after, Provisioning)
    }

    /// Ended without an attempt under way: cancelled, or given up on in the queue.
    pub fn end(self, at: Timestamp, verdict: QueueEnd) -> Step<Ended> {
        self.end_with(at, verdict.verdict())
    }

    /// Whether the next attempt must run with nothing beside it, since the last one may have taken
    /// the place down.
    pub const fn alone(&self) -> bool {
        self.history.losses.suspect > 0
    }
}

/// The ways out of the queue that need no attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueEnd {
    Cancelled,
    /// No place could take it until `queue_ttl` was over.
    GivenUp,
}

impl QueueEnd {
    const fn verdict(self) -> Verdict {
        match self {
            Self::Cancelled => Verdict::Cancelled,
            Self::GivenUp => Verdict::InfrastructureError,
        }
    }
}

impl Evaluation<Provisioning> {
    pub const fn attempt(&self) -> u32 {
        self.history.attempts
    }

    /// The program is about to be released. Committed before its first instruction, so that what a
    /// crash leaves behind never has to be guessed.
    pub fn start(self, at: Timestamp) -> Step<Running> {
        let history = self.history;
        self.step(at, EventKind::Started { attempt: history.attempts }, history, Running)
    }

    pub fn end(self, at: Timestamp, verdict: Verdict) -> Step<Ended> {
        self.end_with(at, verdict)
    }

    pub fn lose(self, at: Timestamp, loss: Loss, policy: &RetryPolicy, dice: f64) -> AfterLoss {
        self.lose_with(at, loss, policy, dice)
    }

    /// Back into the queue, because no place can take it just now. Nothing was tried, so nothing counts
    /// as lost.
    pub fn put_off(self, at: Timestamp, not_before: Timestamp) -> Step<Queued> {
        let history = self.history;
        let kind = EventKind::RetryScheduled { attempt: history.attempts, not_before };
        self.step(at, kind, history, Queued { not_before: Some(not_before) })
    }
}

impl Evaluation<Running> {
    pub const fn attempt(&self) -> u32 {
        self.history.attempts
    }

    pub fn end(self, at: Timestamp, verdict: Verdict) -> Step<Ended> {
        self.end_with(at, verdict)
    }

    /// Lost after the program's first instruction: always suspect, whatever the cause looks like.
    pub fn lose(self, at: Timestamp, policy: &RetryPolicy, dice: f64) -> AfterLoss {
        self.lose_with(at, Loss::Suspect, policy, dice)
    }
}

/// An evaluation as it comes from the store, its stage known only at run time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnyEvaluation {
    Queued(Evaluation<Queued>),
    Provisioning(Evaluation<Provisioning>),
    Running(Evaluation<Running>),
    Ended(Evaluation<Ended>),
}

/// Why an event changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ignored {
    /// Its number was applied before: late or repeated.
    Late,
    /// Numbers between the last one and it are missing.
    Gap,
    /// The stage has no such transition.
    Illegal,
}

impl AnyEvaluation {
    /// Puts together what the store holds; `None` where the columns contradict each other.
    pub fn restore(
        state: State,
        history: History,
        not_before: Option<Timestamp>,
        verdict: Option<Verdict>,
    ) -> Option<Self> {
        Some(match (state, verdict) {
            (State::Queued, None) => Self::Queued(Evaluation { history, stage: Queued { not_before } }),
            (State::Provisioning, None) => Self::Provisioning(Evaluation { history, stage: Provisioning }),
            (State::Running, None) => Self::Running(Evaluation { history, stage: Running }),
            (_, Some(verdict)) if State::of(verdict) == state => {
                Self::Ended(Evaluation { history, stage: Ended { verdict } })
            }
            _ => return None,
        })
    }

    pub const fn history(&self) -> &History {
        match self {
            Self::Queued(e) => &e.history,
            Self::Provisioning(e) => &e.history,
            Self::Running(e) => &e.history,
            Self::Ended(e) => &e.history,
        }
    }

    pub const fn state(&self) -> State {
        match self {
            Self::Queued(_) => State::Queued,
            Self::Provisioning(_) => State::Provisioning,
            Self::Running(_) => State::Running,
            Self::Ended(e) => State::of(e.stage.verdict),
        }
    }

    /// Replays one event. A late, repeated, reordered or impossible one changes nothing and says
    /// why; a lost attempt's kind is not in the log, so `losses` stay as the store holds them.
    pub fn apply(&mut self, event: &Event) -> Result<(), Ignored> {
        let history = *self.history();
        if event.number <= history.last_event {
            return Err(Ignored::Late);
        }
        if event.number > history.last_event + 1 {
            return Err(Ignored::Gap);
        }
        let at = event.at;
        *self = match (*self, event.kind) {
            (Self::Queued(e), EventKind::AttemptStarted { attempt }) if attempt == history.attempts + 1 => {
                Self::Provisioning(e.lease(at).evaluation)
            }
            (Self::Provisioning(e), EventKind::Started { attempt }) if attempt == history.attempts => {
                Self::Running(e.start(at).evaluation)
            }
            (
                Self::Provisioning(Evaluation { history, .. }) | Self::Running(Evaluation { history, .. }),
                EventKind::RetryScheduled { attempt, not_before },
            ) if attempt == history.attempts => {
                let history = History { last_event: event.number, ..history };
                Self::Queued(Evaluation { history, stage: Queued { not_before: Some(not_before) } })
            }
            (Self::Queued(e), EventKind::Finished { verdict: Verdict::Cancelled }) => {
                Self::Ended(e.end(at, QueueEnd::Cancelled).evaluation)
            }
            (Self::Queued(e), EventKind::Finished { verdict: Verdict::InfrastructureError }) => {
                Self::Ended(e.end(at, QueueEnd::GivenUp).evaluation)
            }
            (Self::Provisioning(e), EventKind::Finished { verdict }) => {
                Self::Ended(e.end(at, verdict).evaluation)
            }
            (Self::Running(e), EventKind::Finished { verdict }) => Self::Ended(e.end(at, verdict).evaluation),
            _ => return Err(Ignored::Illegal),
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests;
