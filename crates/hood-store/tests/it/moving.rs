//! Black box. Large output leaves the rows once its attempt has ended, reads the same before, meanwhile
//! and after, and leaves no blob behind that nobody refers to.

use rstest::rstest;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt as _;
use hood_core::outcome::Stream;
use hood_core::{EvaluationId, Verdict};
use hood_store::{Commit, FindError, ORPHAN_AGE, Span, StoreError};

use crate::support::Engine::{self, Postgres, Sqlite};
use crate::support::s3::S3;
use crate::support::{TestStore, at, chunk, finished, lost, tenant};

const KIB: usize = 1024;
/// What stays in the rows.
const IN_ROWS_MAX: usize = 64 * KIB;

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i.wrapping_mul(31) ^ (i >> 8)) as u8).collect()
}

async fn names(t: &TestStore) -> Vec<String> {
    let mut names: Vec<String> =
        t.blobs().list().map_ok(|found| found.name).try_collect().await.expect("lists");
    names.sort();
    names
}

fn output(stdout: &[u8], stderr: &[u8]) -> Commit {
    let output = vec![chunk(Stream::Stdout, 0, stdout), chunk(Stream::Stderr, 0, stderr)];
    Commit { output, ..Commit::default() }
}

async fn ended_with(t: &TestStore, stdout: &[u8], stderr: &[u8]) -> EvaluationId {
    let (claimed, running) = t.running(at(0)).await;
    let mut commit = finished(running, at(1), Verdict::Succeeded);
    commit.output = output(stdout, stderr).output;
    t.commit(&claimed.lease, commit).await.expect("ends");
    claimed.lease.evaluation
}

async fn reads(t: &TestStore, id: EvaluationId, stream: Stream, whole: &[u8]) {
    let len = whole.len();
    for (offset, max) in [(0, len), (0, usize::MAX), (1, 3), (len / 2, 100 * KIB), (len, 1), (len - 1, 9)] {
        let span = Span { stream, attempt: None, offset: offset as u64, max };
        let slice = t.output(&tenant(), id, span).await.expect("reads");
        assert!(slice.bytes == whole[offset..offset.saturating_add(max).min(len)], "{max} from {offset}");
        assert_eq!((slice.stored, slice.ended, slice.cut), (len as u64, true, false));
    }
}

async fn moves(t: TestStore) {
    let (long, edge) = (pattern(3 * 1024 * KIB + 17), pattern(IN_ROWS_MAX));
    let id = ended_with(&t, &long, &edge).await;
    reads(&t, id, Stream::Stdout, &long).await;
    assert_eq!(t.move_outputs(at(2)).await.expect("moves"), 1, "what is small stays");
    assert_eq!(t.move_outputs(at(2)).await.expect("looks"), 0);
    assert_eq!(names(&t).await.len(), 1);
    reads(&t, id, Stream::Stdout, &long).await;
    reads(&t, id, Stream::Stderr, &edge).await;
    let t = t.reopen().await;
    reads(&t, id, Stream::Stdout, &long).await;

    assert_eq!(t.delete_blobs(at(3)).await.expect("looks"), 0, "what is referred to stays");
    assert_eq!(t.delete_orphans(at(3).after(10 * ORPHAN_AGE)).await.expect("looks"), 0);
    reads(&t, id, Stream::Stdout, &long).await;
    t.delete(&tenant(), id).await.expect("deleted");
    assert_eq!(t.delete_blobs(at(3)).await.expect("deletes"), 1);
    assert_eq!(names(&t).await, Vec::<String>::new());
    t.check().await;
}

#[rstest]
#[tokio::test]
async fn large_output_goes_into_files(#[values(Sqlite, Postgres)] on: Engine) {
    moves(TestStore::new(on).await).await;
}

#[rstest]
#[tokio::test]
async fn large_output_goes_into_a_bucket(#[values(Sqlite, Postgres)] on: Engine) {
    let Some(s3) = S3::start() else { return };
    moves(TestStore::with(on, |config| config.blobs = s3.config("outputs/of/one")).await).await;
}

#[rstest]
#[tokio::test]
async fn an_earlier_attempts_output_moves_too_and_stays_readable(#[values(Sqlite, Postgres)] on: Engine) {
    let t = TestStore::new(on).await;
    let claimed = t.leased(at(0)).await;
    let id = claimed.lease.evaluation;
    let first = pattern(IN_ROWS_MAX + 1);
    t.commit(&claimed.lease, output(&first, b"")).await.expect("stored");
    assert_eq!(t.move_outputs(at(1)).await.expect("looks"), 0, "more may come");
    t.commit(&claimed.lease, lost(&claimed, at(1))).await.expect("is lost");
    assert_eq!(t.move_outputs(at(2)).await.expect("moves"), 1);
    t.claim_one(at(1000)).await;
    let span = Span { stream: Stream::Stdout, attempt: Some(1), offset: 0, max: usize::MAX };
    assert!(t.output(&tenant(), id, span).await.expect("is there").bytes == first);
    assert_eq!(t.read(id, Stream::Stdout).await.stored, 0, "the next one begins at nothing");
    t.check().await;
}

/// Whoever reads while the bytes change their place gets them all the same.
#[rstest]
#[tokio::test]
async fn a_reader_does_not_see_the_move(#[values(Sqlite, Postgres)] on: Engine) {
    let t = TestStore::new(on).await;
    let whole = pattern(500 * KIB);
    for _ in 0..5 {
        let id = ended_with(&t, &whole, b"").await;
        let reading = async {
            for _ in 0..10 {
                reads(&t, id, Stream::Stdout, &whole).await;
            }
        };
        let moving = async {
            tokio::task::yield_now().await;
            t.move_outputs(at(2)).await.expect("moves")
        };
        assert_eq!(tokio::join!(reading, moving).1, 1);
    }
    t.check().await;
}

/// Two that do the same, and a deletion in between: whoever is first, nothing stays behind.
#[rstest]
#[tokio::test]
async fn moving_twice_and_deleting_meanwhile_leave_nothing(#[values(Sqlite, Postgres)] on: Engine) {
    let t = TestStore::new(on).await;
    let whole = pattern(200 * KIB);
    let tenant = tenant();
    for round in 0..20 {
        let id = ended_with(&t, &whole, b"").await;
        let pause = async |turns| {
            for _ in 0..turns {
                tokio::task::yield_now().await;
            }
        };
        let (one, other, deleted) = tokio::join!(t.move_outputs(at(2)), t.move_outputs(at(2)), async {
            pause(round * 3).await;
            t.delete(&tenant, id).await
        });
        deleted.expect("deletes");
        assert!(one.expect("moves") + other.expect("moves") <= 2);
        while t.delete_blobs(at(3)).await.expect("deletes") > 0 {}
        assert_eq!(names(&t).await, Vec::<String>::new(), "round {round}");
    }
    t.check().await;
}

#[rstest]
#[tokio::test]
async fn while_the_bucket_is_away_output_stays_where_it_is(#[values(Sqlite, Postgres)] on: Engine) {
    let Some(s3) = S3::start() else { return };
    let t = TestStore::with(on, |config| config.blobs = s3.config("")).await;
    let whole = pattern(100 * KIB);
    s3.kill9().expect("dies");
    let id = ended_with(&t, &whole, b"").await;
    let moved = t.move_outputs(at(2)).await;
    assert!(matches!(moved, Err(StoreError::Blob(_))), "{moved:?}");
    reads(&t, id, Stream::Stdout, &whole).await;
    s3.restart().expect("starts");
    assert_eq!(t.move_outputs(at(2)).await.expect("moves"), 1);
    reads(&t, id, Stream::Stdout, &whole).await;
    s3.kill9().expect("dies");
    let span = Span { stream: Stream::Stdout, attempt: None, offset: 0, max: 1 };
    let read = t.output(&tenant(), id, span).await;
    assert!(matches!(read, Err(FindError::Store(StoreError::Blob(_)))), "said, and not made up: {read:?}");
    t.check().await;
}

#[rstest]
#[tokio::test]
async fn an_object_that_nothing_refers_to_goes_when_it_is_old(#[values(Sqlite, Postgres)] on: Engine) {
    let t = TestStore::new(on).await;
    let whole = pattern(100 * KIB);
    let id = ended_with(&t, &whole, b"").await;
    t.move_outputs(at(2)).await.expect("moves");
    t.blobs().put("outputs/00/stray".to_owned(), Bytes::from_static(b"?")).await.expect("is durable");
    let written = t.blobs().list().try_next().await.expect("lists").expect("is there").written_at;
    let old = written.after(ORPHAN_AGE);
    assert_eq!(t.delete_orphans(old.before(Duration::from_secs(60))).await.expect("looks"), 0, "it is young");
    assert_eq!(names(&t).await.len(), 2);
    assert_eq!(t.delete_orphans(old.after(Duration::from_secs(60))).await.expect("deletes"), 1);
    assert_eq!(names(&t).await.len(), 1);
    reads(&t, id, Stream::Stdout, &whole).await;
    t.check().await;
}

/// On SQLite, which counts the pages that are free again as soon as they are.
#[tokio::test]
async fn blobs_of_this_machine_count_as_storage() {
    let on = Sqlite;
    let t = TestStore::new(on).await;
    let used = async |t: &TestStore| t.storage().await.expect("measures").used_bytes;
    let whole = pattern(1024 * KIB);
    for _ in 0..8 {
        ended_with(&t, &whole, b"").await;
    }
    assert_eq!(t.move_outputs(at(2)).await.expect("moves"), 8);
    assert_eq!(t.blobs().used_bytes(), 8 * whole.len() as u64);
    assert!(used(&t).await >= t.blobs().used_bytes());
    let t = t.reopen().await;
    assert_eq!(t.blobs().used_bytes(), 8 * whole.len() as u64, "measured at the start");
    assert!(used(&t).await < 9 * whole.len() as u64, "the rows' pages are free again");
    t.check().await;
}

#[rstest]
#[tokio::test]
async fn a_turn_is_one_holders_until_it_ends(#[values(Sqlite, Postgres)] on: Engine) {
    let t = TestStore::new(on).await;
    let turn = async |holder, now| t.take_turn("keeping", holder, now, Duration::from_secs(10)).await;
    assert!(turn("a", at(0)).await.expect("answers"));
    assert!(!turn("b", at(9_999)).await.expect("answers"));
    assert!(turn("a", at(9_999)).await.expect("answers"), "its holder keeps it");
    assert!(!turn("b", at(10_001)).await.expect("answers"), "and has it for longer then");
    assert!(turn("b", at(19_999)).await.expect("answers"));
    assert!(!turn("a", at(20_000)).await.expect("answers"));
    assert!(t.take_turn("other", "a", at(20_000), Duration::ZERO).await.expect("answers"));
    t.check().await;
}
