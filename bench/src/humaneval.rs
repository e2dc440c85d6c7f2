//! Real input: the 164 problems of HumanEval with their reference solutions.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use hood_wire::api::{BatchSubmission, Evaluation, Verdict};
use serde::Deserialize;

use crate::cli::Common;
use crate::figures::{Report, Samples};
use crate::python::Python;
use crate::server::{Server, ending, python};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// HumanEval.jsonl.gz; the copy in bench/data if left out.
    #[arg(long, env = "HUMANEVAL")]
    path: Option<PathBuf>,
    /// How often plain loop and Fumehood take turns.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
}

#[derive(Debug, Deserialize)]
struct Problem {
    task_id: String,
    prompt: String,
    entry_point: String,
    canonical_solution: String,
    test: String,
}

/// What stands in the place of the reference solution.
#[derive(Clone, Copy, Debug)]
enum Body {
    Reference,
    /// Wrong in every problem.
    ReturnNone,
    /// Never reaches the tests, and says that all is well.
    ExitZero,
}

/// Printed after the tests have passed. A grader that looks for it is not fooled by an early exit.
const MARKER: &str = "every check passed";

impl Problem {
    fn program(&self, body: Body) -> String {
        let Self { prompt, entry_point, canonical_solution, test, .. } = self;
        let body = match body {
            Body::Reference => canonical_solution.as_str(),
            Body::ReturnNone => "    return None\n",
            Body::ExitZero => "    import os\n    os._exit(0)\n",
        };
        format!("{prompt}{body}\n{test}\ncheck({entry_point})\nprint({MARKER:?})\n")
    }
}

pub(crate) async fn run(options: &Options, common: &Common) -> anyhow::Result<Report> {
    let problems = read(options.path.as_deref())?;
    let host_python = Python::find()?;
    let server = Server::start(common).await?;
    let mut report = Report::new("humaneval", server.host(&host_python).await?);
    report.setting("problems", problems.len());
    report.setting("rounds", options.rounds);
    check_verdicts(&server, &problems, &mut report).await?;
    check_early_exit(&server, &problems, &mut report).await?;
    compare(&server, &problems, &host_python, options.rounds, &mut report).await?;
    latency(&server, &problems, &mut report).await?;
    Ok(report)
}

fn read(path: Option<&Path>) -> anyhow::Result<Vec<Problem>> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/HumanEval.jsonl.gz");
    let path = path.unwrap_or(&own);
    let file = std::fs::File::open(path).with_context(|| {
        format!("open {}: name HumanEval.jsonl.gz with --path or HUMANEVAL", path.display())
    })?;
    let mut text = String::new();
    flate2::read::GzDecoder::new(file).read_to_string(&mut text).context("decompress the problems")?;
    text.lines().map(|line| serde_json::from_str(line).context("read a problem")).collect()
}

/// Submits all at once and waits for every end, in the order of the problems.
async fn batch(server: &Server, problems: &[Problem], body: Body) -> anyhow::Result<Vec<Evaluation>> {
    let evaluations = problems.iter().map(|problem| python(&problem.program(body))).collect();
    let created = server.client.submit_batch(&BatchSubmission { evaluations }, &server.fresh_key()).await?;
    let mut ended = Vec::with_capacity(created.evaluations.len());
    for id in &created.evaluations {
        ended.push(server.end(id).await?);
    }
    Ok(ended)
}

async fn check_verdicts(server: &Server, problems: &[Problem], report: &mut Report) -> anyhow::Result<()> {
    for (body, expected) in [(Body::Reference, Verdict::Succeeded), (Body::ReturnNone, Verdict::Failed)] {
        let ended = batch(server, problems, body).await?;
        let mut right = 0u32;
        for (problem, evaluation) in problems.iter().zip(&ended) {
            if evaluation.verdict == Some(expected) {
                right += 1;
            } else {
                report.fail(format!("{} with {body:?}: {}", problem.task_id, ending(evaluation)));
            }
        }
        if ended.len() != problems.len() {
            report.fail(format!("{} of {} evaluations with {body:?}", ended.len(), problems.len()));
        }
        report.figure(format!("{body:?} → {expected:?}"), f64::from(right), "evaluations");
    }
    Ok(())
}

/// `succeeded` means that the main process exited 0, and no more: a program that leaves before the
/// tests gets it too. What it cannot have done is print what comes after them.
async fn check_early_exit(server: &Server, problems: &[Problem], report: &mut Report) -> anyhow::Result<()> {
    let Some(problem) = problems.first() else { return Ok(()) };
    for (body, has_marker) in [(Body::Reference, true), (Body::ExitZero, false)] {
        let ended = server.run(&python(&problem.program(body))).await?;
        let marked = ended.stdout.preview.contains(MARKER);
        if ended.verdict != Some(Verdict::Succeeded) || marked != has_marker {
            report.fail(format!("{body:?}: {}, marker {marked}", ending(&ended)));
        }
    }
    report.note("os._exit(0) before the tests: verdict succeeded, the tests' last line missing.");
    report.note("A grader checks outputs, outside; docs/guide.md says how.");
    Ok(())
}

/// Evaluations a second against plain loops, taking turns so that a change in the machine's mood
/// meets both.
async fn compare(
    server: &Server,
    problems: &[Problem],
    host_python: &Python,
    rounds: u32,
    report: &mut Report,
) -> anyhow::Result<()> {
    let scripts = Scripts::write(problems)?;
    let (mut one, mut each_cpu, mut ours) = (Samples::default(), Samples::default(), Samples::default());
    for _ in 0..rounds {
        one.add(scripts.run(host_python, 1)?);
        let started = Instant::now();
        batch(server, problems, Body::Reference).await?;
        ours.add(started.elapsed());
        each_cpu.add(scripts.run(host_python, std::thread::available_parallelism()?.get())?);
    }
    let rate = |samples: &Samples| problems.len() as f64 / (samples.median() / 1e3);
    report.figure("Fumehood, one batch", rate(&ours), "evaluations/s");
    report.figure("python3 -I, one at a time", rate(&one), "runs/s");
    report.figure("python3 -I, one for each CPU", rate(&each_cpu), "runs/s");
    report.figure("Fumehood / one at a time", rate(&ours) / rate(&one), "×");
    report.figure("Fumehood / one for each CPU", rate(&ours) / rate(&each_cpu), "×");
    Ok(())
}

/// From the client's call to its having the terminal resource, with nothing else under way.
async fn latency(server: &Server, problems: &[Problem], report: &mut Report) -> anyhow::Result<()> {
    let mut samples = Samples::default();
    for problem in problems {
        let submission = python(&problem.program(Body::Reference));
        let started = Instant::now();
        server.run(&submission).await?;
        samples.add(started.elapsed());
    }
    report.spread("submit → terminal, one at a time", &samples);
    Ok(())
}

/// The programs as files: written before the clock starts.
struct Scripts {
    _dir: tempfile::TempDir,
    paths: Vec<PathBuf>,
}

impl Scripts {
    fn write(problems: &[Problem]) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let mut paths = Vec::with_capacity(problems.len());
        for (number, problem) in problems.iter().enumerate() {
            let path = dir.path().join(format!("{number}.py"));
            std::fs::write(&path, problem.program(Body::Reference))?;
            paths.push(path);
        }
        Ok(Self { _dir: dir, paths })
    }

    /// Runs all of them, `at_once` at any time.
    fn run(&self, host_python: &Python, at_once: usize) -> anyhow::Result<Duration> {
        let next = AtomicUsize::new(0);
        let work = || -> anyhow::Result<()> {
            while let Some(path) = self.paths.get(next.fetch_add(1, Ordering::Relaxed)) {
                let (_, succeeded) = host_python.time(path)?;
                anyhow::ensure!(succeeded, "{} fails outside", path.display());
            }
            Ok(())
        };
        let started = Instant::now();
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..at_once).map(|_| scope.spawn(work)).collect();
            threads.into_iter().try_for_each(|thread| {
                thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a thread of the plain loop panicked")))
            })
        })?;
        Ok(started.elapsed())
    }
}
