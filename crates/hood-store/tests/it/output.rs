//! Black box. Bytes come back as they were written, from any place and whatever rows hold them.

use hood_core::outcome::Stream;
use hood_core::{Evaluation, Verdict, lifecycle::Running};
use hood_store::{Claimed, Commit, CommitError, FindError, Span};
use proptest::prelude::*;
use rstest::rstest;

use crate::support::Engine::{self, Postgres, Sqlite};
use crate::support::{TestStore, at, chunk, finished, lost, provisioning, started, tenant};

fn output(stream: Stream, offset: u64, bytes: &[u8]) -> Commit {
    Commit { output: vec![chunk(stream, offset, bytes)], ..Commit::default() }
}

/// Bytes that differ from place to place.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i.wrapping_mul(31) ^ (i >> 8)) as u8).collect()
}

#[rstest]
#[tokio::test]
async fn a_repetition_changes_nothing_an_overlap_adds_and_a_gap_is_refused(
    #[values(Sqlite, Postgres)] on: Engine,
) {
    let t = TestStore::new(on).await;
    let (claimed, _) = t.running(at(0)).await;
    let id = claimed.lease.evaluation;
    for (offset, bytes, whole) in [
        (0, &b"abc"[..], &b"abc"[..]),
        (0, b"abc", b"abc"),
        (1, b"b", b"abc"),
        (2, b"cde", b"abcde"),
        (5, b"", b"abcde"),
        (5, b"f", b"abcdef"),
    ] {
        t.commit(&claimed.lease, output(Stream::Stdout, offset, bytes)).await.expect("stored");
        assert_eq!(t.read(id, Stream::Stdout).await.bytes, whole);
    }
    let gap = t.commit(&claimed.lease, output(Stream::Stdout, 7, b"h")).await;
    assert!(matches!(gap, Err(CommitError::OutputGap { offset: 7, stored: 6, .. })), "{gap:?}");
    assert_eq!(t.read(id, Stream::Stderr).await.stored, 0, "each stream for itself");
    t.check().await;
}

#[rstest]
#[tokio::test]
async fn an_earlier_attempt_stays_readable_and_the_next_begins_at_nothing(
    #[values(Sqlite, Postgres)] on: Engine,
) {
    let t = TestStore::new(on).await;
    let claimed = t.leased(at(0)).await;
    let id = claimed.lease.evaluation;
    t.commit(&claimed.lease, output(Stream::Stdout, 0, b"first")).await.expect("stored");
    t.commit(&claimed.lease, lost(&claimed, at(1))).await.expect("is lost");
    let span = |attempt| Span { stream: Stream::Stdout, attempt, offset: 0, max: 100 };
    let waiting = t.output(&tenant(), id, span(Some(2))).await.expect("will begin");
    assert_eq!((waiting.stored, waiting.ended), (0, false));
    t.claim_one(at(1000)).await;
    let current = t.output(&tenant(), id, span(None)).await.expect("is there");
    assert_eq!((current.attempt, current.stored, current.ended), (2, 0, false));
    let first = t.output(&tenant(), id, span(Some(1))).await.expect("is there");
    assert_eq!((&first.bytes[..], first.ended), (&b"first"[..], true));
    assert!(matches!(t.output(&tenant(), id, span(Some(3))).await, Err(FindError::NotFound)));
    t.check().await;
}

#[rstest]
#[tokio::test]
async fn reading_past_the_end_gives_nothing(#[values(Sqlite, Postgres)] on: Engine) {
    let t = TestStore::new(on).await;
    let (claimed, _) = t.running(at(0)).await;
    t.commit(&claimed.lease, output(Stream::Stderr, 0, b"abc")).await.expect("stored");
    for offset in [3, 4, u64::MAX] {
        let span = Span { stream: Stream::Stderr, attempt: None, offset, max: 10 };
        let slice = t.output(&tenant(), claimed.lease.evaluation, span).await.expect("is there");
        assert_eq!((slice.bytes.len(), slice.stored), (0, 3));
    }
    t.check().await;
}

async fn check_ranges(t: &TestStore, claimed: &Claimed, whole: &[u8], ranges: &[(usize, usize)]) {
    for &(offset, max) in ranges {
        let offset = offset % (whole.len() + 1);
        let expected = &whole[offset..whole.len().min(offset + max)];
        let span = Span { stream: Stream::Stdout, attempt: None, offset: offset as u64, max };
        let slice = t.output(&tenant(), claimed.lease.evaluation, span).await.expect("is there");
        assert!(slice.bytes == expected, "{max} bytes from {offset} of {}", whole.len());
        assert_eq!(slice.stored, whole.len() as u64);
    }
}

/// Larger than a chunk, larger than a piece, and read across every edge between them.
#[rstest]
#[tokio::test]
async fn a_large_output_is_whole_before_and_after_its_end(#[values(Sqlite, Postgres)] on: Engine) {
    let t = TestStore::new(on).await;
    let (claimed, running) = t.running(at(0)).await;
    let whole = pattern(5 * 1024 * 1024 + 17);
    let mut at_byte = 0;
    for size in [1, 300_000, 256 * 1024, 700_001, 4_000_000].into_iter().cycle() {
        let end = whole.len().min(at_byte + size);
        let commit = output(Stream::Stdout, at_byte as u64, &whole[at_byte..end]);
        t.commit(&claimed.lease, commit).await.expect("stored");
        at_byte = end;
        if end == whole.len() {
            break;
        }
    }
    let edges: Vec<(usize, usize)> = (0..=20).map(|i| (i * 256 * 1024, 3)).collect();
    let around: Vec<_> = edges.iter().map(|(edge, max)| (edge.saturating_sub(1), *max)).collect();
    let ranges = [&edges[..], &around[..], &[(0, usize::MAX >> 1), (1, 2_000_000)]].concat();
    check_ranges(&t, &claimed, &whole, &ranges).await;
    t.commit(&claimed.lease, finished(running, at(1), Verdict::Succeeded)).await.expect("ends");
    check_ranges(&t, &claimed, &whole, &ranges).await;
    t.check().await;
}

#[rstest]
#[tokio::test]
async fn ten_thousand_tiny_writes_are_one_text(#[values(Sqlite, Postgres)] on: Engine) {
    let t = TestStore::new(on).await;
    let (claimed, running) = t.running(at(0)).await;
    let whole = pattern(10_000);
    let chunks = whole.iter().enumerate().map(|(i, byte)| chunk(Stream::Stdout, i as u64, &[*byte]));
    let commit = Commit { output: chunks.collect(), ..Commit::default() };
    t.commit(&claimed.lease, commit).await.expect("stored");
    check_ranges(&t, &claimed, &whole, &[(0, 10_000), (4999, 2), (9999, 10)]).await;
    t.commit(&claimed.lease, finished(running, at(1), Verdict::Succeeded)).await.expect("ends");
    check_ranges(&t, &claimed, &whole, &[(0, 10_000), (4999, 2), (9999, 10)]).await;
    t.check().await;
}

#[rstest]
#[tokio::test]
async fn what_a_build_wrote_is_a_stream_of_its_own(
    #[values(Sqlite, Postgres)] on: Engine,
    #[values(10, 200_000)] bytes: usize,
) {
    let t = TestStore::new(on).await;
    let (claimed, running) = t.running(at(0)).await;
    let (id, whole) = (claimed.lease.evaluation, pattern(bytes));
    t.commit(&claimed.lease, output(Stream::Build, 0, &whole[..7])).await.expect("stored");
    let both = vec![chunk(Stream::Build, 7, &whole[7..]), chunk(Stream::Stdout, 0, b"out")];
    t.commit(&claimed.lease, Commit { output: both, ..Commit::default() }).await.expect("stored");
    t.commit(&claimed.lease, finished(running, at(1), Verdict::BuildFailed)).await.expect("ends");
    assert!(t.read(id, Stream::Build).await.bytes == whole);
    assert_eq!(t.read(id, Stream::Stdout).await.bytes, b"out");
    assert_eq!(t.read(id, Stream::Stderr).await.stored, 0);
    t.check().await;
}

async fn running(t: &TestStore) -> (Claimed, Evaluation<Running>) {
    let claimed = t.leased(at(0)).await;
    let step = provisioning(&claimed).start(at(0));
    t.commit(&claimed.lease, started(&step)).await.expect("starts");
    (claimed, step.evaluation)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    /// Chunks that overlap what is stored by any number of bytes, several to a commit, against a
    /// plain vector.
    #[test]
    fn output_is_what_a_vector_holds(
        on in prop_oneof![Just(Sqlite), Just(Postgres)],
        writes in prop::collection::vec((0..400_000_usize, 0..50_usize, 1..4_usize), 0..8),
        ranges in prop::collection::vec((any::<usize>(), 0..600_000_usize), 8),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let t = TestStore::new(on).await;
            let (claimed, evaluation) = running(&t).await;
            let source = pattern(8 * 3 * 400_000);
            let mut stored = 0;
            for (len, back, parts) in writes {
                let mut commit = Commit::default();
                for _ in 0..parts {
                    let from = stored - back.min(stored);
                    let to = from + len;
                    commit.output.push(chunk(Stream::Stdout, from as u64, &source[from..to]));
                    stored = stored.max(to);
                }
                t.commit(&claimed.lease, commit).await.expect("stored");
            }
            check_ranges(&t, &claimed, &source[..stored], &ranges).await;
            t.commit(&claimed.lease, finished(evaluation, at(1), Verdict::Failed)).await.expect("ends");
            check_ranges(&t, &claimed, &source[..stored], &ranges).await;
            t.check().await;
        });
    }
}
