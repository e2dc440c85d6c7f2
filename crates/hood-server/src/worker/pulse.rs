//! Whether the worker still looks at the queue, for health checks.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hood_store::StoreError;

/// A worker looks several times a second; one that did not for this long is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(10);

/// Cheap to clone: all clones tell of the same worker.
#[derive(Clone, Debug, Default)]
pub struct Pulse {
    last: Arc<Mutex<Option<Beat>>>,
}

#[derive(Clone, Debug)]
struct Beat {
    at: Instant,
    error: Option<String>,
}

impl Pulse {
    pub(super) fn beat(&self, error: Option<&StoreError>) {
        let beat = Beat { at: Instant::now(), error: error.map(ToString::to_string) };
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(beat);
    }

    /// What is wrong with the worker, if something is.
    pub fn check(&self) -> Result<(), String> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match last {
            None => Err("the worker has not looked at the queue yet".to_owned()),
            Some(Beat { error: Some(error), .. }) => Err(format!("the worker cannot lease: {error}")),
            Some(Beat { at, .. }) if at.elapsed() > STUCK_AFTER => {
                Err(format!("the worker has not looked at the queue for {} s", at.elapsed().as_secs()))
            }
            Some(_) => Ok(()),
        }
    }
}
