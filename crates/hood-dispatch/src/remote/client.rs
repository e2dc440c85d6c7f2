//! The worker's side: [`Dispatch`] over one or more dispatchers. It reconnects for as long as the
//! worker wants its link, and says "gone" only where that is proven.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, join_all, select_ok};
use hood_wire::dispatch::{Cancel, PlaceState, ProblemCode, StatusRequest};
use tokio::sync::watch;

use super::convert::{millis, order_to_wire};
use super::peer::{Heard, Peer};
use super::session::{Holding, Session};
use super::transport::{Answer, Call, Failure, Said, Transport};
use super::{Backoff, World, merge};
use crate::catalogue::Catalogue;
use crate::dispatch::{AttemptKey, Dispatch, DispatchError, Link, Order, link};
use crate::local::ORPHAN_AFTER;

/// Between two questions for what a dispatcher offers.
const CAPACITY_EVERY: Duration = Duration::from_millis(500);

/// How long an order is offered to a dispatcher that does not answer. Nothing runs before its first
/// report is acknowledged, so it may be given up on without knowing whether it arrived.
const OPENING_GIVEN_UP_AFTER: Duration = Duration::from_secs(30);

/// How long a cancel is tried to be delivered: longer than a place keeps what nobody fetches.
const CANCEL_GIVEN_UP_AFTER: Duration = ORPHAN_AFTER;

/// Whether one dispatcher answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerHealth {
    pub address: String,
    /// For how long it has not answered, and why.
    pub away: Option<(Duration, String)>,
}

/// Cheap to clone. The last clone's end stops the questions.
#[derive(Clone)]
pub struct Remote(Arc<Inner>);

pub(super) struct Inner {
    pub(super) world: Arc<dyn World>,
    pub(super) peers: Vec<Arc<Peer>>,
    /// Where each attempt that this worker holds has gone.
    held: Mutex<HashMap<AttemptKey, Held>>,
    catalogue: RwLock<Arc<Catalogue>>,
    /// The version that is offered, for those who wait for another.
    offered: watch::Sender<u64>,
    sessions: AtomicU64,
}

#[derive(Clone, Debug)]
struct Held {
    peer: Arc<Peer>,
    token: u64,
    /// Which of this worker's sessions: a later one of the same attempt takes an earlier one's place.
    session: u64,
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").field("peers", &self.0.peers).finish_non_exhaustive()
    }
}

impl Inner {
    fn held(&self) -> MutexGuard<'_, HashMap<AttemptKey, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hold(&self, key: AttemptKey, token: u64, peer: &Arc<Peer>) -> u64 {
        let session = self.sessions.fetch_add(1, Ordering::Relaxed);
        self.held().insert(key, Held { peer: Arc::clone(peer), token, session });
        session
    }

    pub(super) fn is_current(&self, key: AttemptKey, session: u64) -> bool {
        self.held().get(&key).is_some_and(|held| held.session == session)
    }

    /// The place is with another dispatcher now, and so is what is to be told about it.
    pub(super) fn moved(&self, key: AttemptKey, session: u64, peer: &Arc<Peer>) {
        if let Some(held) = self.held().get_mut(&key).filter(|held| held.session == session) {
            held.peer = Arc::clone(peer);
        }
    }

    pub(super) fn let_go(&self, key: AttemptKey, session: u64) {
        let mut held = self.held();
        if held.get(&key).is_some_and(|held| held.session == session) {
            held.remove(&key);
        }
    }

    fn update_catalogue(&self) {
        let words = self.peers.iter().filter_map(|peer| peer.word()).collect();
        let silent = self.peers.iter().filter(|peer| peer.word().is_none());
        let silent = silent.map(|peer| peer.address.clone()).collect();
        let mut catalogue = self.catalogue.write().unwrap_or_else(PoisonError::into_inner);
        // Above each dispatcher's own, which begin at the time of their start.
        let versions = self.peers.iter().filter_map(|peer| peer.word()).flat_map(|word| word.offers);
        let highest = versions.map(|offer| offer.capacity.version).max().unwrap_or_default();
        let version = highest.max(catalogue.version + 1);
        *catalogue = Arc::new(Catalogue { silent, ..merge::merge(version, words) });
        drop(catalogue);
        self.offered.send_replace(version);
    }

    /// Tries until it is delivered, refused, or too late to matter.
    async fn deliver_cancel(&self, peer: &Peer, key: AttemptKey, cancel: Cancel) {
        let mut backoff = Backoff::default();
        let until = self.world.now() + CANCEL_GIVEN_UP_AFTER;
        while self.world.now() < until {
            match peer.call(&*self.world, Call::Cancel { key, cancel }).await {
                Ok(_) => return,
                Err(Failure::Refused(problem)) if is_final(problem.code) => return,
                Err(_) => backoff.pause(&*self.world).await,
            }
        }
        tracing::warn!(place = %key, dispatcher = %peer.address, "a cancel could not be delivered");
    }
}

/// A refusal that another try does not change.
pub(super) const fn is_final(code: ProblemCode) -> bool {
    matches!(
        code,
        ProblemCode::Gone
            | ProblemCode::Stale
            | ProblemCode::Environment
            | ProblemCode::Place
            | ProblemCode::Malformed
            | ProblemCode::TooLarge
    )
}

impl Remote {
    /// A way to each dispatcher, with its address for people.
    pub fn new(world: Arc<dyn World>, ways: Vec<(String, Arc<dyn Transport>)>) -> Self {
        let peers: Vec<_> =
            ways.into_iter().map(|(address, way)| Arc::new(Peer::new(address, way))).collect();
        let silent = peers.iter().map(|peer| peer.address.clone()).collect();
        let catalogue = Catalogue { version: 0, offers: Vec::new(), environments: Vec::new(), silent };
        let inner = Arc::new(Inner {
            world,
            peers,
            held: Mutex::default(),
            catalogue: RwLock::new(Arc::new(catalogue)),
            offered: watch::channel(0).0,
            sessions: AtomicU64::new(0),
        });
        for peer in &inner.peers {
            let (peer, weak) = (Arc::clone(peer), Arc::downgrade(&inner));
            inner.world.spawn(keep_asking(peer, weak).boxed());
        }
        Self(inner)
    }

    /// Completes when what is offered has changed after this was called.
    pub fn changed(&self) -> impl Future<Output = ()> + use<> {
        let mut offered = self.0.offered.subscribe();
        async move {
            if offered.changed().await.is_err() {
                // Nothing will change any more.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Whether each dispatcher answers.
    pub fn health(&self) -> Vec<PeerHealth> {
        let now = self.0.world.now();
        let peers = self.0.peers.iter();
        peers
            .map(|peer| PeerHealth {
                address: peer.address.clone(),
                away: peer.away().map(|(since, why)| (now.saturating_sub(since), why)),
            })
            .collect()
    }

    async fn open(&self, peer: &Arc<Peer>, order: Order) -> Result<Link, DispatchError> {
        let (key, token) = (order.key, order.token);
        let environment = order.assignment.environment.clone();
        let inner = &self.0;
        let session = inner.hold(key, token, peer);
        // Given up on by the worker: what may have been made is not wanted.
        let mut guard = Unwanted { inner, key, session, armed: true };
        peer.takes();
        let call = Call::Execute { key, order: Arc::new(order_to_wire(order, peer.life())) };
        let mut backoff = Backoff::default();
        let mut last_answer = inner.world.now();
        loop {
            let failure = match peer.call(&*inner.world, call.clone()).await {
                Ok(Said { by, what: Answer::Opened(opened) }) => {
                    guard.armed = false;
                    let (peer, outlives) = (Arc::clone(peer), opened.outlives);
                    return Ok(self.start(key, token, Found { peer, executor: by, outlives }));
                }
                Ok(_) => Failure::Unreachable("it answers something else".to_owned()),
                Err(failure) => failure,
            };
            if let Failure::Refused(problem) = &failure {
                if is_final(problem.code) {
                    guard.armed = false;
                    inner.let_go(key, session);
                    return Err(refusal((key, environment), &problem.detail, problem.code));
                }
                if problem.code == ProblemCode::Pending {
                    last_answer = inner.world.now();
                }
            }
            if inner.world.now().saturating_sub(last_answer) >= OPENING_GIVEN_UP_AFTER {
                return Err(DispatchError::Place(format!("dispatcher {}: {failure}", peer.address)));
            }
            backoff.pause(&*inner.world).await;
        }
    }

    /// Listens to a place, from the first report that is not acknowledged.
    fn start(&self, key: AttemptKey, token: u64, found: Found) -> Link {
        let (ours, theirs) = link(0);
        let id = self.0.hold(key, token, &found.peer);
        let executor = found.executor.clone();
        let session = Session::new(Arc::clone(&self.0), Holding { key, token, id }, found);
        self.0.world.spawn(session.run(theirs).boxed());
        ours.of(executor)
    }
}

/// A place that was found.
pub(super) struct Found {
    pub(super) peer: Arc<Peer>,
    pub(super) executor: String,
    pub(super) outlives: bool,
}

/// Asks every dispatcher, until one has it or all have said that they do not: an answer from each is
/// what proves it gone.
pub(super) async fn locate(
    inner: &Inner,
    key: AttemptKey,
    token: u64,
) -> Result<Option<Found>, DispatchError> {
    let asked: Vec<_> = inner.peers.iter().map(|peer| ask_for(inner, peer, key, token).boxed()).collect();
    if asked.is_empty() {
        return Ok(None);
    }
    // "Not here" counts as a failure, so that the first success is the place itself.
    match select_ok(asked).await {
        Ok((found, _)) => found.map(Some),
        Err(NotHere) => Ok(None),
    }
}

#[derive(Debug)]
struct NotHere;

async fn ask_for(
    inner: &Inner,
    peer: &Arc<Peer>,
    key: AttemptKey,
    token: u64,
) -> Result<Result<Found, DispatchError>, NotHere> {
    let mut backoff = Backoff::default();
    loop {
        let call = Call::Status { key, request: StatusRequest { token } };
        match peer.call(&*inner.world, call).await {
            Ok(Said { by, what: Answer::Status(status) }) => match status.state {
                PlaceState::Here => {
                    let (peer, outlives) = (Arc::clone(peer), status.outlives);
                    return Ok(Ok(Found { peer, executor: by, outlives }));
                }
                PlaceState::Gone => return Err(NotHere),
            },
            Err(Failure::Refused(problem)) if problem.code == ProblemCode::Stale => {
                return Ok(Err(DispatchError::Stale(key)));
            }
            Err(Failure::Refused(problem)) if problem.code == ProblemCode::Gone => return Err(NotHere),
            Ok(_) | Err(_) => backoff.pause(&*inner.world).await,
        }
    }
}

fn refusal((key, name): (AttemptKey, String), detail: &str, code: ProblemCode) -> DispatchError {
    match code {
        ProblemCode::Gone => DispatchError::Gone(key),
        ProblemCode::Stale => DispatchError::Stale(key),
        ProblemCode::Environment => DispatchError::Environment { name, reason: detail.to_owned() },
        ProblemCode::TooLarge if !detail.is_empty() => DispatchError::TooLarge(detail.to_owned()),
        code if detail.is_empty() => DispatchError::Place(code.title().to_owned()),
        _ => DispatchError::Place(detail.to_owned()),
    }
}

/// Has the dispatcher end what an order may have made, where nobody waits for it any more.
struct Unwanted<'a> {
    inner: &'a Arc<Inner>,
    key: AttemptKey,
    session: u64,
    armed: bool,
}

impl Drop for Unwanted<'_> {
    fn drop(&mut self) {
        if self.armed && self.inner.is_current(self.key, self.session) {
            cancel(self.inner, self.key, Duration::ZERO);
            self.inner.let_go(self.key, self.session);
        }
    }
}

fn cancel(inner: &Arc<Inner>, key: AttemptKey, grace: Duration) {
    let Some(Held { peer, token, .. }) = inner.held().get(&key).cloned() else { return };
    let cancel = Cancel { token, grace_ms: millis(grace) };
    let delivering = Arc::clone(inner);
    inner.world.spawn(async move { delivering.deliver_cancel(&peer, key, cancel).await }.boxed());
}

/// Asks for the catalogue as long as anybody has use for it.
async fn keep_asking(peer: Arc<Peer>, inner: Weak<Inner>) {
    let mut backoff = Backoff::default();
    loop {
        let Some(strong) = inner.upgrade() else { return };
        let world = Arc::clone(&strong.world);
        drop(strong);
        let heard = peer.ask(&*world).await;
        if heard == Heard::Changed {
            let Some(strong) = inner.upgrade() else { return };
            strong.update_catalogue();
        }
        match peer.away() {
            Some(_) => backoff.pause(&*world).await,
            None => {
                backoff.succeeded();
                world.sleep(CAPACITY_EVERY).await;
            }
        }
    }
}

impl Dispatch for Remote {
    fn execute(&self, order: Order) -> BoxFuture<'_, Result<Link, DispatchError>> {
        async move {
            let executor = &order.assignment.executor;
            let known = |peer: &&Arc<Peer>| peer.executor().as_ref() == Some(executor);
            let Some(peer) = self.0.peers.iter().find(known) else {
                return Err(DispatchError::Place(format!("executor `{executor}` is not known")));
            };
            self.open(&Arc::clone(peer), order).await
        }
        .boxed()
    }

    fn attach(&self, key: AttemptKey, token: u64, _after: u64) -> BoxFuture<'_, Result<Link, DispatchError>> {
        async move {
            match locate(&self.0, key, token).await? {
                Some(found) => Ok(self.start(key, token, found)),
                None => Err(DispatchError::Gone(key)),
            }
        }
        .boxed()
    }

    fn cancel(&self, key: AttemptKey, grace: Duration) {
        cancel(&self.0, key, grace);
    }

    fn holds(&self, key: AttemptKey) -> BoxFuture<'_, Result<bool, DispatchError>> {
        async move {
            let asked = self.0.peers.iter().map(|peer| async {
                // No token is given up for the question.
                let call = Call::Status { key, request: StatusRequest { token: 0 } };
                match peer.call(&*self.0.world, call).await {
                    Ok(Said { what: Answer::Status(status), .. }) => Ok(status.state == PlaceState::Here),
                    Err(Failure::Refused(problem)) if problem.code == ProblemCode::Stale => Ok(true),
                    Ok(_) => Err(format!("dispatcher {} answers something else", peer.address)),
                    Err(failure) => Err(format!("dispatcher {}: {failure}", peer.address)),
                }
            });
            let answers = join_all(asked).await;
            if answers.iter().any(|answer| matches!(answer, Ok(true))) {
                return Ok(true);
            }
            let unknown = answers.into_iter().find_map(Result::err);
            unknown.map_or(Ok(false), |why| Err(DispatchError::Place(why)))
        }
        .boxed()
    }

    fn capacity(&self) -> Arc<Catalogue> {
        Arc::clone(&self.0.catalogue.read().unwrap_or_else(PoisonError::into_inner))
    }
}
