//! A place for what a build must not run itself: an image's own interpreter, over what strangers wrote.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hood_core::outcome::{Stream, WaitStatus};
use hood_core::plan::{Demand, EnvironmentFacts, ExecutorClass, Isolation, PolicyMode, SystemCalls, plan};
use hood_core::program::{BASE_ENV, WORK_DIR};
use hood_core::{EvaluationId, Limits, Observation, Program, Timestamp};
use tokio::sync::oneshot;

use super::Inner;
use super::place::{self, Job};
use crate::dispatch::{AttemptKey, Conduct, Link, Order, ReportBody};
use crate::environment::Workshop;

/// One run of a build. What it writes is taken back through its output, so that nothing is ever read
/// from where it could write.
const LIMITS: Limits = Limits {
    wall_ms: 600_000,
    cpu_ms: 600_000,
    memory_bytes: 1 << 30,
    processes: 16,
    file_bytes: 1 << 20,
    disk_bytes: 16 << 20,
    disk_inodes: 1024,
    output_bytes: 64 << 20,
    open_files: 64,
};

/// Of what a run said when it failed, this much is repeated.
const REASON_BYTES_MAX: usize = 600;

#[derive(Debug)]
pub(super) struct Bench {
    /// The library has this, and the places have the library.
    inner: Weak<Inner>,
    runs: AtomicU64,
}

impl Bench {
    pub(super) fn of(inner: &Arc<Inner>) -> Self {
        Self { inner: Arc::downgrade(inner), runs: AtomicU64::new(0) }
    }

    fn order(&self, inner: &Inner, argv: &[&str], stdin: Vec<u8>) -> Result<Order, String> {
        let facts = EnvironmentFacts {
            name: "of a build".to_owned(),
            allowed_classes: vec![ExecutorClass::Cpu],
            isolation: Isolation::Namespace,
            system_calls: SystemCalls::Ordinary,
        };
        let demand = Demand { limits: LIMITS, build: None, class: ExecutorClass::Cpu };
        // No stranger's program runs here, so that what such a program would be refused for may lack.
        let assignment = plan(&demand, &facts, &inner.catalogue().offers, PolicyMode::Development)
            .map_err(|refusal| refusal.reason)?;
        let mut env = BASE_ENV.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        // Bytecode holds sets, in an order that is else another each time.
        env.push(("PYTHONHASHSEED".to_owned(), "0".to_owned()));
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let at = Timestamp::from_micros(i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX));
        let mut dice = [0; 10];
        dice[..8].copy_from_slice(&self.runs.fetch_add(1, Ordering::Relaxed).to_le_bytes());
        Ok(Order {
            key: AttemptKey { evaluation: EvaluationId::new(at, dice), attempt: 0 },
            token: 1,
            assignment,
            program: Program {
                build: None,
                argv: argv.iter().map(|word| (*word).to_owned()).collect(),
                env,
                cwd: WORK_DIR.to_owned(),
                files: Vec::new(),
                stdin,
            },
            conduct: Conduct { grace: Duration::ZERO, fail_on_output_limit: true },
            traceparent: None,
        })
    }
}

impl Workshop for Bench {
    fn run(&self, root: &Path, argv: &[&str], stdin: Vec<u8>) -> Result<Vec<u8>, String> {
        let inner = self.inner.upgrade().ok_or("the dispatcher is shutting down")?;
        let order = self.order(&inner, argv, stdin)?;
        let runtime = inner.runtime.clone();
        runtime.block_on(run(inner, order, root.to_owned()))
    }
}

async fn run(inner: Arc<Inner>, order: Order, root: PathBuf) -> Result<Vec<u8>, String> {
    let Some(commands) = inner.enter(order.key, order.token).map_err(|error| error.to_string())? else {
        return Err("its place exists already".to_owned());
    };
    let (opened, outcome) = oneshot::channel();
    tokio::spawn(place::run(inner, Job { order, root: Some(root) }, commands, opened));
    let opened = outcome.await.map_err(|_| "its place was lost".to_owned())?;
    listen(opened.map_err(|error| error.to_string())?).await
}

async fn listen(mut link: Link) -> Result<Vec<u8>, String> {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    while let Some(report) = link.next().await {
        match report.body {
            ReportBody::Ready { .. } | ReportBody::Output { stream: Stream::Build, .. } => {}
            ReportBody::Output { stream: Stream::Stdout, bytes, .. } => stdout.extend(bytes),
            ReportBody::Output { stream: Stream::Stderr, bytes, .. } => stderr.extend(bytes),
            ReportBody::Ended(seen) => {
                link.acknowledge(report.number);
                return if is_well(&seen) { Ok(stdout) } else { Err(why(&seen, &stderr)) };
            }
        }
        link.acknowledge(report.number);
    }
    Err("its place went silent".to_owned())
}

fn is_well(seen: &Observation) -> bool {
    let whole = seen.stdout.complete && seen.stdout.kept == seen.stdout.written;
    seen.wait == Some(WaitStatus::Exited(0)) && seen.kill.is_none() && seen.lost.is_none() && whole
}

fn why(seen: &Observation, stderr: &[u8]) -> String {
    if let Some(lost) = &seen.lost {
        return lost.clone();
    }
    let said = String::from_utf8_lossy(stderr);
    let from = said.floor_char_boundary(said.len().saturating_sub(REASON_BYTES_MAX));
    let cause = seen.kill.map(|kill| format!(", ended for {:?}", kill.cause)).unwrap_or_default();
    format!("it ended with {:?}{cause}: {}", seen.wait, said[from..].trim())
}
