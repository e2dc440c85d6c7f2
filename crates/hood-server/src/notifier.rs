//! The sender of webhooks: takes deliveries that are due, sends each to its URL, and writes down what
//! came of it. It reads and writes deliveries alone, and nothing else of it reaches outside.

mod message;
mod pace;

use std::sync::Arc;
use std::time::{Duration, Instant};

use hood_core::Tenant;
use hood_store::{Delivery, DeliveryId, Settled, Store, StoreError, Tenure};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::health::Pulse;
use crate::telemetry::metrics::{record_delivery, record_send};
use crate::webhook::{SEND_TIME_MAX, Sender, Sent, Target};
use pace::{Held, Pace, SPACING, Turn};

/// Deliveries on their way at once.
const IN_FLIGHT_MAX: usize = 32;

/// The bus is a hint, and what is due after a pause wakes nobody.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Times that one is sent before it is given up: over the pauses below, four hours.
const TRIES_MAX: u32 = 8;
const PAUSE_FIRST: Duration = Duration::from_secs(5);
const PAUSE_FACTOR: u32 = 4;
const PAUSE_CAP: Duration = Duration::from_secs(2 * 3600);

/// How long a stop waits for what is on its way; what is left is sent again by a successor.
const DRAIN_TIME: Duration = Duration::from_secs(12);

/// It looks every second, or as soon as one that is on its way makes room.
const STUCK_AFTER: Duration = Duration::from_secs(30);

#[derive(Clone, Debug)]
pub struct NotifierConfig {
    /// This one, in claims.
    pub name: String,
    /// How long a claim keeps others from what was claimed: if this one dies, it is sent after that.
    /// Longer than a request can take.
    pub claim_time: Duration,
}

#[derive(Debug)]
pub struct Notifier {
    shared: Arc<Shared>,
    sending: TaskTracker,
    permits: Arc<Semaphore>,
    pulse: Pulse,
}

#[derive(Debug)]
struct Shared {
    store: Store,
    clock: Arc<dyn Clock>,
    sender: Sender,
    pace: Pace,
    config: NotifierConfig,
}

/// A delivery that is this sender's for now.
struct Claimed {
    delivery: Delivery,
    /// Sent later, it could still be on its way when the claim is over.
    send_before: Instant,
}

/// All that is needed to send it now.
struct Ready {
    target: Target,
    body: String,
    _turn: Held,
}

impl Notifier {
    pub fn new(store: Store, clock: Arc<dyn Clock>, sender: Sender, config: NotifierConfig) -> Self {
        let shared = Arc::new(Shared { store, clock, sender, pace: Pace::default(), config });
        let permits = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
        let pulse = Pulse::new("notifier", "webhooks to send", STUCK_AFTER);
        Self { shared, sending: TaskTracker::new(), permits, pulse }
    }

    /// Tells whether this one still looks for what is due.
    pub fn pulse(&self) -> Pulse {
        self.pulse.clone()
    }

    /// Sends until told to stop.
    pub async fn run(self, stop: CancellationToken) {
        let mut failing = false;
        while !stop.is_cancelled() {
            let wake = self.shared.store.wake().deliveries();
            let looked = self.round().await;
            self.pulse.beat(looked.as_ref().err());
            if let Err(error) = &looked
                && !failing
            {
                tracing::error!(error = %error, "webhooks wait: the store does not answer");
            }
            failing = looked.is_err();
            if matches!(looked, Ok(true)) {
                continue;
            }
            // Who was told to come later does, in time.
            let pause =
                if self.shared.pace.has_line(self.shared.clock.now()) { SPACING } else { POLL_INTERVAL };
            tokio::select! {
                () = wake => {}
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => {}
            }
        }
        self.sending.close();
        if tokio::time::timeout(DRAIN_TIME, self.sending.wait()).await.is_err() {
            tracing::warn!(
                webhooks = self.sending.len(),
                "still on their way at a stop; they are sent again"
            );
        }
    }

    /// Begins to send what is due. True where more may be.
    async fn round(&self) -> Result<bool, StoreError> {
        // One is waited for, so that a round without room is not a round without end.
        let Ok(first) = Arc::clone(&self.permits).acquire_owned().await else { return Ok(false) };
        let mut permits = vec![first];
        while let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
            permits.push(permit);
        }
        let NotifierConfig { name, claim_time } = self.shared.config.clone();
        let tenure = Tenure { worker: name, now: self.shared.clock.now(), ttl: claim_time };
        let send_before = Instant::now() + claim_time.saturating_sub(SEND_TIME_MAX);
        let limit = u32::try_from(permits.len()).unwrap_or(u32::MAX);
        let claimed = self.shared.store.claim_deliveries(&tenure, limit).await?;
        let more = claimed.len() == permits.len();
        for (delivery, permit) in claimed.into_iter().zip(permits) {
            // Here, and not where it is sent: those that are due longest have their turns first.
            let ready = self.shared.prepare(&delivery);
            self.begin(Claimed { delivery, send_before }, ready, permit);
        }
        Ok(more)
    }

    fn begin(&self, claimed: Claimed, ready: Result<Ready, Settled>, permit: OwnedSemaphorePermit) {
        let shared = Arc::clone(&self.shared);
        self.sending.spawn(async move {
            let settled = match ready {
                Ok(ready) => shared.attend(&claimed, ready).await,
                Err(settled) => Some(settled),
            };
            let Some(settled) = settled else { return drop(permit) };
            let delivery = claimed.delivery;
            match shared.store.settle_delivery(&delivery, settled).await {
                Ok(true) => {}
                Ok(false) => tracing::warn!(webhook.id = %delivery_id(&delivery.id), "sent by two at once"),
                // It is due again once its claim is over.
                Err(error) => {
                    tracing::error!(webhook.id = %delivery_id(&delivery.id), error = %error, "cannot settle");
                }
            }
            drop(permit);
        });
    }
}

impl Claimed {
    fn is_late(&self, now: Instant) -> bool {
        now >= self.send_before
    }
}

impl Shared {
    /// What is to be sent now, or what came of it already.
    fn prepare(&self, delivery: &Delivery) -> Result<Ready, Settled> {
        // What was allowed when it was accepted may not be any more.
        let target = Target::parse(&delivery.url, self.sender.rules())
            .map_err(|why| self.give_up(delivery, None, format!("the URL {why}")))?;
        let body = message::of(delivery)
            .map_err(|error| self.give_up(delivery, None, format!("cannot be written: {error}")))?;
        match self.pace.turn(target.host(), self.clock.now()) {
            Turn::Now(turn) => Ok(Ready { target, body, _turn: turn }),
            Turn::Later(due_at) => Err(Settled::Postponed { due_at }),
        }
    }

    /// What came of it; `None` where it was too late to send it.
    async fn attend(&self, claimed: &Claimed, ready: Ready) -> Option<Settled> {
        let delivery = &claimed.delivery;
        // One that was frozen meanwhile may not be alone with it any more.
        if claimed.is_late(Instant::now()) {
            tracing::warn!(webhook.id = %delivery_id(&delivery.id), "not sent: its claim is about to end");
            return None;
        }
        Some(self.send(delivery, &ready.target, ready.body).await)
    }

    async fn send(&self, delivery: &Delivery, target: &Target, body: String) -> Settled {
        let id = delivery_id(&delivery.id);
        let seconds = self.clock.now().as_micros().div_euclid(1_000_000);
        let began = Instant::now();
        let sent = self.sender.send(target, &id, seconds, body).await;
        record_send(began.elapsed());
        match sent {
            Sent::Taken { status } => {
                record_delivery("delivered");
                Settled::Delivered { at: self.clock.now(), status }
            }
            Sent::Refused { status, reason } => self.give_up(delivery, status, reason),
            Sent::Failed { status, reason } if delivery.tries + 1 >= TRIES_MAX => {
                self.give_up(delivery, status, reason)
            }
            Sent::Failed { status, reason } => {
                record_delivery("failed");
                let due_at = self.clock.now().after(pause(delivery.tries, rand::random()));
                tracing::info!(webhook.id = %id, target = target.host(), reason, "a webhook was sent in vain");
                Settled::Failed { due_at, status, reason }
            }
        }
    }

    fn give_up(&self, delivery: &Delivery, status: Option<u16>, reason: String) -> Settled {
        record_delivery("dead");
        tracing::warn!(webhook.id = %delivery_id(&delivery.id), reason, "a webhook is given up");
        Settled::Dead { at: self.clock.now(), status, reason }
    }
}

/// After `tries` in vain before this one; `dice` from 0 to 1 spreads those that failed together.
fn pause(tries: u32, dice: f64) -> Duration {
    let whole = PAUSE_FIRST.saturating_mul(PAUSE_FACTOR.saturating_pow(tries)).min(PAUSE_CAP);
    whole.mul_f64(0.5 + dice / 2.0)
}

/// `wh_`, the evaluation, and the event's number: the same however often it is sent.
pub fn delivery_id(id: &DeliveryId) -> String {
    format!("wh_{}_{}", id.evaluation.as_uuid().simple(), id.event)
}

pub(crate) fn parse_delivery_id(tenant: &Tenant, text: &str) -> Option<DeliveryId> {
    let (evaluation, event) = text.strip_prefix("wh_")?.split_once('_')?;
    let evaluation = format!("ev_{evaluation}").parse().ok()?;
    Some(DeliveryId { tenant: tenant.clone(), evaluation, event: event.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_cap_and_are_spread() {
        assert_eq!(pause(0, 1.0), Duration::from_secs(5));
        assert_eq!(pause(0, 0.0), Duration::from_millis(2500));
        assert_eq!(pause(3, 1.0), Duration::from_secs(320));
        assert_eq!(pause(TRIES_MAX, 1.0), PAUSE_CAP);
        assert_eq!(pause(u32::MAX, 1.0), PAUSE_CAP);
    }

    #[test]
    fn an_id_leads_back_to_its_delivery() {
        let tenant = Tenant::default();
        let text = "wh_0123456789abcdef0123456789abcdef_4";
        let id = parse_delivery_id(&tenant, text).expect("an id");
        assert_eq!((delivery_id(&id).as_str(), id.event), (text, 4));
        for wrong in ["", "wh_", "wh_x_4", "ev_0123456789abcdef0123456789abcdef", "wh_0123456789abcdef_4"] {
            assert_eq!(parse_delivery_id(&tenant, wrong), None, "{wrong}");
        }
    }
}
