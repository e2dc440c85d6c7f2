//! Grey box: looks into SQLite's file, beside the store and before it opens.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use hood_core::outcome::Stream;
use hood_core::{EvaluationId, Verdict};
use hood_store::{Commit, OpenError, Store, StoreConfig};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Row as _, SqliteConnection};

use crate::support::{Engine, TestStore, at, chunk, finished, tenant};

async fn connect(config: &StoreConfig) -> SqliteConnection {
    let file = config.dir.join("fumehood.db");
    SqliteConnectOptions::new().filename(file).foreign_keys(false).connect().await.expect("connects")
}

async fn number(db: &mut SqliteConnection, query: &'static str) -> i64 {
    sqlx::query(query).fetch_one(db).await.expect("answers").try_get(0).expect("a number")
}

async fn execute(db: &mut SqliteConnection, statement: &'static str) {
    sqlx::raw_sql(statement).execute(db).await.expect("is done");
}

fn mode(path: &Path) -> u32 {
    path.metadata().expect("is there").permissions().mode() & 0o7777
}

#[tokio::test]
async fn the_directory_and_every_file_in_it_are_their_owners_only() {
    let t = TestStore::new(Engine::Sqlite).await;
    t.submit_one(at(0)).await;
    assert_eq!(mode(&t.config.dir), 0o700);
    let files: Vec<_> =
        std::fs::read_dir(&t.config.dir).expect("lists").map(|file| file.expect("is there").path()).collect();
    assert!(files.len() >= 2, "a database and its log: {files:?}");
    for file in files {
        let own = if file.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(mode(&file), own, "{file:?}");
    }
    t.check().await;
}

#[tokio::test]
async fn a_directory_that_was_open_to_others_is_closed_to_them() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).expect("opens it");
    let store = Store::open(StoreConfig::at(dir.path().to_owned())).await.expect("opens");
    assert_eq!(mode(dir.path()), 0o700);
    store.close().await;
}

#[tokio::test]
async fn commits_are_flushed_before_they_are_answered() {
    let t = TestStore::new(Engine::Sqlite).await;
    let kept = t.durability().await.expect("answers");
    let expected =
        [("journal_mode", "wal"), ("synchronous", "2")].map(|(name, value)| (name.into(), value.into()));
    assert_eq!(kept, expected, "synchronous = FULL, on the connection that writes");
    t.check().await;
}

#[tokio::test]
async fn every_row_that_belongs_to_somebody_says_to_whom() {
    let t = TestStore::new(Engine::Sqlite).await;
    let mut db = connect(&t.config).await;
    // The installation's own, the keys, whose hashes decide who the tenant is, and blobs, whose names are
    // unique over all of them.
    let keys = "SELECT m.name AS of, c.name AS first FROM sqlite_schema m, pragma_table_info(m.name) c \
         WHERE m.type = 'table' AND c.pk = 1 \
         AND m.name NOT IN ('schema_migrations', 'counters', 'capacity', 'api_keys', 'turns', 'blobs')";
    let keys = sqlx::query(keys).fetch_all(&mut db).await.expect("answers");
    assert!(keys.len() >= 9, "every table has a key");
    for key in keys {
        let (of, first): (String, String) = (key.get("of"), key.get("first"));
        assert_eq!(first, "tenant", "{of}");
    }
    t.check().await;
}

#[tokio::test]
async fn the_file_is_as_it_must_be_from_its_first_page() {
    let t = TestStore::new(Engine::Sqlite).await;
    let mut db = connect(&t.config).await;
    assert_eq!(number(&mut db, "PRAGMA auto_vacuum").await, 2, "incremental");
    let mode = sqlx::query("PRAGMA journal_mode").fetch_one(&mut db).await.expect("answers");
    assert_eq!(mode.try_get::<String, _>(0).expect("text"), "wal");
    t.check().await;
}

#[tokio::test]
async fn a_newer_schema_that_we_can_work_with_opens_and_another_is_refused() {
    let t = TestStore::new(Engine::Sqlite).await;
    t.submit_one(at(0)).await;
    t.close().await;
    let mut db = connect(&t.config).await;
    execute(&mut db, "INSERT INTO schema_migrations VALUES (99, 'later', 'x', 1, '9.9.0')").await;
    let t = t.reopen().await;
    t.close().await;
    execute(&mut db, "UPDATE schema_migrations SET oldest_compatible = 98 WHERE version = 99").await;
    let refused = Store::open(t.config.clone()).await.expect_err("is too new");
    assert!(matches!(&refused, OpenError::TooNew { found: 99, oldest_compatible: 98, .. }), "{refused:?}");
    assert!(refused.to_string().contains("9.9.0"), "it says which program: {refused}");
}

#[tokio::test]
async fn a_schema_from_another_line_of_development_is_refused() {
    let t = TestStore::new(Engine::Sqlite).await;
    t.close().await;
    let mut db = connect(&t.config).await;
    execute(&mut db, "UPDATE schema_migrations SET checksum = 'other' WHERE version = 1").await;
    let refused = Store::open(t.config.clone()).await.expect_err("is another");
    assert!(matches!(refused, OpenError::MigrationChanged { version: 1, .. }), "{refused:?}");
}

#[tokio::test]
async fn what_is_no_database_is_not_touched() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("fumehood.db");
    std::fs::write(&file, "this is not a database, but somebody's text".repeat(100)).expect("writes");
    let before = std::fs::read(&file).expect("reads");
    Store::open(StoreConfig::at(dir.path().to_owned())).await.expect_err("is no database");
    assert_eq!(std::fs::read(&file).expect("reads"), before);
}

/// One with everything that hangs on an evaluation.
async fn full(t: &TestStore) -> EvaluationId {
    let (claimed, running) = t.running(at(0)).await;
    let output = vec![chunk(Stream::Stdout, 0, &vec![1; 64 * 1024])];
    let end = Commit { output, ..finished(running, at(1), Verdict::Failed) };
    t.commit(&claimed.lease, end).await.expect("ends");
    claimed.lease.evaluation
}

#[tokio::test]
async fn deleting_leaves_no_row_behind_in_any_table() {
    let t = TestStore::new(Engine::Sqlite).await;
    let mut submission = crate::support::single(crate::support::evaluation(crate::support::new_id(at(0)), 0));
    submission.evaluations[0].labels.insert("k".to_owned(), "v".to_owned());
    submission.batch = Some(hood_core::BatchId::new(at(0), crate::support::serial()));
    submission.idempotency = Some(hood_store::Idempotency { key: "k".to_owned(), fingerprint: [1; 32] });
    let id = submission.evaluations[0].id;
    t.submit(&tenant(), at(0), submission).await.expect("accepted");
    t.run_to_the_end(&t.claim_one(at(0)).await, at(1), Verdict::Failed).await;
    for id in [id, full(&t).await] {
        t.delete(&tenant(), id).await.expect("deleted");
    }
    let mut db = connect(&t.config).await;
    let left = "SELECT (SELECT COUNT(*) FROM evaluations) + (SELECT COUNT(*) FROM requests) \
         + (SELECT COUNT(*) FROM results) + (SELECT COUNT(*) FROM labels) + (SELECT COUNT(*) FROM events) \
         + (SELECT COUNT(*) FROM attempts) + (SELECT COUNT(*) FROM output) + (SELECT COUNT(*) FROM batches) \
         + (SELECT COUNT(*) FROM idempotency_keys)";
    assert_eq!(number(&mut db, left).await, 0);
    t.check().await;
}

#[tokio::test]
async fn deleted_space_goes_back_to_the_file_system() {
    let t = TestStore::new(Engine::Sqlite).await;
    let mut ids = Vec::new();
    for _ in 0..400 {
        ids.push(full(&t).await);
    }
    for id in ids {
        t.delete(&tenant(), id).await.expect("deleted");
    }
    let mut db = connect(&t.config).await;
    let free = "SELECT freelist_count FROM pragma_freelist_count()";
    // The writer does it when it has nothing else to do; that is soon, and not at once.
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(30);
    let mut left = number(&mut db, free).await;
    while left > 2048 {
        assert!(tokio::time::Instant::now() < deadline, "{left} pages are still free");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        left = number(&mut db, free).await;
    }
    drop(db);
    crate::support::invariants::check(&t).await;
    t.close().await;
    let len = t.config.dir.join("fumehood.db").metadata().expect("is there").len();
    assert!(len < 12 * 1024 * 1024, "{len} bytes");
}

/// Looks again and again, and at each moment for some time.
async fn read_for_ever(config: StoreConfig) {
    let mut db = connect(&config).await;
    loop {
        execute(&mut db, "BEGIN").await;
        number(&mut db, "SELECT COUNT(*) FROM events").await;
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        execute(&mut db, "COMMIT").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_bounded_though_somebody_always_reads() {
    const MIB: u64 = 1024 * 1024;
    // Of which the log may take a sixteenth: 16 MiB.
    let t = TestStore::with(Engine::Sqlite, |config| {
        (config.storage_bytes, config.storage_reserve_bytes) = (256 * MIB, 64 * MIB);
    })
    .await;
    let (claimed, _) = t.running(at(0)).await;
    let readers: Vec<_> = (0..4).map(|_| tokio::spawn(read_for_ever(t.config.clone()))).collect();
    let wal = t.config.dir.join("fumehood.db-wal");
    let piece = vec![1; MIB as usize];
    let mut longest = 0;
    for i in 0..64 {
        let output = vec![chunk(Stream::Stdout, i * MIB, &piece)];
        t.commit(&claimed.lease, Commit { output, ..Commit::default() }).await.expect("stored");
        longest = longest.max(wal.metadata().expect("is there").len());
    }
    for reader in readers {
        reader.abort();
    }
    assert!(longest < 40 * MIB, "{longest} bytes of log");
    assert_eq!(t.read(claimed.lease.evaluation, Stream::Stdout).await.stored, 64 * MIB);
    t.check().await;
}
