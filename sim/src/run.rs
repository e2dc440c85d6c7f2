//! One seed, from the beginning of its world to the verdict over it.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::FutureExt as _;
use hood_core::outcome::Stream;
use hood_core::retry::RetryPolicy;
use hood_core::{Tenant, Timestamp};
use hood_dispatch::AttemptKey;
use hood_server::document::AcceptedDocument;
use hood_store::memory::Memory;
use hood_store::{Filter, Record, RecordSummary, Span, StoreConfig};

use crate::checker::{Expected, Rule, Violation, Whole, check};
use crate::client::{Client, Open};
use crate::fate;
use crate::history::{Ending, Entry};
use crate::ledger::RemoteStore;
use crate::process::{Processes, Shape};
use crate::rng::Rng;
use crate::scheduler::{Node, Turn};
use crate::script::{Script, printed};
use crate::world::{START, World};

/// How long things go wrong.
const ROUGH_MIN: Duration = Duration::from_secs(10);
const ROUGH_MAX: Duration = Duration::from_secs(60);

/// Once nothing goes wrong any more, all that was accepted ends within this: time for each retry
/// that is left with its back-off, one after the other.
const ENDS_WITHIN: Duration = Duration::from_secs(1800);

/// After the last end, for whatever is still under way.
const AFTERMATH: Duration = Duration::from_secs(20);

/// Polls of one world: one that needs more goes round in circles.
const POLLS_MAX: u64 = 3_000_000;

const CLIENTS_MAX: u64 = 3;
const SUBMISSIONS_MAX: u64 = 8;

/// Long for most worlds, and shorter than their bad weather for some.
const QUEUE_TTL: Duration = Duration::from_secs(3600);
const QUEUE_TTL_SHORT: Duration = Duration::from_secs(8);

/// What came of a seed.
#[derive(Clone, Debug)]
pub struct Report {
    pub seed: u64,
    pub shape: String,
    pub evaluations: u64,
    pub polls: u64,
    pub trace: u64,
    /// How often what went wrong.
    pub faults: BTreeMap<&'static str, u64>,
    /// How evaluations ended, by verdict, and how many attempts they took.
    pub verdicts: BTreeMap<&'static str, u64>,
    pub attempts: u64,
    pub violations: Vec<Violation>,
}

/// Runs one world. `printed`: its trace goes to the standard output.
pub fn run(seed: u64, printed: bool) -> Report {
    let world = World::new(seed, printed);
    let mut rng = Rng::new(seed ^ 0x0005_EED0_F5EE_D500);
    let shape = Shape::random(&mut rng);
    let memory = Memory::new(StoreConfig::at(std::path::PathBuf::new()));
    let queue_ttl = if rng.chance(100) { QUEUE_TTL_SHORT } else { QUEUE_TTL };
    let processes = Processes::new(world.clone(), memory.clone(), shape, queue_ttl);
    world.scheduler.note(format_args!("seed {seed}: {shape:?}, {:?}", world.weather));
    processes.start_all();
    let open = Open::default();
    for number in 0..=u32::try_from(rng.below(CLIENTS_MAX)).unwrap_or(0) {
        let store = RemoteStore { world: world.clone(), memory: memory.clone(), node: Node::Client(number) };
        let submissions = u32::try_from(rng.below(SUBMISSIONS_MAX)).unwrap_or(0) + 1;
        Client { store, number, open: open.clone() }.start(submissions);
    }
    fate::start(&world, shape);
    let rough = ROUGH_MIN + rng.delay(ROUGH_MAX);
    let stuck = play(&world, &processes, &open, START.after(rough));
    report(seed, &world, shape, &memory, stuck)
}

/// Until all has ended and nothing is under way; or the reason why it does not.
fn play(world: &World, processes: &Processes, open: &Open, calm_at: Timestamp) -> Option<String> {
    let (bound, mut over_at) = (calm_at.after(ENDS_WITHIN), None);
    loop {
        match world.scheduler.turn() {
            Turn::Polled => {}
            Turn::Killed(node) => processes.died(node),
            Turn::Idle => return Some("nothing can go on".to_owned()),
        }
        let now = world.scheduler.now();
        if now >= calm_at && !world.is_calm() {
            world.calm_down();
        }
        if over_at.is_none() && world.is_calm() && open.is_none() {
            over_at = Some(now.after(AFTERMATH));
        }
        match over_at {
            Some(over_at) if now >= over_at => return None,
            None if now >= bound => {
                return Some(format!("not all has ended {ENDS_WITHIN:?} after the last fault"));
            }
            _ if world.scheduler.polls() > POLLS_MAX => return Some(format!("more than {POLLS_MAX} polls")),
            _ => {}
        }
    }
}

fn report(seed: u64, world: &World, shape: Shape, memory: &Memory, stuck: Option<String>) -> Report {
    let endings = endings(memory);
    let history: Vec<Entry> = world.chronicle.read();
    let mut violations = check(&history, &endings, &Scripts);
    if let Some(stuck) = stuck {
        let live = endings.iter().filter(|ending| !ending.record.state.is_terminal());
        let names: Vec<String> = live.map(|ending| ending.record.id.to_string()).collect();
        violations.push(Violation { rule: Rule::EndsOnce, what: format!("{stuck}: {names:?}") });
    }
    let mut verdicts = BTreeMap::new();
    for ending in &endings {
        *verdicts.entry(ending.record.verdict.map_or("none", hood_core::Verdict::as_str)).or_default() += 1;
    }
    Report {
        seed,
        shape: format!("{shape:?}"),
        evaluations: endings.len() as u64,
        polls: world.scheduler.polls(),
        trace: world.scheduler.trace_hash(),
        faults: world.counts(),
        verdicts,
        attempts: endings.iter().map(|ending| ending.record.attempts.len() as u64).sum(),
        violations,
    }
}

/// All that the store holds.
fn endings(memory: &Memory) -> Vec<Ending> {
    let list = memory.list(&Tenant::default(), &Filter::default(), None, u32::MAX).now_or_never();
    let all = list.and_then(Result::ok).map(|page| page.items).unwrap_or_default();
    all.iter().filter_map(|summary| ending(memory, summary)).collect()
}

fn ending(memory: &Memory, summary: &RecordSummary) -> Option<Ending> {
    let (tenant, id) = (Tenant::default(), summary.id);
    let record = memory.get(&tenant, id).now_or_never()?.ok()?;
    let events = memory.events(&tenant, id, 0, u32::MAX).now_or_never()?.ok()?;
    let stored = |attempt, stream| {
        let span = Span { stream, attempt: Some(attempt), offset: 0, max: usize::MAX };
        memory.output(&tenant, id, span).now_or_never()?.ok().map(|slice| slice.bytes)
    };
    let output = (record.attempts.iter())
        .map(|attempt| Stream::PROGRAM.map(|stream| stored(attempt.number, stream).unwrap_or_default()))
        .collect();
    Some(Ending { record, events, output })
}

/// What scripts do, for the checker.
struct Scripts;

impl Expected for Scripts {
    fn retry(&self) -> RetryPolicy {
        RetryPolicy::DEFAULT
    }

    fn printed(&self, key: AttemptKey, stream: Stream, bytes: u64) -> Vec<u8> {
        printed(key, stream, 0, bytes)
    }

    fn whole(&self, record: &Record) -> Option<Whole> {
        let accepted: AcceptedDocument = serde_json::from_str(&record.request).ok()?;
        let script = Script::parse(&accepted.submission.code?)?;
        (!script.fatal).then(|| Whole {
            stdout: script.total(Stream::Stdout),
            stderr: script.total(Stream::Stderr),
            exit: script.exit,
        })
    }
}

/// What many seeds came to together.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    pub seeds: u64,
    pub evaluations: u64,
    pub attempts: u64,
    pub polls: u64,
    pub faults: BTreeMap<&'static str, u64>,
    pub verdicts: BTreeMap<&'static str, u64>,
}

impl Totals {
    pub fn add(&mut self, report: &Report) {
        self.seeds += 1;
        self.evaluations += report.evaluations;
        self.attempts += report.attempts;
        self.polls += report.polls;
        for (what, count) in &report.faults {
            *self.faults.entry(what).or_default() += count;
        }
        for (verdict, count) in &report.verdicts {
            *self.verdicts.entry(verdict).or_default() += count;
        }
    }
}

/// How far an evaluation can be when a process dies: each of these was seen in a proper run.
pub const PHASES: [&str; 6] = [
    "a worker killed while a place was provisioned",
    "a worker killed while a program ran",
    "a worker killed between a program's end and the record of it",
    "a dispatcher killed while a place was provisioned",
    "a dispatcher killed while a program ran",
    "a dispatcher killed between a program's end and the record of it",
];
