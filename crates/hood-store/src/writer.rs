//! Those who write. Whoever writes hands an operation in; those that wait at the same time share one
//! transaction and one flush to the disk, each behind a savepoint of its own, so that one that fails
//! takes nothing of the others with it. Those that come in thousands, what is accepted and what leases'
//! holders write, share statements too ([`Together`]). Nobody is answered before the commit is durable.
//!
//! SQLite has one such lane, PostgreSQL a few, beside those of other processes. There rows are locked
//! until the commit, so that everybody takes them in one order ([`Turn`]), and nobody waits for
//! anybody in a circle.

mod context;
mod group;
mod link;
mod turn;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use context::Room;
pub(crate) use context::{Context, Depths};
pub(crate) use group::{Asked, Results, Together, Waiting};
use group::{Step, steps};
pub(crate) use link::{Link, Server};
pub(crate) use turn::Turn;

use crate::db::{self, Connection};
use crate::error::StoreError;
use crate::ops::depth;
use crate::wake::Wake;

/// Operations in one transaction: enough that a flush is shared by a flood, few enough that the
/// first of them does not wait long for the last.
const SHARED_MAX: usize = 256;

/// Bytes that end a transaction's gathering: they bound how far the log grows by one of them.
const SHARED_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Operations that may wait for the writer; past it their callers wait.
const WAITING_MAX: usize = 4096;

pub(crate) fn failed(doing: &'static str) -> impl FnOnce(sqlx::Error) -> StoreError {
    move |source| match source {
        sqlx::Error::PoolClosed => StoreError::Closed,
        source if db::postgres::is_away(&source) && !StoreError::is_full(&source) => {
            StoreError::Away { doing, source: Arc::new(source) }
        }
        source => StoreError::Database { doing, source: Arc::new(source) },
    }
}

/// One caller's writing. What it returns is given to the caller after the commit; where it fails,
/// all that it wrote is undone, and nothing of anybody else's.
pub(crate) trait Operation: Send + 'static {
    type Output: Send + 'static;
    type Error: From<StoreError> + Send + 'static;

    /// What it will lock, and so where it stands among the others.
    fn turn(&self) -> Turn {
        Turn::Alone
    }

    /// About how many bytes it will write.
    fn weight(&self) -> usize {
        0
    }

    fn run(
        self,
        db: &mut Connection<'_>,
        context: &mut Context<'_>,
    ) -> impl Future<Output = Result<Self::Output, Self::Error>> + Send;
}

type Answer = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// An operation whose types are forgotten, with the way back to its caller.
pub(crate) trait Handed: Send {
    fn turn(&self) -> Turn;

    fn weight(&self) -> usize;

    fn run<'a>(
        self: Box<Self>,
        db: &'a mut Connection<'_>,
        context: &'a mut Context<'_>,
    ) -> BoxFuture<'a, (bool, Answer)>;

    fn refuse(self: Box<Self>, error: StoreError);
}

struct ByItself<O: Operation> {
    operation: O,
    reply: oneshot::Sender<Result<O::Output, O::Error>>,
}

impl<O: Operation> Handed for ByItself<O> {
    fn turn(&self) -> Turn {
        self.operation.turn()
    }

    fn weight(&self) -> usize {
        self.operation.weight()
    }

    fn run<'a>(
        self: Box<Self>,
        db: &'a mut Connection<'_>,
        context: &'a mut Context<'_>,
    ) -> BoxFuture<'a, (bool, Answer)> {
        Box::pin(async move {
            let result = self.operation.run(db, context).await;
            let done = result.is_ok();
            let reply = self.reply;
            let answer: Answer = Box::new(move |committed| {
                // A caller that is gone needs no answer.
                let _ = reply.send(match committed {
                    Ok(()) => result,
                    // Nor is its own failure told: it may have come of what now never was.
                    Err(error) => Err(error.into()),
                });
            });
            (done, answer)
        })
    }

    fn refuse(self: Box<Self>, error: StoreError) {
        let _ = self.reply.send(Err(error.into()));
    }
}

type Queue = mpsc::Sender<Waiting>;

#[derive(Clone)]
pub(crate) struct Writer {
    lanes: Arc<[Queue]>,
    /// So many of them, from the first on, are for accepting where there are others.
    accepting: usize,
    /// Who accepts next.
    next: Arc<AtomicUsize>,
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").field("lanes", &self.lanes.len()).finish_non_exhaustive()
    }
}

impl Writer {
    /// A lane for each link, the first `accepting` of them for submissions. Each ends, and closes its
    /// connection, once every handle is gone.
    pub(crate) fn spawn(links: Vec<Link>, accepting: usize, wake: &Wake) -> (Self, Vec<JoinHandle<()>>) {
        let (mut lanes, mut tasks) = (Vec::new(), Vec::new());
        for link in links {
            let (queue, waiting) = mpsc::channel(WAITING_MAX);
            lanes.push(queue);
            tasks.push(tokio::spawn(write(link, waiting, wake.clone())));
        }
        (Self { lanes: lanes.into(), accepting, next: Arc::default() }, tasks)
    }

    pub(crate) async fn run<O: Operation>(&self, operation: O) -> Result<O::Output, O::Error> {
        let (reply, answer) = oneshot::channel();
        let waiting = Waiting::Other(Box::new(ByItself { operation, reply }));
        self.lane(&waiting.turn()).send(waiting).await.map_err(|_| StoreError::Closed)?;
        answer.await.unwrap_or_else(|_| Err(StoreError::Closed.into()))
    }

    /// The same for one that can share its statements.
    pub(crate) async fn run_together<O: Together>(&self, operation: O) -> Result<O::Output, O::Error> {
        let (reply, answer) = oneshot::channel();
        let waiting = O::waiting(Box::new(Asked::new(operation, reply)));
        self.lane(&waiting.turn()).send(waiting).await.map_err(|_| StoreError::Closed)?;
        answer.await.unwrap_or_else(|_| Err(StoreError::Closed.into()))
    }

    /// All that is written about one evaluation goes the same way, and what is accepted another one:
    /// the locks of a full queue are not to be waited for by what makes room in it.
    fn lane(&self, turn: &Turn) -> &Queue {
        let others = self.lanes.len() - self.accepting;
        let index = match turn {
            _ if self.accepting == 0 => 0,
            Turn::Accept { .. } => self.next.fetch_add(1, Ordering::Relaxed) % self.accepting,
            Turn::Row(id) => self.accepting + (id.as_u128() % others as u128) as usize,
            Turn::Sweep | Turn::Alone => self.accepting,
        };
        &self.lanes[index]
    }
}

async fn write(mut link: Link, mut waiting: mpsc::Receiver<Waiting>, wake: Wake) {
    while let Some(first) = link.next(&mut waiting).await {
        for shared in link.arrange(gather(first, &mut waiting)) {
            match link.connect().await {
                Ok(()) => {
                    let outcome = transact(&mut link, shared, &wake).await;
                    link.settle(&outcome).await;
                }
                Err(error) => shared.into_iter().for_each(|waiting| waiting.refuse(error.clone())),
            }
        }
    }
    link.close().await;
}

fn gather(first: Waiting, waiting: &mut mpsc::Receiver<Waiting>) -> Vec<Waiting> {
    let mut bytes = first.weight();
    let mut shared = vec![first];
    while shared.len() < SHARED_MAX && bytes < SHARED_BYTES_MAX {
        let Ok(next) = waiting.try_recv() else { break };
        bytes = bytes.saturating_add(next.weight());
        shared.push(next);
    }
    shared
}

async fn transact(link: &mut Link, shared: Vec<Waiting>, wake: &Wake) -> Result<(), StoreError> {
    let mut room = Room::default();
    let mut answers = Vec::with_capacity(shared.len());
    let evaluations = shared.iter().map(|waiting| waiting.turn().evaluations()).sum();
    let mut outcome = link.begin(&mut room, evaluations).await;
    for step in steps(shared) {
        match &outcome {
            Ok(()) => outcome = run(step, &mut link.connection()?, &mut room, &mut answers).await,
            Err(error) => step.refuse(error),
        }
    }
    if outcome.is_ok() {
        outcome = commit(link, &room).await;
    }
    if outcome.is_err() {
        // Where the engine rolled back by itself there is nothing left to roll back.
        let _ = execute(&mut link.connection()?, "ROLLBACK").await;
    }
    for answer in answers {
        answer(outcome.clone());
    }
    if outcome.is_ok() {
        link.grown(&room);
        wake.fire(room.signals);
    }
    outcome
}

async fn commit(link: &mut Link, room: &Room) -> Result<(), StoreError> {
    let shard = link.shard();
    let mut db = link.connection()?;
    depth::write(&mut db, shard, &room.depths).await?;
    execute(&mut db, "COMMIT").await
}

async fn run(
    step: Step,
    db: &mut Connection<'_>,
    room: &mut Room,
    answers: &mut Vec<Answer>,
) -> Result<(), StoreError> {
    match step {
        Step::Submits(group) => group.run(db, room, answers).await,
        Step::Writes(group) => group.run(db, room, answers).await,
        Step::One(handed) => run_one(handed, db, room, answers).await,
    }
}

/// One operation behind its savepoint. An error here is of the transaction as a whole: of the
/// operation's own failure only its caller hears, and nothing of it stays.
async fn run_one(
    handed: Box<dyn Handed>,
    db: &mut Connection<'_>,
    room: &mut Room,
    answers: &mut Vec<Answer>,
) -> Result<(), StoreError> {
    if let Err(error) = execute(db, "SAVEPOINT operation").await {
        handed.refuse(error.clone());
        return Err(error);
    }
    let mut context = Context::of(room);
    let (done, answer) = handed.run(db, &mut context).await;
    if done {
        context.keep();
    } else if let Err(error) = execute(db, "ROLLBACK TO SAVEPOINT operation").await {
        // The engine rolled everything back because of what this one was told: it knows better.
        answer(Ok(()));
        return Err(error);
    }
    answers.push(answer);
    execute(db, "RELEASE SAVEPOINT operation").await
}

async fn execute(db: &mut Connection<'_>, sql: &'static str) -> Result<(), StoreError> {
    db.command(sql).await.map_err(failed("writing"))
}

#[cfg(test)]
mod tests;
