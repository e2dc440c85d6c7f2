//! The nouns and rules of Fumehood, with no way to reach the world: no I/O, no clock, no runtime,
//! no randomness of its own. Whoever calls brings the time and the dice, so every rule here can be
//! tried a million times in a test and gives the same answer each time.

pub mod event;
pub mod id;
pub mod lifecycle;
pub mod limits;
pub mod outcome;
pub mod plan;
pub mod program;
pub mod retry;
pub mod risk;
pub mod time;
pub mod verdict;
pub mod visible;
pub mod waiting;

pub use event::{Event, EventKind};
pub use id::{BatchId, EvaluationId, Tenant};
pub use lifecycle::{Evaluation, State, Transition};
pub use limits::Limits;
pub use outcome::{Observation, Outcome};
pub use plan::{Assignment, Refusal, plan};
pub use program::Program;
pub use retry::{Loss, RetryPolicy};
pub use risk::RiskLevel;
pub use time::Timestamp;
pub use verdict::Verdict;
