//! Waiting for something to happen to an evaluation: a wake-up is a hint that may be lost, so the
//! store is asked now and then besides, and the server's end ends every wait.

use std::time::Duration;

use hood_core::{EvaluationId, Event, EventKind, Tenant};
use hood_store::Subscription;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::error::ApiError;
use super::guard::Caller;
use super::state::ApiState;

/// Somebody's interest in one evaluation. Make it before asking the store: what happens between
/// asking and waiting is then not missed.
#[derive(Debug)]
pub(crate) struct Watch {
    state: ApiState,
    tenant: Tenant,
    id: EvaluationId,
    subscription: Subscription,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Woken {
    /// Something may have happened: look.
    Look,
    /// The server is about to end.
    Shutdown,
}

impl Watch {
    pub(crate) fn new(state: &ApiState, caller: &Caller, id: EvaluationId) -> Self {
        let subscription = state.store().wake().watch(id);
        Self { state: state.clone(), tenant: caller.tenant.clone(), id, subscription }
    }

    pub(crate) fn state(&self) -> &ApiState {
        &self.state
    }

    pub(crate) fn id(&self) -> EvaluationId {
        self.id
    }

    pub(crate) fn tenant(&self) -> &Tenant {
        &self.tenant
    }

    pub(crate) async fn changed(&mut self) -> Woken {
        let poll = Instant::now() + self.state.config().limits.stream.poll_every;
        tokio::select! {
            () = self.state.shutdown().cancelled() => Woken::Shutdown,
            () = self.subscription.changed() => Woken::Look,
            () = sleep_until(poll) => Woken::Look,
        }
    }

    /// The events after number `after`, some of them if there are many.
    pub(crate) async fn events(&self, after: u64) -> Result<Vec<Event>, ApiError> {
        let chunk = self.state.config().limits.stream.events_chunk;
        self.state.store().events(&self.tenant, self.id, after, chunk).await.map_err(ApiError::find)
    }

    /// Ends when the evaluation has, or the time is over, or the server is about to end.
    pub(crate) async fn until_terminal(mut self, wait: Duration) -> Result<(), ApiError> {
        let deadline = Instant::now() + wait;
        let mut seen = 0;
        loop {
            let events = self.events(seen).await?;
            match events.last() {
                Some(last) if is_last(last) => return Ok(()),
                Some(last) => seen = last.number,
                None => match timeout_at(deadline, self.changed()).await {
                    Ok(Woken::Look) => {}
                    Ok(Woken::Shutdown) | Err(_) => return Ok(()),
                },
            }
        }
    }
}

/// Whether this event ends its evaluation.
pub(crate) fn is_last(event: &Event) -> bool {
    matches!(event.kind, EventKind::Finished { .. })
}
