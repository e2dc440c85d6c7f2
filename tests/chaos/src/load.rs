//! The clients of a run: they submit without pause, each thing under a key and again until it is
//! answered, through whichever replica of the API answers.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use hood_client::{Client, Error, Retry};
use hood_wire::api::{BatchSubmission, Evaluation, Event, Submission};
use tokio::task::JoinSet;

use crate::dice::Dice;
use crate::history::now;
use crate::work::Work;

/// How long one thing is asked for before the run has failed: no outage of a plan lasts as long.
const PATIENCE: Duration = Duration::from_secs(180);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(50);
/// How long a wait for an end is asked for at once.
const WAIT: Duration = Duration::from_secs(10);
/// Evaluations of each client that have not ended: more wait for their turn.
const WINDOW: usize = 24;
/// Evaluations of a batch, and how many of 100 turns submit one.
const BATCH: u64 = 8;
const BATCHES: u64 = 5;
/// Times the number asked for after which the load stops, if nothing else is said.
const OVERSHOOT: u64 = 8;
/// Requests that had to be sent again which are told in full.
const REFUSALS: usize = 10;
/// The latest moment after its acceptance that one is cancelled.
const CANCEL_WITHIN: Duration = Duration::from_millis(1500);

#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) work: Work,
    pub(crate) id: String,
    pub(crate) cancel_asked: bool,
    pub(crate) followed: Option<Vec<Event>>,
}

#[derive(Debug)]
pub(crate) struct Load {
    run: String,
    seed: u64,
    wanted: u64,
    /// The load stops there, however long the storm takes.
    most: u64,
    clients: Mutex<Vec<Client>>,
    /// Where the ends of some are to be told.
    callback: Option<String>,
    next: AtomicU64,
    asked: AtomicU64,
    retried: AtomicU64,
    /// Why requests were sent again: the first few.
    refusals: Mutex<Vec<String>>,
    repeated: AtomicU64,
    storm_over: AtomicBool,
    ledger: Mutex<BTreeMap<u64, Entry>>,
}

impl Load {
    pub(crate) fn new(run: String, seed: u64, wanted: u64, clients: Vec<Client>) -> Self {
        Self {
            run,
            seed,
            wanted,
            most: wanted.saturating_mul(OVERSHOOT),
            clients: Mutex::new(clients),
            callback: None,
            next: AtomicU64::new(0),
            asked: AtomicU64::new(0),
            retried: AtomicU64::new(0),
            refusals: Mutex::default(),
            repeated: AtomicU64::new(0),
            storm_over: AtomicBool::new(false),
            ledger: Mutex::new(BTreeMap::new()),
        }
    }

    /// Goes on until the storm is over, but no further than this.
    pub(crate) fn at_most(self, most: u64) -> Self {
        Self { most, ..self }
    }

    /// Has the end of every so many told there.
    pub(crate) fn telling(self, url: String) -> Self {
        Self { callback: Some(url), ..self }
    }

    pub(crate) fn run(&self) -> &str {
        &self.run
    }

    /// The load ends when enough was submitted and this was said.
    pub(crate) fn storm_is_over(&self) {
        self.storm_over.store(true, Ordering::Relaxed);
    }

    /// Requests that were sent, each time that they were.
    pub(crate) fn requests(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    /// Requests that were sent again.
    pub(crate) fn retried(&self) -> u64 {
        self.retried.load(Ordering::Relaxed)
    }

    /// Why, of the first few.
    pub(crate) fn refusals(&self) -> Vec<String> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Submissions that were sent twice though the first was answered.
    pub(crate) fn repeated(&self) -> u64 {
        self.repeated.load(Ordering::Relaxed)
    }

    pub(crate) fn entries(&self) -> Vec<Entry> {
        self.ledger().values().cloned().collect()
    }

    fn ledger(&self) -> MutexGuard<'_, BTreeMap<u64, Entry>> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn goes_on(&self) -> bool {
        let begun = self.next.load(Ordering::Relaxed);
        let over = self.storm_over.load(Ordering::Relaxed);
        begun < self.wanted || (!over && begun < self.most)
    }

    /// Runs one client until the load ends; what it follows or cancels is a task of its own.
    pub(crate) async fn client(self: Arc<Self>, number: u64) -> anyhow::Result<()> {
        let mut dice = Dice::of(self.seed, u64::MAX - number);
        let mut open: VecDeque<String> = VecDeque::new();
        let mut besides = JoinSet::new();
        while self.goes_on() {
            let size = if dice.percent(BATCHES) { BATCH } else { 1 };
            let first = self.next.fetch_add(size, Ordering::Relaxed);
            let works: Vec<Work> = (first..first + size).map(|number| Work::of(self.seed, number)).collect();
            let ids = self.submit(&works, &mut dice).await?;
            for (work, id) in works.into_iter().zip(ids) {
                self.attend(&mut besides, work, &id, &mut dice);
                open.push_back(id);
            }
            while open.len() > WINDOW
                && let Some(oldest) = open.pop_front()
            {
                self.end(&oldest).await?;
            }
        }
        for id in open {
            self.end(&id).await?;
        }
        while let Some(done) = besides.join_next().await {
            done.context("a client's task")??;
        }
        Ok(())
    }

    async fn submit(&self, works: &[Work], dice: &mut Dice) -> anyhow::Result<Vec<String>> {
        let key = format!("{}-{}", self.run, works.first().map_or(0, |work| work.number));
        let ids = self.submit_once(works, &key, dice).await?;
        if works.iter().any(|work| work.repeated) {
            let again = self.submit_once(works, &key, dice).await?;
            if again != ids {
                bail!("the same submissions under the same key {key} gave {ids:?}, and then {again:?}");
            }
            self.repeated.fetch_add(works.len() as u64, Ordering::Relaxed);
        }
        Ok(ids)
    }

    async fn submit_once(&self, works: &[Work], key: &str, dice: &mut Dice) -> anyhow::Result<Vec<String>> {
        let submissions: Vec<_> = works.iter().map(|work| self.submission(work)).collect();
        let turn = dice.next();
        if let [submission] = &submissions[..] {
            let submitted = self
                .asked(turn, |client| async move { client.submit_once(submission, key, None).await })
                .await
                .with_context(|| format!("submit {key}"))?;
            return Ok(vec![submitted.evaluation.id]);
        }
        let batch = &BatchSubmission { evaluations: submissions };
        let created = self
            .asked(turn, |client| async move { client.submit_batch(batch, key).await })
            .await
            .with_context(|| format!("submit the batch {key}"))?;
        Ok(created.evaluations)
    }

    fn submission(&self, work: &Work) -> Submission {
        let callback_url = self.callback.clone().filter(|_| work.is_told());
        Submission { callback_url, ..work.submission(&self.run) }
    }

    fn attend(
        self: &Arc<Self>,
        besides: &mut JoinSet<anyhow::Result<()>>,
        work: Work,
        id: &str,
        dice: &mut Dice,
    ) {
        let entry = Entry { work, id: id.to_owned(), cancel_asked: work.cancelled, followed: None };
        self.ledger().insert(work.number, entry);
        let turn = dice.next();
        if work.followed {
            let (load, id) = (Arc::clone(self), id.to_owned());
            besides.spawn(async move { load.follow(work, &id, turn).await });
        }
        if work.cancelled {
            let (load, id) = (Arc::clone(self), id.to_owned());
            let after = dice.between(Duration::ZERO, CANCEL_WITHIN);
            besides.spawn(async move {
                tokio::time::sleep(after).await;
                let id = &id;
                let cancel = |client: Client| async move { client.cancel(id, None).await };
                load.asked(turn, cancel).await.context("cancel").map(drop)
            });
        }
    }

    async fn follow(&self, work: Work, id: &str, turn: u64) -> anyhow::Result<()> {
        let client = self.replica(turn).with_retry(Retry::PATIENT);
        let mut stream = client.follow_events(id, 0);
        let mut seen = Vec::new();
        while let Some(event) = stream.next().await.with_context(|| format!("follow {id}"))? {
            seen.push(event);
        }
        if let Some(entry) = self.ledger().get_mut(&work.number) {
            entry.followed = Some(seen);
        }
        Ok(())
    }

    /// Waits until it has ended.
    pub(crate) async fn end(&self, id: &str) -> anyhow::Result<Evaluation> {
        let deadline = Instant::now() + PATIENCE;
        let mut turn = 0;
        loop {
            let got = self.asked(turn, |client| async move { client.get(id, Some(WAIT)).await }).await;
            let evaluation = got.with_context(|| format!("wait for {id}"))?;
            if evaluation.state.is_terminal() {
                return Ok(evaluation);
            }
            if Instant::now() > deadline {
                bail!("{id} does not end: {evaluation:#?}");
            }
            turn += 1;
        }
    }

    /// Requests from now on go over connections of these.
    pub(crate) fn connect_anew(&self, clients: Vec<Client>) {
        *self.clients.lock().unwrap_or_else(PoisonError::into_inner) = clients;
    }

    fn replica(&self, turn: u64) -> Client {
        let clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let index = usize::try_from(turn % clients.len() as u64).unwrap_or(0);
        clients[index].clone()
    }

    /// Asks one replica after another until one answers.
    pub(crate) async fn asked<T, F>(&self, first: u64, ask: impl Fn(Client) -> F) -> anyhow::Result<T>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let deadline = Instant::now() + PATIENCE;
        let mut turn = first;
        loop {
            self.asked.fetch_add(1, Ordering::Relaxed);
            match ask(self.replica(turn)).await {
                Ok(answer) => return Ok(answer),
                Err(error) if !is_passing(&error) || Instant::now() > deadline => return Err(error.into()),
                Err(error) => self.refused(error),
            }
            self.retried.fetch_add(1, Ordering::Relaxed);
            turn = turn.wrapping_add(1);
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn refused(&self, error: Error) {
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        if refusals.len() < REFUSALS {
            refusals.push(format!("at {}: {:#}", now(), anyhow::Error::new(error)));
        }
    }
}

/// No answer, or one that says "later".
fn is_passing(error: &Error) -> bool {
    match error.status() {
        None => true,
        Some(status) => status == 429 || status >= 500,
    }
}
