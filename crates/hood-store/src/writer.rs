//! The one writer. Whoever writes hands an operation in; those that wait at the same time share one
//! transaction and one flush to the disk, each behind a savepoint of its own, so that one that fails
//! takes nothing of the others with it. Nobody is answered before the commit is durable.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;
use sqlx::{Connection as _, SqliteConnection};
use tokio::sync::{mpsc, oneshot};

use crate::error::StoreError;
use crate::upkeep::{Files, QUIET, Upkeep};
use crate::wake::{Signal, Wake};

/// Operations in one transaction: enough that a flush is shared by a flood, few enough that the
/// first of them does not wait long for the last.
const SHARED_MAX: usize = 256;

/// Operations that may wait for the writer; past it their callers wait.
const WAITING_MAX: usize = 4096;

pub(crate) fn failed(doing: &'static str) -> impl FnOnce(sqlx::Error) -> StoreError {
    move |source| match source {
        sqlx::Error::PoolClosed => StoreError::Closed,
        source => StoreError::Database { doing, source: Arc::new(source) },
    }
}

/// What operations of one transaction know besides the rows.
#[derive(Debug, Default)]
pub(crate) struct Context {
    /// Bytes in use when the transaction began, and what was added since.
    pub(crate) used_bytes: u64,
    /// Wake-ups to send once it is durable.
    pub(crate) signals: HashSet<Signal>,
}

/// One caller's writing.
pub(crate) trait Operation: Send + 'static {
    type Output: Send + 'static;
    type Error: From<StoreError> + Send + 'static;

    fn run(
        self,
        db: &mut SqliteConnection,
        context: &mut Context,
    ) -> impl Future<Output = Result<Self::Output, Self::Error>> + Send;
}

type Answer = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// An operation whose types are forgotten, with the way back to its caller.
trait Waiting: Send {
    fn run<'a>(
        self: Box<Self>,
        db: &'a mut SqliteConnection,
        context: &'a mut Context,
    ) -> BoxFuture<'a, (bool, Answer)>;

    fn refuse(self: Box<Self>, error: StoreError);
}

struct Handed<O: Operation> {
    operation: O,
    reply: oneshot::Sender<Result<O::Output, O::Error>>,
}

impl<O: Operation> Waiting for Handed<O> {
    fn run<'a>(
        self: Box<Self>,
        db: &'a mut SqliteConnection,
        context: &'a mut Context,
    ) -> BoxFuture<'a, (bool, Answer)> {
        Box::pin(async move {
            let result = self.operation.run(db, context).await;
            let done = result.is_ok();
            let reply = self.reply;
            let answer: Answer = Box::new(move |committed| {
                // A caller that is gone needs no answer.
                let _ = reply.send(match committed {
                    Ok(()) => result,
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
    pub(crate) fn spawn(
        db: SqliteConnection,
        wake: Wake,
        upkeep: Upkeep,
    ) -> (Self, tokio::task::JoinHandle<()>) {
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
    mut db: SqliteConnection,
    mut waiting: mpsc::Receiver<Box<dyn Waiting>>,
    wake: Wake,
    mut upkeep: Upkeep,
) {
    let mut shared = Vec::with_capacity(SHARED_MAX);
    loop {
        let handed = waiting.recv_many(&mut shared, SHARED_MAX);
        let handed = if upkeep.has_something_to_do() {
            match tokio::time::timeout(QUIET, handed).await {
                Ok(handed) => handed,
                Err(_) => {
                    upkeep.quiet(&mut db).await;
                    continue;
                }
            }
        } else {
            handed.await
        };
        if handed == 0 {
            break;
        }
        transact(&mut db, &mut shared, &wake, upkeep.files()).await;
        upkeep.written(&mut db).await;
    }
    // Folds the log into the database; what cannot be done now is done at the next start.
    let _ = sqlx::raw_sql("PRAGMA wal_checkpoint(TRUNCATE)").execute(&mut db).await;
    let _ = db.close().await;
}

async fn transact(db: &mut SqliteConnection, shared: &mut Vec<Box<dyn Waiting>>, wake: &Wake, files: &Files) {
    let mut context = match begin(db, files).await {
        Ok(context) => context,
        Err(error) => {
            shared.drain(..).for_each(|waiting| waiting.refuse(error.clone()));
            return;
        }
    };
    let mut answers = Vec::with_capacity(shared.len());
    let mut broken = None;
    for waiting in shared.drain(..) {
        if let Some(error) = &broken {
            waiting.refuse(StoreError::clone(error));
            continue;
        }
        broken = step(db, waiting, &mut context, &mut answers).await.err();
    }
    let committed = match broken {
        None => sqlx::raw_sql("COMMIT").execute(&mut *db).await.map(|_| ()).map_err(failed("committing")),
        Some(error) => Err(error),
    };
    if committed.is_err() {
        // Where the engine rolled back by itself there is nothing left to roll back.
        let _ = sqlx::raw_sql("ROLLBACK").execute(&mut *db).await;
    }
    for answer in answers {
        answer(committed.clone());
    }
    if committed.is_ok() {
        context.signals.into_iter().for_each(|signal| wake.fire(signal));
    }
}

async fn begin(db: &mut SqliteConnection, files: &Files) -> Result<Context, StoreError> {
    sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut *db).await.map_err(failed("beginning to write"))?;
    match files.used_bytes(db).await {
        Ok(used_bytes) => Ok(Context { used_bytes, signals: HashSet::new() }),
        Err(error) => {
            let _ = sqlx::raw_sql("ROLLBACK").execute(db).await;
            Err(error)
        }
    }
}

/// One operation behind its savepoint. An error here is of the transaction as a whole: of the
/// operation's own failure only its caller hears, and nothing of it stays.
async fn step(
    db: &mut SqliteConnection,
    waiting: Box<dyn Waiting>,
    context: &mut Context,
    answers: &mut Vec<Answer>,
) -> Result<(), StoreError> {
    if let Err(source) = sqlx::raw_sql("SAVEPOINT op").execute(&mut *db).await {
        let error = failed("beginning to write")(source);
        waiting.refuse(error.clone());
        return Err(error);
    }
    let mut own = Context { used_bytes: context.used_bytes, signals: HashSet::new() };
    let (done, answer) = waiting.run(db, &mut own).await;
    answers.push(answer);
    let end = if done { "RELEASE op" } else { "ROLLBACK TO op; RELEASE op" };
    sqlx::raw_sql(end).execute(&mut *db).await.map_err(failed("writing"))?;
    if done {
        context.used_bytes = own.used_bytes;
        context.signals.extend(own.signals);
    }
    Ok(())
}
