//! Black box. Keys, the catalogue, counts, and the way the store opens and closes.

use hood_core::lifecycle::State;
use hood_core::{Tenant, Verdict};
use hood_store::{CapacityRecord, Key, NewKey, StoreError};
use rstest::rstest;

use crate::support::Engine::{self, Postgres, Sqlite};
use crate::support::{TestStore, at, tenant};

#[rstest]
#[tokio::test]
async fn a_key_is_found_by_its_hash_alone(#[values(Sqlite, Postgres)] on: Engine) {
    let t = TestStore::new(on).await;
    assert!(!t.has_keys().await.expect("looks"));
    let new =
        NewKey { tenant: Tenant::new("a"), name: "laptop".to_owned(), hash: [3; 32], created_at: at(0) };
    assert!(!format!("{new:?}").contains("3, 3"), "a hash is nobody's to log");
    t.insert_key(&new).await.expect("kept");
    assert!(t.has_keys().await.expect("looks"));
    let key = Key { tenant: Tenant::new("a"), name: "laptop".to_owned() };
    assert_eq!(t.find_key(&[3; 32]).await.expect("looks"), Some(key));
    assert_eq!(t.find_key(&[4; 32]).await.expect("looks"), None);
    let twice = NewKey { tenant: Tenant::new("b"), ..new };
    assert!(t.insert_key(&twice).await.is_err(), "a token speaks for one tenant");
    t.check().await;
}

#[rstest]
#[tokio::test]
async fn the_catalogue_is_the_last_one_written(#[values(Sqlite, Postgres)] on: Engine) {
    let t = TestStore::new(on).await;
    assert_eq!(t.capacity().await.expect("looks"), None);
    t.put_capacity(1, at(1), "{}").await.expect("kept");
    t.put_capacity(2, at(2), r#"{"places":4}"#).await.expect("kept");
    let expected = CapacityRecord { version: 2, at: at(2), document: r#"{"places":4}"#.to_owned() };
    assert_eq!(t.capacity().await.expect("looks"), Some(expected.clone()));
    let t = t.reopen().await;
    assert_eq!(t.capacity().await.expect("looks"), Some(expected));
    t.check().await;
}

#[rstest]
#[tokio::test]
async fn the_queue_is_counted_by_state_and_priority(#[values(Sqlite, Postgres)] on: Engine) {
    let t = TestStore::new(on).await;
    assert_eq!(t.queue(&tenant()).await.expect("counts"), Default::default());
    t.ended(at(0), Verdict::Failed).await;
    t.running(at(0)).await;
    t.leased(at(0)).await;
    let oldest = t.submit_with(at(1), |new| new.priority = 3).await;
    t.submit_with(at(2), |new| new.priority = 9).await;
    t.submit_with(at(3), |new| new.priority = 9).await;
    let queue = t.queue(&tenant()).await.expect("counts");
    let mut depth = queue.depth;
    depth.sort();
    assert_eq!(
        depth,
        [(State::Queued, 3, 1), (State::Queued, 9, 2), (State::Provisioning, 0, 1), (State::Running, 0, 1)]
    );
    assert_eq!(queue.oldest, Some((oldest, at(1))));
    assert_eq!(t.queue(&Tenant::new("other")).await.expect("counts"), Default::default());
    t.check().await;
}

#[rstest]
#[tokio::test]
async fn a_closed_store_says_so(#[values(Sqlite, Postgres)] on: Engine) {
    let t = TestStore::new(on).await;
    let id = t.submit_one(at(0)).await;
    t.check_writable().await.expect("writes");
    t.close().await;
    t.close().await;
    assert!(matches!(t.check_writable().await, Err(StoreError::Closed)));
    assert!(matches!(t.has_keys().await, Err(StoreError::Closed)));
    assert!(matches!(t.get(&tenant(), id).await, Err(hood_store::FindError::Store(StoreError::Closed))));
    t.reopen().await.check().await;
}
