//! The half that runs in the agent's binary: as launcher, as PID 1 of a place, and as the starter
//! that becomes the program. Each of these processes has exactly one thread.

mod bpf;
mod filter;
mod filters;
mod interpreter;
mod landlock;
mod launcher;
mod nest;
mod orders;
mod place;
mod privilege;
mod root;
mod starter;

use std::io;

pub use filter::{FILTER_ID, become_filter};
pub(crate) use filters::for_recluse;
pub use filters::{ForeignCall, ForeignCalls};
pub(crate) use landlock::confine_to;
pub use launcher::serve as serve_launches;
pub use orders::{Lacking, Moment, Orders, Outcome, Report, Run, read_report};
pub use place::{Cell, Starter, enter, hear};
pub use privilege::{Ended, Reaped, reap, signal_all_but, signal_everyone};
pub use starter::PATH_DIRECTORIES_MAX;

/// A step that failed, and what the kernel said.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step}")]
pub struct StepFailed {
    /// What was being done.
    pub step: &'static str,
    /// What the kernel said.
    #[source]
    pub source: io::Error,
}

/// Names the step that an error belongs to.
trait Step<T> {
    fn step(self, step: &'static str) -> Result<T, StepFailed>;
}

impl<T, E: Into<io::Error>> Step<T> for Result<T, E> {
    fn step(self, step: &'static str) -> Result<T, StepFailed> {
        self.map_err(|error| StepFailed { step, source: error.into() })
    }
}
