//! Black box. The bound holds, what was accepted can still end, and what is deleted is given back.

use hood_core::Verdict;
use hood_core::outcome::Stream;
use hood_store::{Commit, SubmitError};

use crate::support::{Engine, TestStore, at, chunk, evaluation, finished, new_id, single, tenant};

const MIB: u64 = 1024 * 1024;

async fn small() -> TestStore {
    TestStore::with(Engine::Sqlite, |config| {
        (config.storage_bytes, config.storage_reserve_bytes) = (12 * MIB, 4 * MIB)
    })
    .await
}

#[tokio::test]
async fn submissions_stop_at_the_reserve_and_what_was_accepted_still_ends() {
    let t = small().await;
    let mut accepted = 0;
    let (used, limit) = loop {
        let mut new = evaluation(new_id(at(0)), 0);
        new.request = "x".repeat(MIB as usize / 4);
        match t.submit(&tenant(), at(0), single(new)).await {
            Ok(_) => accepted += 1,
            Err(SubmitError::StorageFull { used_bytes, limit_bytes }) => break (used_bytes, limit_bytes),
            Err(error) => panic!("{error}"),
        }
        assert!(accepted < 100, "the bound does not bound");
    };
    assert_eq!(limit, 8 * MIB);
    assert!(used <= limit && used + MIB > limit, "{used} of {limit}");
    let storage = t.storage().await.expect("measures");
    assert!(storage.used_bytes.abs_diff(used) < MIB, "{storage:?}");
    assert_eq!((storage.limit_bytes, storage.reserve_bytes), (12 * MIB, 4 * MIB));
    for claimed in t.claim(&crate::support::tenure(at(1)), accepted).await.expect("claims") {
        t.run_to_the_end(&claimed, at(2), Verdict::Succeeded).await;
    }
    t.check().await;
}

/// All of them in one transaction or two: what is only about to be written counts.
#[tokio::test]
async fn a_flood_does_not_pass_the_bound() {
    let t = small().await;
    let tenant = tenant();
    let flood = (0..64).map(|_| {
        let mut new = evaluation(new_id(at(0)), 0);
        new.request = "x".repeat(MIB as usize);
        t.submit(&tenant, at(0), single(new))
    });
    let answers = futures::future::join_all(flood).await;
    assert!(answers.iter().all(|answer| matches!(answer, Ok(_) | Err(SubmitError::StorageFull { .. }))));
    let accepted = answers.iter().filter(|answer| answer.is_ok()).count();
    assert!((2..=8).contains(&accepted), "{accepted} MiB in 8");
    let storage = t.storage().await.expect("measures");
    assert!(storage.used_bytes <= storage.limit_bytes, "{storage:?}");
    t.check().await;
}

#[tokio::test]
async fn output_beyond_the_bound_is_cut_and_says_so_and_the_result_finds_room() {
    let t = small().await;
    let (claimed, running) = t.running(at(0)).await;
    let id = claimed.lease.evaluation;
    let piece = vec![7; MIB as usize / 2];
    for i in 0..40 {
        // As its holder sees it: it goes on where it was, whatever was kept.
        let output = vec![chunk(Stream::Stdout, i * MIB / 2, &piece)];
        t.commit(&claimed.lease, Commit { output, ..Commit::default() }).await.expect("no error of ours");
    }
    let slice = t.read(id, Stream::Stdout).await;
    assert!(slice.cut && slice.stored > 0 && slice.stored < 12 * MIB, "{slice:?}");
    assert_eq!(slice.bytes.len() as u64, slice.stored, "what is kept is the beginning, without holes");
    t.commit(&claimed.lease, finished(running, at(1), Verdict::Succeeded)).await.expect("ends");
    let record = t.get(&tenant(), id).await.expect("is there");
    assert!(record.attempts[0].output_cut && record.result.is_some());
    assert!(t.read(id, Stream::Stdout).await.cut);
    t.check().await;
}

#[tokio::test]
async fn what_was_deleted_makes_room() {
    let t = small().await;
    let fill = async |t: &TestStore| {
        let mut full = Vec::new();
        loop {
            let mut new = evaluation(new_id(at(0)), 0);
            new.request = "x".repeat(MIB as usize / 2);
            let id = new.id;
            if t.submit(&tenant(), at(0), single(new)).await.is_err() {
                return full;
            }
            full.push(id);
        }
    };
    let first = fill(&t).await;
    for id in &first {
        t.request_cancel(&tenant(), *id, crate::cancel::wish(at(1), None)).await.expect("cancelled");
        t.delete(&tenant(), *id).await.expect("deleted");
    }
    let second = fill(&t).await;
    assert!(second.len() + 2 >= first.len() && !first.is_empty(), "{} after {}", second.len(), first.len());
    t.check().await;
}
