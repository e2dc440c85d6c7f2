//! Black box. Many that come at once share statements: what one of them is refused, or breaks on, is its own.

use futures::future::join_all;
use hood_core::outcome::Stream;
use hood_core::{BatchId, State, Verdict};
use hood_store::{
    Accepted, Claimed, Commit, CommitError, Idempotency, Lapsed, NewSubmission, Store, SubmitError,
};
use rstest::rstest;

use crate::support::Engine::{self, Postgres, Sqlite};
use crate::support::{
    RESULT, TTL, TestStore, at, chunk, evaluation, finished, new_id, provisioning, serial, single, tenant,
    tenure,
};

/// More than one statement takes.
const MANY: usize = 150;

fn keyed(key: &str) -> NewSubmission {
    let idempotency = Some(Idempotency { key: key.to_owned(), fingerprint: [7; 32] });
    NewSubmission { idempotency, ..single(evaluation(new_id(at(0)), 0)) }
}

fn whole_life(claimed: &Claimed) -> Commit {
    let step = provisioning(claimed).start(at(2));
    let mut commit = finished(step.evaluation, at(3), Verdict::Succeeded);
    commit.transitions.insert(0, step.transition);
    commit.output = vec![chunk(Stream::Stdout, 0, b"out"), chunk(Stream::Stderr, 0, b"err")];
    commit
}

/// On one thread all of them wait before the first is looked at.
async fn commit_all(store: &Store, commits: &[(Claimed, Commit)]) -> Vec<Result<(), CommitError>> {
    join_all(commits.iter().map(|(claimed, commit)| store.commit(&claimed.lease, commit.clone()))).await
}

#[rstest]
#[tokio::test]
async fn a_commit_that_is_refused_takes_nothing_of_the_others(#[values(Sqlite, Postgres)] on: Engine) {
    let t = TestStore::new(on).await;
    for _ in 0..MANY {
        t.submit_one(at(0)).await;
    }
    let old = t.claim_all(at(1)).await;
    assert_eq!(old.len(), MANY);
    let mut lapsed = t.store.reclaim(&tenure(at(1).after(TTL)), 30, Lapsed::Expired).await.expect("reclaims");
    let stale: Vec<_> = lapsed.iter().map(|claimed| claimed.lease.evaluation).collect();
    let mut commits: Vec<_> = old.into_iter().map(|claimed| (whole_life(&claimed), claimed)).collect();
    for (n, (commit, claimed)) in commits.iter_mut().enumerate() {
        match n % 5 {
            _ if stale.contains(&claimed.lease.evaluation) => {}
            0 => commit.result = None,
            1 => drop(commit.transitions.remove(0)),
            2 => commit.output[1].offset = 1,
            _ => {}
        }
    }
    let commits: Vec<_> = commits.into_iter().map(|(commit, claimed)| (claimed, commit)).collect();
    let answers = commit_all(&t, &commits).await;
    for (n, ((claimed, _), answer)) in commits.iter().zip(&answers).enumerate() {
        let record = t.get(&tenant(), claimed.lease.evaluation).await.expect("is there");
        let stdout = t.read(claimed.lease.evaluation, Stream::Stdout).await.bytes;
        let refused = match (stale.contains(&claimed.lease.evaluation), n % 5) {
            (true, _) => matches!(answer, Err(CommitError::StaleLease)),
            (_, 0) => matches!(answer, Err(CommitError::Unpaired { .. })),
            (_, 1) => matches!(answer, Err(CommitError::OutOfOrder { .. })),
            (_, 2) => matches!(answer, Err(CommitError::OutputGap { .. })),
            _ => {
                assert!(answer.is_ok(), "{n}: {answer:?}");
                assert_eq!((record.summary.state, &stdout[..]), (State::Succeeded, &b"out"[..]));
                continue;
            }
        };
        assert!(refused, "{n}: {answer:?}");
        assert_eq!((record.summary.state, &stdout[..]), (State::Provisioning, &b""[..]), "{n}");
    }
    let again = commit_all(&t, &commits).await;
    assert!(again.iter().zip(&answers).all(|(again, first)| again.is_ok() == first.is_ok()), "{again:?}");
    for claimed in lapsed.drain(..) {
        t.commit(&claimed.lease, whole_life(&claimed)).await.expect("the successor's stands");
    }
    t.check().await;
}

#[rstest]
#[tokio::test]
async fn two_commits_of_one_lease_follow_each_other(#[values(Sqlite, Postgres)] on: Engine) {
    let t = TestStore::new(on).await;
    for _ in 0..20 {
        t.submit_one(at(0)).await;
    }
    let claimed = t.claim_all(at(1)).await;
    let commits: Vec<_> = claimed
        .iter()
        .flat_map(|claimed| {
            let step = provisioning(claimed).start(at(2));
            let begin = Commit {
                transitions: vec![step.transition],
                output: vec![chunk(Stream::Stdout, 0, b"a")],
                ..Commit::default()
            };
            let mut end = finished(step.evaluation, at(3), Verdict::Succeeded);
            end.output = vec![chunk(Stream::Stdout, 1, b"b")];
            [(claimed.clone(), begin), (claimed.clone(), end)]
        })
        .collect();
    for answer in commit_all(&t, &commits).await {
        answer.expect("follows the one before");
    }
    for claimed in claimed {
        assert_eq!(&t.read(claimed.lease.evaluation, Stream::Stdout).await.bytes[..], b"ab");
        let record = t.get(&tenant(), claimed.lease.evaluation).await.expect("is there");
        assert_eq!(record.summary.result.as_deref(), Some(RESULT));
    }
    t.check().await;
}

#[rstest]
#[tokio::test]
async fn a_submission_that_breaks_takes_nothing_of_the_others(#[values(Sqlite, Postgres)] on: Engine) {
    let t = TestStore::new(on).await;
    let known = t.submit_one(at(0)).await;
    let key = |n: usize| format!("key {}", n / 2);
    let submissions = (0..MANY).map(|n| match n % 15 {
        // Its row is there: what everybody's statement breaks on.
        3 => single(evaluation(known, 0)),
        4 => NewSubmission { batch: None, ..twin() },
        5 => twin(),
        _ => keyed(&key(n)),
    });
    let tenant = tenant();
    let answers = join_all(submissions.map(|submission| t.store.submit(&tenant, at(0), submission))).await;
    let mut new = 0;
    for (n, answer) in answers.iter().enumerate() {
        match (n % 15, answer) {
            (3, Err(SubmitError::Store(_))) | (4, Err(SubmitError::Malformed)) => {}
            (5, Ok(Accepted::New)) => new += 2,
            (_, Ok(Accepted::New)) => new += 1,
            (_, Ok(Accepted::Existing { evaluations, .. })) => assert_eq!(evaluations.len(), 1, "{n}"),
            _ => panic!("{n}: {answer:?}"),
        }
    }
    let keys = (0..MANY).filter(|n| ![3, 4, 5].contains(&(n % 15))).map(key);
    let keys = keys.collect::<std::collections::HashSet<_>>().len();
    assert_eq!(new, keys + 2 * MANY / 15, "each key is one evaluation's");
    assert_eq!(t.claim_all(at(1)).await.len(), new + 1);
    t.check().await;
}

fn twin() -> NewSubmission {
    let evaluations = (0..2).map(|_| evaluation(new_id(at(0)), 0)).collect();
    NewSubmission { batch: Some(BatchId::new(at(0), serial())), evaluations, idempotency: None }
}

/// The key of what was refused stands for nothing.
#[rstest]
#[tokio::test]
async fn a_full_queue_takes_what_it_has_room_for_and_no_keys(#[values(Sqlite, Postgres)] on: Engine) {
    const ROOM: usize = 40;
    let t = TestStore::with(on, |config| config.queue_max = ROOM as u64).await;
    let tenant = tenant();
    let submit = |n: usize| t.store.submit(&tenant, at(0), keyed(&format!("key {n}")));
    let answers = join_all((0..MANY).map(submit)).await;
    let refused: Vec<_> = (0..MANY).filter(|n| answers[*n].is_err()).collect();
    assert_eq!(refused.len(), MANY - ROOM);
    for n in &refused {
        assert!(matches!(answers[*n], Err(SubmitError::QueueFull { .. })), "{:?}", answers[*n]);
    }
    assert_eq!(t.claim_all(at(1)).await.len(), ROOM);
    for n in &refused[..ROOM] {
        assert!(matches!(submit(*n).await, Ok(Accepted::New)), "{n}");
    }
    t.check().await;
}
