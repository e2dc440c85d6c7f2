//! Black box. Files and a bucket are held to the same suite.

use bytes::Bytes;
use futures::TryStreamExt as _;
use hood_store::{Blob, BlobError, Blobs, BlobsConfig};

use crate::support::s3::S3;

const PIECE: usize = 64 * 1024;
const PART: usize = 8 * 1024 * 1024;

fn pattern(len: usize) -> Bytes {
    (0..len).map(|i| (i.wrapping_mul(31) ^ (i >> 8) ^ (i >> 16)) as u8).collect()
}

async fn names(blobs: &Blobs) -> Vec<String> {
    let mut found: Vec<_> = blobs.list().try_collect().await.expect("lists");
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found.into_iter().map(|found| format!("{} {}", found.name, found.bytes)).collect()
}

async fn written(blobs: &Blobs, name: &str, whole: &[u8], step: usize) -> Blob {
    let mut writer = blobs.write(name.to_owned());
    for part in whole.chunks(step) {
        writer.write(part).await.expect("writes");
    }
    writer.finish().await.expect("is durable")
}

async fn reads_back(blobs: &Blobs, blob: &Blob, whole: &[u8]) {
    assert_eq!(blob.bytes, whole.len() as u64);
    let len = whole.len();
    let edges = [0, 1, PIECE - 1, PIECE, PIECE + 1, PART - 1, PART, len.saturating_sub(1), len];
    for from in edges.into_iter().filter(|from| *from <= len) {
        for size in [0, 1, 3, PIECE + 2, 2 * PART] {
            let to = (from + size).min(len);
            let read = blobs.read(blob, from as u64..(from + size) as u64).await.expect("reads");
            assert!(read == whole[from..to], "{size} bytes from {from} of {len}");
        }
    }
    assert!(blobs.read(blob, len as u64 + 1..u64::MAX).await.expect("reads").is_empty());
}

/// What both kinds must do.
async fn conforms(config: &BlobsConfig) {
    let blobs = Blobs::open(config).await.expect("opens");
    assert_eq!(names(&blobs).await, Vec::<String>::new());
    blobs.check().await.expect("can be written");
    assert_eq!(names(&blobs).await, Vec::<String>::new(), "the proof is no blob");

    let small = blobs.put("outputs/00/a".to_owned(), pattern(5)).await.expect("is durable");
    let empty = blobs.put("outputs/00/b".to_owned(), Bytes::new()).await.expect("is durable");
    let at_the_edge = written(&blobs, "outputs/01/c", &pattern(PART), PART / 3).await;
    let long = written(&blobs, "outputs/01/d", &pattern(2 * PART + 17), 777_777).await;
    let listed =
        [(&small, "outputs/00/a 5"), (&empty, "outputs/00/b 0"), (&at_the_edge, "outputs/01/c 8388608")];
    let mut expected: Vec<_> = listed.iter().map(|(_, line)| (*line).to_owned()).collect();
    expected.push(format!("outputs/01/d {}", 2 * PART + 17));
    assert_eq!(names(&blobs).await, expected);

    let again = Blobs::open(config).await.expect("opens again");
    for (blob, size) in [(&small, 5), (&empty, 0), (&at_the_edge, PART), (&long, 2 * PART + 17)] {
        reads_back(&again, blob, &pattern(size)).await;
    }

    let mut given_up = blobs.write("outputs/02/e".to_owned());
    given_up.write(&pattern(PART + 1)).await.expect("writes");
    drop(given_up);
    assert_eq!(names(&blobs).await, expected, "what was not finished is not there");

    blobs.delete(&long.name).await.expect("deletes");
    blobs.delete(&long.name).await.expect("is gone already, which is as good");
    let gone = blobs.read(&long, 0..1).await;
    assert!(matches!(&gone, Err(BlobError::Missing { name }) if *name == long.name), "{gone:?}");
    assert_eq!(names(&blobs).await, expected[..3]);
}

/// Changes one byte of the file that a blob became.
fn damage(file: &std::path::Path, at: usize) {
    let mut bytes = std::fs::read(file).expect("is a file");
    bytes[at] ^= 1;
    std::fs::write(file, bytes).expect("is changed");
}

async fn damage_is_seen(config: &BlobsConfig, dir: &std::path::Path) {
    let blobs = Blobs::open(config).await.expect("opens");
    let whole = pattern(3 * PIECE);
    let blob = blobs.put("outputs/00/x".to_owned(), whole.clone()).await.expect("is durable");
    damage(&dir.join(&blob.name), PIECE + 9);
    let read = blobs.read(&blob, 0..blob.bytes).await;
    assert!(matches!(read, Err(BlobError::Damaged { .. })), "{read:?}");
    let beside = blobs.read(&blob, 0..PIECE as u64).await.expect("the piece before is sound");
    assert!(beside == whole[..PIECE]);
    let file = std::fs::OpenOptions::new().write(true).open(dir.join(&blob.name)).expect("is a file");
    file.set_len(2 * PIECE as u64 + 1).expect("is cut");
    let read = blobs.read(&blob, 2 * PIECE as u64..blob.bytes).await;
    assert!(read.is_err(), "{read:?}");
}

#[tokio::test]
async fn files_conform() {
    let dir = tempfile::tempdir().expect("a directory");
    conforms(&BlobsConfig::files(dir.path().join("blobs"))).await;
}

#[tokio::test]
async fn files_that_were_changed_are_not_taken_for_what_was_written() {
    let dir = tempfile::tempdir().expect("a directory");
    damage_is_seen(&BlobsConfig::files(dir.path().to_owned()), dir.path()).await;
}

#[tokio::test]
async fn a_bucket_conforms() {
    let Some(s3) = S3::start() else { return };
    conforms(&s3.config("")).await;
    conforms(&s3.config("one/installation")).await;
}

#[tokio::test]
async fn a_bucket_that_was_changed_is_not_taken_for_what_was_written() {
    let Some(s3) = S3::start() else { return };
    damage_is_seen(&s3.config("p"), &s3.bucket_dir().join("p")).await;
}

#[tokio::test]
async fn a_server_that_is_away_for_a_while_is_waited_for() {
    let Some(s3) = S3::start() else { return };
    let blobs = Blobs::open(&s3.config("")).await.expect("opens");
    s3.kill9().expect("dies");
    assert!(blobs.check().await.is_err(), "a proof says what is not there");
    let put = tokio::spawn({
        let blobs = blobs.clone();
        async move { blobs.put("outputs/00/late".to_owned(), pattern(100)).await }
    });
    tokio::task::yield_now().await;
    let _s3 = tokio::task::spawn_blocking(move || {
        s3.restart().expect("starts");
        s3
    })
    .await
    .expect("no panic");
    let blob = put.await.expect("no panic").expect("is written once the server is back");
    reads_back(&blobs, &blob, &pattern(100)).await;
}

#[tokio::test]
async fn the_disk_that_files_take_is_known_and_what_a_dead_writer_left_goes() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = BlobsConfig::files(dir.path().to_owned());
    let blobs = Blobs::open(&config).await.expect("opens");
    assert_eq!(blobs.used_bytes(), 0);
    let one = blobs.put("outputs/00/a".to_owned(), pattern(1000)).await.expect("is durable");
    written(&blobs, "outputs/00/b", &pattern(PART + 1), PART).await;
    assert_eq!(blobs.used_bytes(), 1000 + PART as u64 + 1);
    blobs.delete(&one.name).await.expect("deletes");
    blobs.delete(&one.name).await.expect("once");
    assert_eq!(blobs.used_bytes(), PART as u64 + 1);

    // As a writer that is killed leaves it: the object store's own name for what is not finished.
    std::fs::write(dir.path().join("outputs/00/c#1"), [0; 77]).expect("is written");
    let again = Blobs::open(&config).await.expect("opens");
    assert_eq!(again.used_bytes(), PART as u64 + 1 + 77);
    assert_eq!(again.tidy(hood_core::Timestamp::from_micros(0)).await.expect("looks"), 0, "it is young");
    let later = hood_core::Timestamp::from_micros(i64::MAX);
    assert_eq!(again.tidy(later).await.expect("removes"), 1);
    assert_eq!(again.used_bytes(), PART as u64 + 1);
    assert_eq!(names(&again).await, [format!("outputs/00/b {}", PART + 1)]);
}
