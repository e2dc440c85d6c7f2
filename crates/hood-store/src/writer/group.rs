//! Operations of one kind that wait at the same time, done together: each of their statements writes
//! the rows of all. What one of them may not do is found out before anything is written, so that it is
//! left out and takes nothing of the others with it. Where the statements fail all the same, each is
//! done once more, alone.

use std::collections::HashSet;

use tokio::sync::oneshot;

use super::context::{Context, Room};
use super::{Answer, Handed, Turn, execute};
use crate::db::Connection;
use crate::error::StoreError;
use crate::ops::commit::Write;
use crate::ops::submit::Submit;

/// Each operation's own answer.
pub(crate) type Results<O> = Vec<Result<<O as Together>::Output, <O as Together>::Error>>;

/// One that is done together with others of its kind.
pub(crate) trait Together: Send + Sync + Sized + 'static {
    type Output: Send + 'static;
    type Error: From<StoreError> + Send + 'static;
    /// What no two that are done together may have in common.
    type Subject: Eq + std::hash::Hash;

    fn turn(&self) -> Turn;

    /// About how many bytes it will write.
    fn weight(&self) -> usize;

    fn subjects(&self) -> Vec<Self::Subject>;

    /// Does all of them, and answers in their order. What is refused has written nothing. An error here
    /// is of the statements, and then nothing is known of any.
    fn run(
        operations: &[&Self],
        db: &mut Connection<'_>,
        context: &mut Context<'_>,
    ) -> impl Future<Output = Result<Results<Self>, StoreError>> + Send;

    fn waiting(asked: Box<Asked<Self>>) -> Waiting;
}

/// An operation with the way back to its caller.
pub(crate) struct Asked<O: Together> {
    operation: O,
    reply: oneshot::Sender<Result<O::Output, O::Error>>,
}

impl<O: Together> Asked<O> {
    pub(super) const fn new(operation: O, reply: oneshot::Sender<Result<O::Output, O::Error>>) -> Self {
        Self { operation, reply }
    }

    fn answer(self, result: Result<O::Output, O::Error>) -> Answer {
        let reply = self.reply;
        Box::new(move |committed| {
            // A caller that is gone needs no answer. Nor is its own failure told where nothing was
            // committed: it may have come of what now never was.
            let _ = reply.send(match committed {
                Ok(()) => result,
                Err(error) => Err(error.into()),
            });
        })
    }

    fn refuse(self, error: StoreError) {
        let _ = self.reply.send(Err(error.into()));
    }
}

/// What waits for a writer.
pub(crate) enum Waiting {
    Submit(Box<Asked<Submit>>),
    Write(Box<Asked<Write>>),
    /// Of any other kind: by itself.
    Other(Box<dyn Handed>),
}

impl Waiting {
    pub(super) fn turn(&self) -> Turn {
        match self {
            Self::Submit(asked) => asked.operation.turn(),
            Self::Write(asked) => asked.operation.turn(),
            Self::Other(handed) => handed.turn(),
        }
    }

    pub(super) fn weight(&self) -> usize {
        match self {
            Self::Submit(asked) => asked.operation.weight(),
            Self::Write(asked) => asked.operation.weight(),
            Self::Other(handed) => handed.weight(),
        }
    }

    pub(super) fn refuse(self, error: StoreError) {
        match self {
            Self::Submit(asked) => asked.refuse(error),
            Self::Write(asked) => asked.refuse(error),
            Self::Other(handed) => handed.refuse(error),
        }
    }
}

/// What is done behind one savepoint.
pub(super) enum Step {
    Submits(Group<Submit>),
    Writes(Group<Write>),
    One(Box<dyn Handed>),
}

/// In their order, as many together as stand together.
pub(super) fn steps(waiting: Vec<Waiting>) -> Vec<Step> {
    let mut steps = Vec::new();
    for one in waiting {
        let apart = match (one, steps.last_mut()) {
            (Waiting::Submit(asked), Some(Step::Submits(group))) => group.join(asked).map(Waiting::Submit),
            (Waiting::Write(asked), Some(Step::Writes(group))) => group.join(asked).map(Waiting::Write),
            (one, _) => Some(one),
        };
        steps.extend(apart.map(|one| match one {
            Waiting::Submit(asked) => Step::Submits(Group::of(asked)),
            Waiting::Write(asked) => Step::Writes(Group::of(asked)),
            Waiting::Other(handed) => Step::One(handed),
        }));
    }
    steps
}

impl Step {
    pub(super) fn refuse(self, error: &StoreError) {
        match self {
            Self::Submits(group) => group.refuse(error),
            Self::Writes(group) => group.refuse(error),
            Self::One(handed) => handed.refuse(error.clone()),
        }
    }
}

pub(super) struct Group<O: Together> {
    asked: Vec<Box<Asked<O>>>,
    subjects: HashSet<O::Subject>,
}

impl<O: Together> Group<O> {
    fn of(asked: Box<Asked<O>>) -> Self {
        let subjects = asked.operation.subjects().into_iter().collect();
        Self { asked: vec![asked], subjects }
    }

    /// Gives back one that has something in common with another.
    fn join(&mut self, asked: Box<Asked<O>>) -> Option<Box<Asked<O>>> {
        let subjects = asked.operation.subjects();
        if subjects.iter().any(|subject| self.subjects.contains(subject)) {
            return Some(asked);
        }
        self.subjects.extend(subjects);
        self.asked.push(asked);
        None
    }

    fn refuse(self, error: &StoreError) {
        self.asked.into_iter().for_each(|asked| asked.refuse(error.clone()));
    }

    /// An error here is of the transaction as a whole.
    pub(super) async fn run(
        self,
        db: &mut Connection<'_>,
        room: &mut Room,
        answers: &mut Vec<Answer>,
    ) -> Result<(), StoreError> {
        let Err((failed, error)) = self.run_together(db, room, answers).await? else { return Ok(()) };
        if failed.asked.len() == 1 {
            answers.extend(failed.failed(&error));
            return Ok(());
        }
        let mut left = failed.asked.into_iter();
        while let Some(asked) = left.next() {
            match Self::of(asked).run_together(db, room, answers).await {
                Ok(Ok(())) => {}
                Ok(Err((alone, error))) => answers.extend(alone.failed(&error)),
                Err(error) => {
                    left.for_each(|asked| asked.refuse(error.clone()));
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn failed(self, error: &StoreError) -> impl Iterator<Item = Answer> {
        self.asked.into_iter().map(|asked| asked.answer(Err(error.clone().into())))
    }

    /// Behind a savepoint. Gives the operations back, with nothing of them left, where their statements
    /// failed.
    async fn run_together(
        self,
        db: &mut Connection<'_>,
        room: &mut Room,
        answers: &mut Vec<Answer>,
    ) -> Result<Result<(), (Self, StoreError)>, StoreError> {
        if let Err(error) = execute(db, "SAVEPOINT operation").await {
            self.refuse(&error);
            return Err(error);
        }
        let mut context = Context::of(room);
        let operations: Vec<&O> = self.asked.iter().map(|asked| &asked.operation).collect();
        match O::run(&operations, db, &mut context).await {
            Ok(results) => {
                context.keep();
                answers
                    .extend(self.asked.into_iter().zip(results).map(|(asked, result)| asked.answer(result)));
                execute(db, "RELEASE SAVEPOINT operation").await?;
                Ok(Ok(()))
            }
            Err(error) => {
                if let Err(lost) = undo(db).await {
                    // The engine rolled everything back because of what these were told: they know better.
                    self.refuse(&error);
                    return Err(lost);
                }
                Ok(Err((self, error)))
            }
        }
    }
}

async fn undo(db: &mut Connection<'_>) -> Result<(), StoreError> {
    execute(db, "ROLLBACK TO SAVEPOINT operation").await?;
    execute(db, "RELEASE SAVEPOINT operation").await
}
