//! The command line.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;

use crate::run::{PHASES, Report, Totals, run};

/// Seeds among which each phase of an evaluation must have been met by a kill.
const SEEDS_THAT_SEE_ALL: u64 = 200;

/// Violations of one seed that are shown.
const SHOWN_MAX: usize = 10;

/// Runs the shipped worker in made-up worlds where everything goes wrong, and checks what came of it.
#[derive(Debug, Parser)]
#[command(name = "sim")]
struct Args {
    /// How many seeds to run.
    #[arg(long, default_value_t = 2000, conflicts_with = "seed")]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0, conflicts_with = "seed")]
    first: u64,
    /// Stops once so many of them broke a promise.
    #[arg(long, default_value_t = 5)]
    failures: u64,
    /// Runs one seed: the same seed is the same world, whenever and wherever.
    #[arg(long)]
    seed: Option<u64>,
    /// Prints everything that happens, in order.
    #[arg(long, requires = "seed")]
    trace: bool,
}

pub fn main() -> ExitCode {
    let args = Args::parse();
    let sound = match args.seed {
        Some(seed) => one(seed, args.trace),
        None => many(args.first, args.seeds, args.failures),
    };
    if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn one(seed: u64, printed: bool) -> bool {
    let report = run(seed, printed);
    say(&format!(
        "seed {seed}: {}, {} evaluations in {} attempts, {} polls, trace {:016x}",
        report.shape, report.evaluations, report.attempts, report.polls, report.trace
    ));
    table("went wrong", &report.faults);
    table("verdict", &report.verdicts);
    tell(&report)
}

fn many(first: u64, seeds: u64, failures: u64) -> bool {
    let (started, mut totals, mut failed) = (Instant::now(), Totals::default(), 0);
    for seed in first..first.saturating_add(seeds) {
        let report = run(seed, false);
        totals.add(&report);
        if !tell(&report) {
            failed += 1;
        }
        if failed >= failures {
            break;
        }
    }
    say(&format!(
        "{} seeds, {} evaluations in {} attempts, {} polls, {:.1} s",
        totals.seeds,
        totals.evaluations,
        totals.attempts,
        totals.polls,
        started.elapsed().as_secs_f64()
    ));
    table("went wrong", &totals.faults);
    table("verdict", &totals.verdicts);
    say(&format!("{failed} seeds broke a promise"));
    // What never happened was not tried.
    let unseen: Vec<_> = PHASES.into_iter().filter(|phase| !totals.faults.contains_key(phase)).collect();
    let tried = unseen.is_empty() || totals.seeds < SEEDS_THAT_SEE_ALL;
    if !tried {
        say(&format!("never seen in so many: {}", unseen.join("; ")));
    }
    failed == 0 && tried
}

/// Whether it kept what was promised; if not, what it broke and how to see it again.
fn tell(report: &Report) -> bool {
    for violation in report.violations.iter().take(SHOWN_MAX) {
        say(&format!("seed {}: {violation}", report.seed));
    }
    if report.violations.len() > SHOWN_MAX {
        say(&format!("seed {}: and {} more", report.seed, report.violations.len() - SHOWN_MAX));
    }
    if !report.violations.is_empty() {
        say(&format!("  again: cargo run -p hood-sim -- --seed {} --trace", report.seed));
    }
    report.violations.is_empty()
}

fn table(title: &str, counts: &std::collections::BTreeMap<&'static str, u64>) {
    for (what, count) in counts {
        say(&format!("  {title}: {count:>8}  {what}"));
    }
}

fn say(line: &str) {
    // A reader that has gone wants no more of it.
    let _ = writeln!(std::io::stdout(), "{line}");
}
