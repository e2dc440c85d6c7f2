//! A rolling restart under load: each member in turn is stopped as an operator stops it and started
//! again, while clients that send nothing twice ask through a balancer. What failed is counted.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use hood_client::{Client, Error, ListQuery, Retry};
use tokio::task::JoinSet;

use crate::balancer::Balancer;
use crate::fleet::{Fleet, client};
use crate::history::now;
use crate::member::Role;
use crate::work::{NUMBER_LABEL, RUN_LABEL, Work};

/// Clients that ask at once.
const CLIENTS: u64 = 8;
/// Between two members.
const PAUSE: Duration = Duration::from_secs(1);
/// How long an end is waited for in one request.
const WAIT: Duration = Duration::from_secs(5);
/// How long one evaluation may take in all.
const PATIENCE: Duration = Duration::from_secs(120);
/// Whoever was refused does not ask again at once.
const AFTER_FAILURE: Duration = Duration::from_millis(20);
/// Failures that are told in full.
const SHOWN: usize = 10;

/// What one kind of request came to.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    sent: u64,
    failed: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Rolled {
    requests: BTreeMap<&'static str, Count>,
    failures: Vec<String>,
    evaluations: u64,
    /// Ended otherwise than their programs did.
    spoilt: Vec<String>,
    /// Needed more than one attempt.
    retried: u64,
    pub(crate) restarts: BTreeMap<Role, (u64, Duration)>,
}

impl Rolled {
    fn note<T>(&mut self, kind: &'static str, answer: Result<T, Error>) -> Option<T> {
        let count = self.requests.entry(kind).or_default();
        count.sent += 1;
        match answer {
            Ok(answer) => Some(answer),
            Err(error) => {
                count.failed += 1;
                if self.failures.len() < SHOWN {
                    self.failures.push(format!("{kind}: {:#}", anyhow::Error::new(error)));
                }
                None
            }
        }
    }

    /// Of 100.
    pub(crate) fn success(&self) -> f64 {
        let (sent, failed) =
            self.requests.values().fold((0, 0), |all, one| (all.0 + one.sent, all.1 + one.failed));
        100.0 * (sent - failed) as f64 / sent.max(1) as f64
    }

    pub(crate) fn print(&self) {
        for (role, (count, longest)) in &self.restarts {
            println!(
                "{:<44} {count:>8}  (longest {:.1} s)",
                format!("restarts of {}", role.as_str()),
                longest.as_secs_f64()
            );
        }
        for (kind, Count { sent, failed }) in &self.requests {
            println!("{:<44} {sent:>8}  ({failed} failed)", format!("requests: {kind}"));
        }
        println!("{:<44} {:>8.3}", "requests that succeeded, %", self.success());
        println!(
            "{:<44} {:>8}  ({} in more than one attempt)",
            "evaluations", self.evaluations, self.retried
        );
        for failure in self.failures.iter().chain(&self.spoilt) {
            println!("FAILED: {failure}");
        }
    }

    pub(crate) fn verdict(&self, at_least: f64) -> anyhow::Result<()> {
        if self.success() < at_least || !self.spoilt.is_empty() || self.evaluations == 0 {
            let (success, spoilt) = (self.success(), self.spoilt.len());
            bail!(
                "{success:.3} % of requests succeeded, at least {at_least} % must; {spoilt} evaluations spoilt"
            );
        }
        Ok(())
    }
}

#[derive(Debug)]
struct Shared {
    client: Client,
    seed: u64,
    over: AtomicBool,
    rolled: Mutex<Rolled>,
}

impl Shared {
    fn note<T>(&self, kind: &'static str, answer: Result<T, Error>) -> Option<T> {
        self.rolled.lock().unwrap_or_else(PoisonError::into_inner).note(kind, answer)
    }

    fn change(&self, change: impl FnOnce(&mut Rolled)) {
        change(&mut self.rolled.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

pub(crate) async fn run(
    fleet: &mut Fleet,
    front: SocketAddr,
    (seed, rounds): (u64, u32),
) -> anyhow::Result<Rolled> {
    let _balancer = Balancer::start(front, &fleet.apis, &fleet.http).await?;
    let client = client(front, &fleet.token)?.with_retry(Retry::NONE);
    let over = AtomicBool::new(false);
    let shared = Arc::new(Shared { client, seed, over, rolled: Mutex::default() });
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        clients.spawn(ask(Arc::clone(&shared), number));
    }
    for _ in 0..rounds {
        for index in 0..fleet.members.len() {
            tokio::time::sleep(PAUSE).await;
            let began = now();
            fleet.restart(index).await?;
            let took = Duration::from_micros((now() - began).unsigned_abs());
            let role = fleet.members[index].role;
            shared.change(|rolled| {
                let (count, longest) = rolled.restarts.entry(role).or_default();
                *count += 1;
                *longest = took.max(*longest);
            });
        }
    }
    shared.over.store(true, Ordering::Relaxed);
    while let Some(done) = clients.join_next().await {
        done.context("a client")??;
    }
    let mut rolled = shared.rolled.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(std::mem::take(&mut *rolled))
}

/// Submits, looks around, waits for the end, and begins again. Nothing is sent a second time.
async fn ask(shared: Arc<Shared>, client: u64) -> anyhow::Result<()> {
    let run = format!("rolling-{}", shared.seed);
    let mut number = client;
    while !shared.over.load(Ordering::Relaxed) {
        let work = Work::of(shared.seed, number);
        number += CLIENTS;
        let submission = work.submission(&run);
        let submitted = shared.client.submit(&submission, None).await;
        let Some(submitted) = shared.note("submit", submitted) else {
            tokio::time::sleep(AFTER_FAILURE).await;
            continue;
        };
        let labels =
            vec![(RUN_LABEL.to_owned(), run.clone()), (NUMBER_LABEL.to_owned(), work.number.to_string())];
        let query = ListQuery { labels, ..ListQuery::default() };
        shared.note("list", shared.client.list(&query).await);
        end(&shared, work, &submitted.evaluation.id).await?;
    }
    Ok(())
}

async fn end(shared: &Shared, work: Work, id: &str) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let got = shared.client.get(id, Some(WAIT)).await;
        let ended = shared.note("wait", got).filter(|evaluation| evaluation.state.is_terminal());
        if let Some(evaluation) = ended {
            let (verdict, code) = work.verdict();
            shared.change(|rolled| {
                rolled.evaluations += 1;
                rolled.retried += u64::from(evaluation.attempts.len() > 1);
                if (evaluation.verdict, evaluation.exit_code) != (Some(verdict), code) {
                    rolled.spoilt.push(format!("{id} ended as {:?}", evaluation.verdict));
                }
            });
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("{id} does not end");
        }
        tokio::time::sleep(AFTER_FAILURE).await;
    }
}
