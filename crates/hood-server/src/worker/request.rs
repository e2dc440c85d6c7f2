//! What an attempt was asked for, from wherever it is kept.

use std::time::Duration;

use hood_store::{Claimed, StoreError};

use super::attempt::{lease_lost, stopped};
use super::leases::Held;
use super::means::Means;

/// How long a request is asked for that cannot be had just now. Then the attempt is lost, and another one
/// asks again, later: nobody holds a place for ever for the sake of a blob store that does not answer.
const PATIENCE: Duration = Duration::from_secs(120);

/// Between two attempts to read it, doubled in between.
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_CAP: Duration = Duration::from_secs(2);

/// The whole request; or why it cannot be had, which is never taken for an empty one.
pub(super) async fn read(means: &Means, claimed: &mut Claimed, held: &Held) -> Result<String, String> {
    let Some(name) = &claimed.input else { return Ok(std::mem::take(&mut claimed.request)) };
    let (mut told, mut pause) = (held.told.clone(), PAUSE_FIRST);
    let until = means.clock.now().after(PATIENCE);
    loop {
        let reading = means.store.input(name);
        let read = tokio::select! {
            biased;
            () = lease_lost(&mut told) => return Err("the lease was lost".to_owned()),
            read = reading => read,
        };
        let error = match read {
            Ok(request) => return Ok(request),
            Err(error) => error,
        };
        let may_pass = error.is_away() || matches!(&error, StoreError::Blob(error) if error.is_away());
        let error = anyhow::Error::new(error);
        // Whoever wants it to end does not wait for what it was to do.
        let wanted = told.borrow().cancel.is_none();
        if !may_pass || !wanted || means.clock.now() >= until {
            return Err(format!("its request cannot be read: {error:#}"));
        }
        if pause == PAUSE_FIRST {
            tracing::warn!(
                evaluation.id = %claimed.lease.evaluation,
                error = format!("{error:#}"),
                "a request cannot be read; trying again"
            );
        }
        tokio::select! {
            biased;
            () = stopped(&mut told) => {}
            () = means.clock.sleep(pause) => {}
        }
        pause = (pause * 2).min(PAUSE_CAP);
    }
}
