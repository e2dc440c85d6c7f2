//! The one writer. Whoever writes hands an operation in; those that wait at the same time share one
//! transaction and one flush to the disk, each behind a savepoint of its own, so that one that fails
//! takes nothing of the others with it. Nobody is answered before the commit is durable.

use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;
use sqlx::Connection as _;
use tokio::sync::{mpsc, oneshot};

mod context;

use context::Room;
pub(crate) use context::{Context, Depths};

use crate::db::{self, Connection};
use crate::error::StoreError;
use crate::ops::depth;
use crate::upkeep::{Files, QUIET, Upkeep};
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
        source => StoreError::Database { doing, source: Arc::new(source) },
    }
}

/// One caller's writing. What it returns is given to the caller after the commit; where it fails,
/// all that it wrote is undone, and nothing of anybody else's.
pub(crate) trait Operation: Send + 'static {
    type Output: Send + 'static;
    type Error: From<StoreError> + Send + 'static;

    /// About how many bytes it will write.
    fn weight(&self) -> usize {
        0
    }

    fn run(
        self,
        db: &mut Connection,
        context: &mut Context<'_>,
    ) -> impl Future<Output = Result<Self::Output, Self::Error>> + Send;
}

type Answer = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// An operation whose types are forgotten, with the way back to its caller.
trait Waiting: Send {
    fn weight(&self) -> usize;

    fn run<'a>(
        self: Box<Self>,
        db: &'a mut Connection,
        context: &'a mut Context<'_>,
    ) -> BoxFuture<'a, (bool, Answer)>;

    fn refuse(self: Box<Self>, error: StoreError);
}

struct Handed<O: Operation> {
    operation: O,
    reply: oneshot::Sender<Result<O::Output, O::Error>>,
}

impl<O: Operation> Waiting for Handed<O> {
    fn weight(&self) -> usize {
        self.operation.weight()
    }

    fn run<'a>(
        self: Box<Self>,
        db: &'a mut Connection,
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

#[derive(Clone)]
pub(crate) struct Writer {
    queue: mpsc::Sender<Box<dyn Waiting>>,
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Writer")
    }
}

impl Writer {
    /// The task ends, and closes the connection, once every handle is gone.
    pub(crate) fn spawn(db: Connection, wake: Wake, upkeep: Upkeep) -> (Self, tokio::task::JoinHandle<()>) {
        let (queue, waiting) = mpsc::channel(WAITING_MAX);
        (Self { queue }, tokio::spawn(write(db, waiting, wake, upkeep)))
    }

    pub(crate) async fn run<O: Operation>(&self, operation: O) -> Result<O::Output, O::Error> {
        let (reply, answer) = oneshot::channel();
        let handed = Box::new(Handed { operation, reply });
        self.queue.send(handed).await.map_err(|_| StoreError::Closed)?;
        answer.await.unwrap_or_else(|_| Err(StoreError::Closed.into()))
    }
}

async fn write(
    mut db: Connection,
    mut waiting: mpsc::Receiver<Box<dyn Waiting>>,
    wake: Wake,
    mut upkeep: Upkeep,
) {
    loop {
        let first = if upkeep.has_something_to_do() {
            match tokio::time::timeout(QUIET, waiting.recv()).await {
                Ok(first) => first,
                Err(_) => {
                    upkeep.quiet(&mut db).await;
                    continue;
                }
            }
        } else {
            waiting.recv().await
        };
        let Some(first) = first else { break };
        let shared = gather(first, &mut waiting);
        transact(&mut db, shared, &wake, upkeep.files()).await;
        upkeep.written(&mut db).await;
    }
    // Folds the log into the database; what cannot be done now is done at the next start.
    let _ = sqlx::raw_sql("PRAGMA wal_checkpoint(TRUNCATE)").execute(&mut db).await;
    let _ = db.close().await;
}

fn gather(first: Box<dyn Waiting>, waiting: &mut mpsc::Receiver<Box<dyn Waiting>>) -> Vec<Box<dyn Waiting>> {
    let mut bytes = first.weight();
    let mut shared = vec![first];
    while shared.len() < SHARED_MAX && bytes < SHARED_BYTES_MAX {
        let Ok(next) = waiting.try_recv() else { break };
        bytes = bytes.saturating_add(next.weight());
        shared.push(next);
    }
    shared
}

async fn transact(db: &mut Connection, shared: Vec<Box<dyn Waiting>>, wake: &Wake, files: &Files) {
    let mut room = Room::default();
    let mut answers = Vec::with_capacity(shared.len());
    let mut outcome = begin(db, files, &mut room).await;
    for waiting in shared {
        match &outcome {
            Ok(()) => outcome = step(db, waiting, &mut room, &mut answers).await,
            Err(error) => waiting.refuse(StoreError::clone(error)),
        }
    }
    if outcome.is_ok() {
        outcome = commit(db, &room).await;
    }
    if outcome.is_err() {
        // Where the engine rolled back by itself there is nothing left to roll back.
        let _ = execute(db, "ROLLBACK").await;
    }
    for answer in answers {
        answer(outcome.clone());
    }
    if outcome.is_ok() {
        wake.fire(room.signals);
    }
}

async fn begin(db: &mut Connection, files: &Files, room: &mut Room) -> Result<(), StoreError> {
    execute(db, db::BEGIN).await?;
    room.used_bytes = files.used_bytes(db).await?;
    room.queued = depth::queued(db).await?;
    Ok(())
}

async fn commit(db: &mut Connection, room: &Room) -> Result<(), StoreError> {
    depth::write(db, &room.depths).await?;
    execute(db, "COMMIT").await
}

/// One operation behind its savepoint. An error here is of the transaction as a whole: of the
/// operation's own failure only its caller hears, and nothing of it stays.
async fn step(
    db: &mut Connection,
    waiting: Box<dyn Waiting>,
    room: &mut Room,
    answers: &mut Vec<Answer>,
) -> Result<(), StoreError> {
    if let Err(error) = execute(db, "SAVEPOINT operation").await {
        waiting.refuse(error.clone());
        return Err(error);
    }
    let mut context = Context::of(room);
    let (done, answer) = waiting.run(db, &mut context).await;
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

async fn execute(db: &mut Connection, sql: &'static str) -> Result<(), StoreError> {
    sqlx::query(sql).execute(db).await.map_err(failed("writing")).map(drop)
}

#[cfg(test)]
mod tests;
