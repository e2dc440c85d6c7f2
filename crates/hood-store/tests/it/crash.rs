//! Black box. Killed at any moment, again and again: what was answered is there, and nothing is half.

use std::collections::{HashMap, HashSet};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt as _;
use hood_core::lifecycle::AnyEvaluation;
use hood_core::outcome::Stream;
use hood_core::{EvaluationId, RetryPolicy, Timestamp, Verdict};
use hood_store::{
    Claimed, Commit, Filter, FindError, Lapsed, ORPHAN_AGE, Store, StoreConfig, StoreError, SubmitError,
    WRITING_MAX,
};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, SqliteConnection};

use crate::support::{RESULT, chunk, evaluation, finished, invariants, single, started, tenant, tenure};

const KILLS: usize = 32;
const ROUNDS_MAX: usize = 8;
/// Lines that a child says before it is killed, at most: its life is as long on a slow machine.
const LINES_MAX: usize = 400;
/// And some time more, so that it is not always about to say something.
const LIFE_US_MAX: u64 = 5000;
const DIR: &str = "HOOD_STORE_CRASH_DIR";

fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    Timestamp::from_micros(i64::try_from(since.as_micros()).expect("before 294000"))
}

/// One in so many writes what is to become a blob.
const LONG_ONE_IN: u128 = 6;
const PARTS: usize = 20;

fn is_long(id: EvaluationId) -> bool {
    id.as_uuid().as_u128().is_multiple_of(LONG_ONE_IN)
}

/// What `id` writes.
fn text(id: EvaluationId) -> Vec<u8> {
    format!("{id} was here\n").repeat(if is_long(id) { 2000 } else { 20 }).into_bytes()
}

/// One in so many is asked for at such length that it is kept as a blob.
const LARGE_ONE_IN: u128 = 5;

fn is_large(id: EvaluationId) -> bool {
    id.as_uuid().as_u128().is_multiple_of(LARGE_ONE_IN)
}

fn input(id: EvaluationId) -> String {
    format!("{id} is asked for\n").repeat(2000)
}

/// One line in one write, so that a kill leaves at most the last one incomplete.
fn say(what: &str, id: EvaluationId, number: u64) {
    let line = format!("\n{what} {id} {number}\n");
    std::io::stdout().write_all(line.as_bytes()).expect("somebody listens");
}

/// The child: does nothing unless this binary started it.
#[test]
fn child() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(live(Path::new(&dir)));
}

async fn live(dir: &Path) {
    let store = Store::open(StoreConfig::at(dir.to_owned())).await.expect("opens after every death");
    for _ in 0..3 {
        tokio::spawn(submit(store.clone()));
    }
    tokio::spawn(keep(store.clone()));
    loop {
        let taken = store.reclaim(&tenure(now()), 50, Lapsed::All).await.expect("reclaims");
        let claimed = store.claim(&tenure(now()), 8).await.expect("claims");
        let all = taken.into_iter().chain(claimed).map(|claimed| work(store.clone(), claimed));
        futures::future::join_all(all).await;
    }
}

/// As if every object were old: what must stay, stays for another reason.
async fn keep(store: Store) {
    loop {
        store.move_outputs(now()).await.expect("moves");
        store.delete_blobs(now()).await.expect("deletes");
        store.archive(now(), now()).await.expect("archives");
        store.delete_orphans(now().after(2 * ORPHAN_AGE)).await.expect("looks");
    }
}

async fn submit(store: Store) {
    loop {
        let id = EvaluationId::new(now(), rand::random());
        let mut new = evaluation(id, rand::random::<u8>() % 4);
        new.input = is_large(id).then(|| input(id));
        match store.submit(&tenant(), now(), single(new)).await {
            // To whoever takes every object for old, one that is being written is a dead writer's.
            Err(SubmitError::Store(StoreError::Blob(_))) => continue,
            accepted => accepted.expect("accepted"),
        };
        say("accepted", id, 0);
        if rand::random_ratio(1, 8) {
            let cancel = store.request_cancel(&tenant(), id, crate::cancel::wish(now(), None)).await;
            if cancel.expect("is there") == hood_store::Cancel::EndedNow {
                say("ended", id, 0);
            }
        }
    }
}

async fn work(store: Store, claimed: Claimed) {
    let lease = Arc::new(claimed.lease.clone());
    let id = lease.evaluation;
    assert_eq!(claimed.input.is_some(), is_large(id));
    if let Some(name) = &claimed.input {
        assert!(store.input(name).await.expect("is there") == input(id), "{id}");
    }
    say("leased", id, u64::from(lease.attempt));
    let running = match claimed.evaluation {
        AnyEvaluation::Provisioning(evaluation) => {
            let step = evaluation.start(now());
            store.commit(&lease, started(&step)).await.expect("starts");
            step.evaluation
        }
        AnyEvaluation::Running(running) => {
            // A predecessor's: lost, as the real worker has it.
            let after = running.lose(now(), &RetryPolicy::DEFAULT, 0.5);
            let transition = *after.transition();
            let result = transition.to().is_terminal().then(|| RESULT.to_owned());
            let commit = Commit { transitions: vec![transition], result, ..Commit::default() };
            store.commit(&lease, commit).await.expect("is lost");
            return;
        }
        other => panic!("leased in {other:?}"),
    };
    let text = text(id);
    let size = text.len().div_ceil(PARTS);
    for (i, part) in text.chunks(size).enumerate() {
        let output = vec![chunk(Stream::Stdout, (size * i) as u64, part)];
        store.commit(&lease, Commit { output, ..Commit::default() }).await.expect("stored");
        say("stored", id, (size * i + part.len()) as u64);
    }
    store.commit(&lease, finished(running, now(), Verdict::Succeeded)).await.expect("ends");
    say("ended", id, 0);
    if rand::random_ratio(1, 4) {
        say("deleting", id, 0);
        store.delete(&tenant(), id).await.expect("deleted");
        say("deleted", id, 0);
    }
}

/// What one evaluation's children were answered.
#[derive(Debug, Default)]
struct Answered {
    accepted: bool,
    attempts: u64,
    /// Of the attempt that was last answered for.
    stored: u64,
    ended: bool,
    deleting: bool,
    deleted: bool,
}

fn one_life(dir: &Path, answered: &mut HashMap<EvaluationId, Answered>) -> HashSet<EvaluationId> {
    let mut child = Command::new(std::env::current_exe().expect("is a program"))
        .args(["--exact", "crash::child", "--nocapture", "--test-threads=1"])
        .env(DIR, dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut lines = BufReader::new(child.stdout.take().expect("is a pipe")).lines().map_while(Result::ok);
    let mut seen: Vec<String> = lines.by_ref().take(rand::random_range(10..LINES_MAX)).collect();
    std::thread::sleep(Duration::from_micros(rand::random_range(0..LIFE_US_MAX)));
    child.kill().expect("SIGKILL");
    assert!(!child.wait().expect("is gone").success(), "it lived until it was killed");
    seen.extend(lines);
    seen.iter().filter_map(|line| note(line, answered)).collect()
}

fn note(line: &str, answered: &mut HashMap<EvaluationId, Answered>) -> Option<EvaluationId> {
    let words: Vec<&str> = line.split(' ').collect();
    let [what, id, number] = words[..] else { return None };
    // A number that was cut short is smaller than the one that was said; an id that was is none.
    let (id, number) = (id.parse().ok()?, number.parse::<u64>().unwrap_or(0));
    let of = answered.entry(id).or_default();
    match what {
        "accepted" => of.accepted = true,
        "leased" if number > of.attempts => (of.attempts, of.stored) = (number, 0),
        "leased" => {}
        "stored" => of.stored = number,
        "ended" => of.ended = true,
        "deleting" => of.deleting = true,
        "deleted" => of.deleted = true,
        _ => return None,
    }
    Some(id)
}

async fn check_answers(store: &Store, id: EvaluationId, said: &Answered) {
    let found = store.get(&tenant(), id).await;
    if said.deleted || (said.deleting && found.is_err()) {
        assert!(matches!(found, Err(FindError::NotFound)), "{id} came back from the dead: {said:?}");
        return;
    }
    let record = found.unwrap_or_else(|error| panic!("{id} is missing ({error}): {said:?}"));
    assert!(u64::from(record.history.attempts) >= said.attempts, "{id}: {said:?}");
    assert!(record.state.is_terminal() || !said.ended, "{id}: {said:?}");
    invariants::check_one(store, id).await;
    if said.stored > 0 {
        let attempt = Some(u32::try_from(said.attempts).expect("few"));
        let span = hood_store::Span { stream: Stream::Stdout, attempt, offset: 0, max: usize::MAX };
        let slice = store.output(&tenant(), id, span).await.expect("is there");
        assert!(slice.stored >= said.stored, "{id}: {} bytes of {said:?}", slice.stored);
        assert!(text(id).starts_with(&slice.bytes), "{id}: bytes of its own, from the first on");
    }
}

/// Grey box: looks into the database. Nothing is both in the tables and in the archive.
async fn check_places(dir: &Path) {
    let options = SqliteConnectOptions::new().filename(dir.join("fumehood.db"));
    let mut db = options.connect().await.expect("connects");
    let count = async |db: &mut SqliteConnection, sql: &'static str| -> i64 {
        sqlx::query_scalar(sql).fetch_one(db).await.expect("answers")
    };
    let twice = "SELECT COUNT(*) FROM archived JOIN evaluations ON id = evaluation";
    assert_eq!(count(&mut db, twice).await, 0);
    let without =
        "SELECT COUNT(*) FROM archived WHERE blob NOT IN (SELECT name FROM blobs WHERE state = 'kept')";
    assert_eq!(count(&mut db, without).await, 0, "every reference is to a blob that is kept");
    for rows in [
        "SELECT COUNT(*) FROM archived JOIN events USING (tenant, evaluation)",
        "SELECT COUNT(*) FROM archived JOIN output USING (tenant, evaluation)",
        "SELECT COUNT(*) FROM archived JOIN labels USING (tenant, evaluation)",
    ] {
        assert_eq!(count(&mut db, rows).await, 0, "{rows}");
    }
    assert!(count(&mut db, "SELECT COUNT(*) FROM archived").await > 0, "no kill met the archive");
}

/// Once the work that is left is done there are as many blobs as long outputs, and no other.
async fn check_blobs(store: &Store, ids: impl Iterator<Item = EvaluationId>) -> usize {
    while store.move_outputs(now()).await.expect("moves") > 0 {}
    // As long after as nobody writes any more what was begun before a kill.
    while store.delete_blobs(now().after(2 * WRITING_MAX)).await.expect("deletes") > 0 {}
    store.delete_orphans(now().after(2 * ORPHAN_AGE)).await.expect("looks");
    let (mut long, mut large) = (0, 0);
    for id in ids {
        let Ok(record) = store.get(&tenant(), id).await else { continue };
        large += usize::from(is_large(id));
        if !is_long(id) {
            continue;
        }
        for attempt in record.attempts.iter().filter(|attempt| attempt.ended_at.is_some()) {
            let attempt = Some(attempt.number);
            let span = hood_store::Span { stream: Stream::Stdout, attempt, offset: 0, max: usize::MAX };
            let slice = store.output(&tenant(), id, span).await.expect("is there");
            assert!(text(id).starts_with(&slice.bytes) && slice.bytes.len() as u64 == slice.stored, "{id}");
            long += usize::from(slice.stored > 64 * 1024);
        }
    }
    let blobs: Vec<_> = store.blobs().list().try_collect().await.expect("lists");
    let outputs = blobs.iter().filter(|blob| blob.name.starts_with("outputs/")).count();
    assert_eq!(outputs, long);
    // One that was accepted and not answered for is not among `ids`.
    let inputs = blobs.iter().filter(|blob| blob.name.starts_with("inputs/")).count();
    assert!(inputs >= large, "{inputs} of {large}");
    check_inputs(store, inputs).await;
    long
}

/// Every large request that is there is whole, and there is no other.
async fn check_inputs(store: &Store, objects: usize) {
    let (mut large, mut cursor) = (0, None);
    loop {
        let page = store.list(&tenant(), &Filter::default(), cursor, 500).await.expect("lists");
        for id in page.items.into_iter().map(|one| one.id).filter(|id| is_large(*id)) {
            let hex = id.as_uuid().simple().to_string();
            let read = store.input(&format!("inputs/{}/{hex}", &hex[30..])).await;
            assert!(read.expect("is there") == input(id), "{id}");
            large += 1;
        }
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    assert!(large > 0 && large <= objects, "{large} in the tables, {objects} objects");
}

#[test]
fn what_was_answered_outlives_every_kill() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = dir.path().join("store");
    let mut answered = HashMap::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let open = || async { Store::open(StoreConfig::at(data.clone())).await.expect("opens after every kill") };
    // Chance may let a round of lives end before any long output does.
    let mut blobs = 0;
    for life in 0..KILLS * ROUNDS_MAX {
        if life % KILLS == 0 && life > 0 {
            blobs = runtime.block_on(async {
                let store = open().await;
                let blobs = check_blobs(&store, answered.keys().copied()).await;
                store.close().await;
                blobs
            });
            if blobs > 0 {
                break;
            }
        }
        let touched = one_life(&data, &mut answered);
        runtime.block_on(async {
            let store = open().await;
            for id in touched {
                check_answers(&store, id, &answered[&id]).await;
            }
            store.close().await;
        });
    }
    runtime.block_on(async {
        let store = open().await;
        for (id, said) in &answered {
            check_answers(&store, *id, said).await;
        }
        invariants::check(&store).await;
        blobs = blobs.max(check_blobs(&store, answered.keys().copied()).await);
        store.close().await;
        check_places(&data).await;
    });
    assert!(blobs > 0, "no kill met a blob");
    let ended = answered.values().filter(|said| said.ended).count();
    let retried = answered.values().filter(|said| said.attempts > 1).count();
    assert!(answered.len() > 200 && ended > 50, "{} of which {ended} ended", answered.len());
    assert!(retried > 0, "no kill met anything that ran");
}
