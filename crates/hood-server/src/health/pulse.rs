//! Whether a loop that looks for work in the store still does, for health checks.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hood_store::StoreError;

/// Cheap to clone: all clones tell of the same loop.
#[derive(Clone, Debug)]
pub struct Pulse {
    who: &'static str,
    /// What it looks for.
    what: &'static str,
    /// One that did not look for this long is stuck.
    stuck_after: Duration,
    last: Arc<Mutex<Option<Beat>>>,
}

#[derive(Clone, Debug)]
struct Beat {
    at: Instant,
    error: Option<String>,
}

impl Pulse {
    pub const fn name(&self) -> &'static str {
        self.who
    }

    pub(crate) fn new(who: &'static str, what: &'static str, stuck_after: Duration) -> Self {
        Self { who, what, stuck_after, last: Arc::default() }
    }

    pub(crate) fn beat(&self, error: Option<&StoreError>) {
        let beat = Beat { at: Instant::now(), error: error.map(ToString::to_string) };
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(beat);
    }

    /// What is wrong, if something is.
    pub fn check(&self) -> Result<(), String> {
        let Self { who, what, .. } = self;
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match last {
            None => Err(format!("the {who} has not looked for {what} yet")),
            Some(Beat { error: Some(error), .. }) => {
                Err(format!("the {who} cannot look for {what}: {error}"))
            }
            Some(Beat { at, .. }) if at.elapsed() > self.stuck_after => {
                Err(format!("the {who} has not looked for {what} for {} s", at.elapsed().as_secs()))
            }
            Some(_) => Ok(()),
        }
    }
}
