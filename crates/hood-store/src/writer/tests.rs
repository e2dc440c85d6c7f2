//! White box: what each caller is told when one of a shared transaction fails, and when all of it does.

use std::path::Path;
use std::sync::Arc;

use futures::FutureExt as _;

use super::*;
use crate::db::query;
use crate::error::FindError;
use crate::rows::{corrupt, number};
use crate::testing::memory;
use crate::upkeep::{Files, Upkeep};
use crate::wake::Signal;

/// Counts one up, and then does as told.
struct Count(Then);

enum Then {
    Succeed,
    /// Finds that it may not.
    Refuse,
    /// As where the engine rolls back by itself, being out of room.
    RollEverythingBack,
}

impl Operation for Count {
    type Output = u64;
    type Error = FindError;

    async fn run(self, db: &mut Connection<'_>, context: &mut Context<'_>) -> Result<u64, FindError> {
        let count = "INSERT INTO counters (name, value) VALUES ('test', 1) \
             ON CONFLICT (name) DO UPDATE SET value = counters.value + 1 RETURNING value";
        let row = query(count).fetch_one(db).await.map_err(failed("counting"))?;
        context.signal(Signal::Work);
        match self.0 {
            Then::Succeed => Ok(number(&row, "value")?),
            Then::Refuse => Err(FindError::NotFound),
            Then::RollEverythingBack => {
                execute(db, "ROLLBACK").await?;
                Err(corrupt("out of room").into())
            }
        }
    }
}

async fn writer() -> (Writer, Wake) {
    let upkeep = Upkeep::new(Files::beside(Path::new("/nowhere"), Arc::default()), u64::MAX);
    let wake = Wake::open(None).expect("memory alone");
    (Writer::spawn(vec![Link::to_file(memory().await, upkeep)], 0, &wake).0, wake)
}

#[tokio::test]
async fn one_that_fails_fails_alone() {
    let (writer, _) = writer().await;
    // Joined on one thread, they wait together before the writer runs.
    let (first, second, third) = tokio::join!(
        writer.run(Count(Then::Succeed)),
        writer.run(Count(Then::Refuse)),
        writer.run(Count(Then::Succeed)),
    );
    assert!(matches!(second, Err(FindError::NotFound)), "{second:?}");
    assert_eq!((first.ok(), third.ok()), (Some(1), Some(2)), "what it counted was undone");
}

#[tokio::test]
async fn one_that_fails_alone_wakes_nobody() {
    let (writer, wake) = writer().await;
    let work = wake.work();
    writer.run(Count(Then::Refuse)).await.expect_err("is refused");
    assert!(work.now_or_never().is_none());
}

#[tokio::test]
async fn where_the_transaction_fails_everybody_is_told_and_nobody_woken() {
    let (writer, wake) = writer().await;
    let work = wake.work();
    let (first, second, third, fourth) = tokio::join!(
        writer.run(Count(Then::Succeed)),
        writer.run(Count(Then::Refuse)),
        writer.run(Count(Then::RollEverythingBack)),
        writer.run(Count(Then::Succeed)),
    );
    let third = third.expect_err("it broke");
    assert_eq!(third.to_string(), corrupt("out of room").to_string(), "who broke it knows why");
    for told in [first, second, fourth] {
        assert!(matches!(told, Err(FindError::Store(StoreError::Database { .. }))), "{told:?}");
    }
    assert!(work.now_or_never().is_none());
    assert_eq!(writer.run(Count(Then::Succeed)).await.ok(), Some(1), "nothing stayed, and it goes on");
}
