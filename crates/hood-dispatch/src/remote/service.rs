//! The dispatcher's side: takes calls, and has any [`Dispatch`] carry them out.

use std::fmt;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{Either, select};
use futures::stream::BoxStream;
use hood_wire::dispatch::{self as wire, ProblemCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::book::{Book, Execute, Opening};
use super::convert::{error_to_wire, order_from_wire, problem};
use super::stream::{self, Listening};
use super::transport::{Answer, Call};
use super::{OPENING_HELD, World, merge};
use crate::dispatch::{AttemptKey, Dispatch, DispatchError, Order};

/// Attempts in the book at which it looks for those whose place has gone without anybody listening.
const SWEEP_AT: usize = 256;

/// While an order waits for its turn, how often it is looked whether a place has gone unnoticed.
const FREE_LOOK: Duration = Duration::from_millis(250);

#[derive(Clone, Debug)]
pub struct ServiceConfig {
    /// The executor's name, as in its certificate.
    pub name: String,
    /// Another one after each start: an order for an earlier life is not taken, however late it comes.
    pub life: String,
    pub alive_every: Duration,
    /// Orders that are carried out at once; the others wait in their turn.
    pub places: usize,
    /// Its places live on without it, and another dispatcher may have them then.
    pub outlives: bool,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Service(Arc<Inner>);

pub(super) struct Inner {
    pub(super) dispatch: Arc<dyn Dispatch>,
    pub(super) world: Arc<dyn World>,
    pub(super) config: ServiceConfig,
    book: Mutex<Book>,
    free: Arc<Semaphore>,
    draining: AtomicBool,
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").field("config", &self.0.config).finish_non_exhaustive()
    }
}

impl Inner {
    pub(super) fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// The right to one more place; places that ended without anybody listening are looked for
    /// meanwhile. `None` never comes: the semaphore is not closed.
    async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        loop {
            let free = pin!(Arc::clone(&self.free).acquire_owned());
            match select(free, self.world.sleep(FREE_LOOK)).await {
                Either::Left((permit, _)) => return permit.ok(),
                Either::Right(((), _)) => self.forget_the_gone().await,
            }
        }
    }

    /// Forgets those whose place has gone without a listener.
    async fn forget_the_gone(&self) {
        let candidates = self.book().unattended();
        for (key, token) in candidates {
            if matches!(self.dispatch.holds(key).await, Ok(false)) {
                self.book().forget_unattended(key, token);
            }
        }
    }
}

impl Service {
    pub fn new(dispatch: Arc<dyn Dispatch>, world: Arc<dyn World>, config: ServiceConfig) -> Self {
        let (book, draining) = (Mutex::default(), AtomicBool::new(false));
        let free = Arc::new(Semaphore::new(config.places));
        Self(Arc::new(Inner { dispatch, world, config, book, free, draining }))
    }

    pub fn name(&self) -> &str {
        &self.0.config.name
    }

    /// Takes nothing new from now on, and offers nothing.
    pub fn drain(&self) {
        self.0.draining.store(true, Ordering::Relaxed);
    }

    /// Attempts that are here, as far as is known without asking.
    pub fn live(&self) -> usize {
        self.0.book().live()
    }

    /// The same, after asking for those whose end nobody listened for.
    pub async fn still_live(&self) -> usize {
        self.0.forget_the_gone().await;
        self.live()
    }

    pub async fn call(&self, call: Call) -> Result<Answer, wire::Problem> {
        match call {
            Call::Execute { key, order } => self.execute(key, &order).await.map(Answer::Opened),
            Call::Status { key, request } => self.status(key, request.token).await.map(Answer::Status),
            Call::Acknowledge { key, acknowledge } => {
                self.acknowledge(key, acknowledge).await.map(|()| Answer::Done)
            }
            Call::Cancel { key, cancel } => self.cancel(key, cancel).map(|()| Answer::Done),
            Call::Capacity => Ok(Answer::Capacity(self.capacity())),
        }
    }

    /// The frames after `listen.after`; whoever listened before is heard no more.
    pub async fn listen(
        &self,
        key: AttemptKey,
        listen: wire::Listen,
    ) -> Result<BoxStream<'static, wire::Frame>, wire::Problem> {
        let (number, told) = self.0.book().listen(key, listen.token)?;
        let mut listening = Listening::new(Arc::clone(&self.0), key, listen, (number, told));
        match listening.attach().await {
            Ok(()) => Ok(stream::frames(listening)),
            Err(error) => {
                if matches!(error, DispatchError::Gone(_)) {
                    self.0.book().fence(key, listen.token);
                }
                Err(error_to_wire(&error))
            }
        }
    }

    async fn execute(&self, key: AttemptKey, order: &wire::Order) -> Result<wire::Opened, wire::Problem> {
        let token = order.head.token;
        let decoded = order_from_wire(key, order)
            .map_err(|unknown| problem(ProblemCode::Malformed, unknown.to_string()))?;
        let life = &order.head.life;
        if !life.is_empty() && *life != self.0.config.life {
            return self.find(key, token).await;
        }
        let execute = {
            let mut book = self.0.book();
            // What is here already may go on while nothing new is taken.
            if self.0.draining.load(Ordering::Relaxed) && !book.knows(key) {
                return Err(problem(ProblemCode::Draining, String::new()));
            }
            match book.execute(key, token)? {
                Execute::Known(opening) => opening,
                Execute::Make => {
                    let opening = self.open(decoded);
                    book.opening(key, opening.clone());
                    Some(opening)
                }
            }
        };
        self.sweep();
        if let Some(opening) = execute {
            let held = self.0.world.sleep(OPENING_HELD);
            match select(opening, held).await {
                Either::Left((opened, _)) => opened?,
                Either::Right(((), _)) => {
                    let detail = "it is still being made; ask again".to_owned();
                    return Err(problem(ProblemCode::Pending, detail));
                }
            }
        }
        Ok(self.opened())
    }

    /// An order for an earlier life, however late it comes, finds its place if that has outlived the
    /// one who made it. It makes none: the holder of the first would take a second one for it, and
    /// run its program again.
    async fn find(&self, key: AttemptKey, token: u64) -> Result<wire::Opened, wire::Problem> {
        if !self.0.dispatch.holds(key).await.map_err(|error| error_to_wire(&error))? {
            return Err(problem(ProblemCode::Gone, String::new()));
        }
        self.0.book().raise(key, token)?;
        Ok(self.opened())
    }

    fn opened(&self) -> wire::Opened {
        let ServiceConfig { name, outlives, .. } = &self.0.config;
        wire::Opened { version: wire::VERSION, executor: name.clone(), outlives: *outlives }
    }

    /// Goes on whether or not whoever asked waits for it.
    fn open(&self, order: Order) -> Opening {
        let (key, inner) = (order.key, Arc::clone(&self.0));
        let making = async move {
            let permit = inner.permit().await;
            let opened = inner.dispatch.execute(order).await;
            match (&opened, permit) {
                (Ok(_), Some(permit)) => inner.book().occupy(key, permit),
                (Ok(_), None) => {}
                // Kept in the book: whoever asks again gets the same answer.
                (Err(error), _) => tracing::warn!(place = %key, error = %error, "no place was made"),
            }
            // The link is dropped here: whoever listens attaches, and the place waits meanwhile.
            opened.map(drop).map_err(|error| error_to_wire(&error))
        };
        let opening = making.boxed().shared();
        self.0.world.spawn(opening.clone().map(drop).boxed());
        opening
    }

    async fn status(&self, key: AttemptKey, token: u64) -> Result<wire::Status, wire::Problem> {
        self.0.book().raise(key, token)?;
        let held = self.0.dispatch.holds(key).await.map_err(|error| error_to_wire(&error))?;
        let mut book = self.0.book();
        // Looked at again: an order may have come while the question was asked.
        if held || book.is_making(key) {
            let outlives = self.0.config.outlives;
            return Ok(wire::Status { state: wire::PlaceState::Here, outlives });
        }
        book.fence(key, token);
        Ok(wire::Status { state: wire::PlaceState::Gone, outlives: false })
    }

    /// Also where the stream broke on which it would have been passed on: what was said to be done is
    /// done.
    async fn acknowledge(&self, key: AttemptKey, said: wire::Acknowledge) -> Result<(), wire::Problem> {
        let wire::Acknowledge { token, number } = said;
        if self.0.book().acknowledge(key, token, number)? {
            return Ok(());
        }
        match self.0.dispatch.attach(key, token, 0).await {
            Ok(link) => {
                link.acknowledge(number);
                Ok(())
            }
            Err(DispatchError::Gone(_)) => Ok(()),
            Err(error) => Err(error_to_wire(&error)),
        }
    }

    fn cancel(&self, key: AttemptKey, cancel: wire::Cancel) -> Result<(), wire::Problem> {
        {
            let mut book = self.0.book();
            if !book.knows(key) {
                // The order may still be under way: it is not taken any more.
                book.fence(key, cancel.token);
            }
            book.raise(key, cancel.token)?;
        }
        // Also of one that is not in the book: a place may have outlived the one who wrote it.
        self.0.dispatch.cancel(key, Duration::from_millis(cancel.grace_ms));
        Ok(())
    }

    fn capacity(&self) -> wire::Catalogue {
        let live = u32::try_from(self.live()).unwrap_or(u32::MAX);
        let ServiceConfig { name, life, .. } = &self.0.config;
        let mut catalogue = merge::to_wire(&self.0.dispatch.capacity(), (name, life), live);
        if self.0.draining.load(Ordering::Relaxed) {
            for capacity in &mut catalogue.capacities {
                capacity.places = 0;
                capacity.free = 0;
            }
        }
        catalogue
    }

    /// Keeps the book short.
    fn sweep(&self) {
        if self.0.book().len() >= SWEEP_AT {
            let inner = Arc::clone(&self.0);
            self.0.world.spawn(async move { inner.forget_the_gone().await }.boxed());
        }
    }
}
