//! Clients: they submit until they are answered, follow what they submitted, and now and then want
//! it to end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures::FutureExt as _;
use hood_core::{EvaluationId, Limits, Tenant};
use hood_server::document::{AcceptedDocument, ResultDocument, limits_to_wire, to_json};
use hood_store::{Accepted, CancelWish, FindError, Idempotency, NewEvaluation, NewSubmission, SubmitError};
use hood_wire::api;

use crate::history::Deed;
use crate::ledger::RemoteStore;
use crate::places::ENVIRONMENT;
use crate::scheduler::Node;
use crate::script::Script;

/// A follower looks again at least this often, whatever it was told.
const LOOK_EVERY: Duration = Duration::from_secs(1);

const RETRY_PAUSE_MAX: Duration = Duration::from_millis(500);

/// Between two submissions of one client at most.
const THINK_MAX: Duration = Duration::from_secs(4);

/// Before a client changes its mind, at most.
const PATIENCE_MAX: Duration = Duration::from_secs(5);

const GRACE_MS: u64 = 1000;

/// What clients have begun and not finished. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Open(Arc<AtomicU32>);

impl Open {
    pub(crate) fn is_none(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }

    fn begin(&self) -> Begun {
        self.0.fetch_add(1, Ordering::Relaxed);
        Begun(self.clone())
    }
}

struct Begun(Open);

impl Drop for Begun {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) store: RemoteStore,
    pub(crate) number: u32,
    pub(crate) open: Open,
}

impl Client {
    /// Begins to submit so many.
    pub(crate) fn start(self, submissions: u32) {
        let begun = self.open.begin();
        let node = Node::Client(self.number);
        let scheduler = self.store.world.scheduler.clone();
        scheduler.spawn(
            node,
            async move {
                for n in 0..submissions {
                    self.store.world.pause(THINK_MAX).await;
                    let id = self.submit(n).await;
                    self.attend(id);
                }
                drop(begun);
            }
            .boxed(),
        );
    }

    async fn submit(&self, n: u32) -> EvaluationId {
        let world = &self.store.world;
        let script = world.scheduler.draw(Script::random);
        let key = format!("client-{}-{n}", self.number);
        loop {
            let new = self.evaluation(&script);
            let (id, now) = (new.id, world.scheduler.now());
            let idempotency = Some(Idempotency { key: key.clone(), fingerprint: [0; 32] });
            let submission = NewSubmission { batch: None, evaluations: vec![new], idempotency };
            let answer = self
                .store
                .call(async move |memory, _| memory.submit(&Tenant::default(), now, submission).await)
                .await;
            let accepted = match answer.map_err(SubmitError::from).flatten() {
                Ok(Accepted::New) => Some(id),
                Ok(Accepted::Existing { evaluations, .. }) => evaluations.first().copied(),
                Err(_) => None,
            };
            if let Some(id) = accepted {
                world.tell(Deed::Accepted { id });
                return id;
            }
            world.pause(RETRY_PAUSE_MAX).await;
        }
    }

    fn evaluation(&self, script: &Script) -> NewEvaluation {
        let scheduler = &self.store.world.scheduler;
        let mut random = [0; 10];
        let [first, second] = scheduler.draw(|rng| [rng.next(), rng.next()]);
        random[..8].copy_from_slice(&first.to_le_bytes());
        random[8..].copy_from_slice(&second.to_le_bytes()[..2]);
        let accepted = AcceptedDocument {
            submission: api::Submission { code: Some(script.to_string()), ..api::Submission::default() },
            environment: ENVIRONMENT.to_owned(),
            limits: limits_to_wire(&Limits::DEFAULT, &[]),
            grace_ms: GRACE_MS,
            priority: 5,
            image: None,
            code: None,
            build: None,
            traceparent: None,
        };
        NewEvaluation {
            id: EvaluationId::new(scheduler.now(), random),
            environment: ENVIRONMENT.to_owned(),
            priority: u8::try_from(scheduler.draw(|rng| rng.below(3))).unwrap_or(0),
            labels: BTreeMap::new(),
            callback: None,
            request: to_json(&accepted),
            input: None,
        }
    }

    /// Follows it to its end, and may want it to end sooner.
    fn attend(&self, id: EvaluationId) {
        let (follower, begun) = (self.clone(), self.open.begin());
        let world = &self.store.world;
        let node = Node::Client(self.number);
        world.scheduler.spawn(
            node,
            async move {
                follower.follow(id).await;
                drop(begun);
            }
            .boxed(),
        );
        if world.strikes("a cancel", world.weather.cancels) {
            let (canceller, begun) = (self.clone(), self.open.begin());
            world.scheduler.spawn(
                node,
                async move {
                    canceller.store.world.pause(PATIENCE_MAX).await;
                    canceller.cancel(id).await;
                    drop(begun);
                }
                .boxed(),
            );
        }
    }

    async fn follow(&self, id: EvaluationId) {
        let world = &self.store.world;
        let mut last = 0;
        loop {
            let mut watch = self.store.memory.wake().watch(id);
            let after = last;
            let events = self
                .store
                .call(async move |memory, _| memory.events(&Tenant::default(), id, after, 100).await)
                .await;
            if let Ok(Ok(events)) = events {
                for event in events {
                    last = event.number;
                    world.tell(Deed::Observed { follower: self.number, id, event });
                    if event.kind.state().is_terminal() {
                        return;
                    }
                }
            }
            let look = world.scheduler.sleep(LOOK_EVERY);
            tokio::select! {
                biased;
                () = watch.changed() => {}
                () = look => {}
            }
        }
    }

    async fn cancel(&self, id: EvaluationId) {
        let world = &self.store.world;
        let grace_ms = world.scheduler.draw(|rng| rng.chance(500)).then_some(0);
        // It may be done though nobody hears of it.
        world.tell(Deed::CancelAsked { id });
        loop {
            let wish = CancelWish {
                grace_ms,
                now: world.scheduler.now(),
                result_if_queued: to_json(&ResultDocument::cancelled_in_queue()),
            };
            let asked = self
                .store
                .call(async move |memory, _| memory.request_cancel(&Tenant::default(), id, wish).await)
                .await;
            match asked.map_err(FindError::from).flatten() {
                Ok(_) => return,
                Err(_) => world.pause(RETRY_PAUSE_MAX).await,
            }
        }
    }
}
