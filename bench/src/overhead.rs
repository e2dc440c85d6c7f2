//! What a fresh sandbox costs over bare Python: the same trivial program, in pairs.

use std::time::Instant;

use clap::Args;
use hood_wire::api::Verdict;

use crate::cli::Common;
use crate::figures::{Report, Samples};
use crate::python::Python;
use crate::server::{Server, ending, python};

const PROGRAM: &str = "print(1)\n";

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Pairs of one bare run and one evaluation.
    #[arg(long, default_value_t = 200)]
    pairs: u32,
    /// Fail if the median of an evaluation is more than this above that of a bare run.
    #[arg(long)]
    at_most_ms: Option<f64>,
}

#[derive(Debug, Default)]
struct Taken {
    bare: Samples,
    whole: Samples,
    queued: Samples,
    provisioning: Samples,
    running: Samples,
    wall: Samples,
}

pub(crate) async fn run(options: &Options, common: &Common) -> anyhow::Result<Report> {
    let host_python = Python::find()?;
    let server = Server::start(common).await?;
    let mut report = Report::new("overhead", server.host(&host_python).await?);
    report.setting("pairs", options.pairs);
    report.setting("program", PROGRAM.trim_end());
    let taken = take(&server, &host_python, options.pairs, &mut report).await?;
    report.spread("bare: python3 -I main.py", &taken.bare);
    report.spread("evaluation: submit → terminal, at the client", &taken.whole);
    report.spread("evaluation: the program (usage.wall_ms)", &taken.wall);
    report.spread("evaluation: timings.queued_ms", &taken.queued);
    report.spread("evaluation: timings.provisioning_ms", &taken.provisioning);
    report.spread("evaluation: timings.running_ms", &taken.running);
    let overhead = taken.whole.median() - taken.bare.median();
    report.figure("overhead at the median, at the client", overhead, "ms");
    report.figure(
        "overhead at the median, provisioning and program",
        taken.provisioning.median() + taken.wall.median() - taken.bare.median(),
        "ms",
    );
    if let Some(most) = options.at_most_ms
        && overhead > most
    {
        report.fail(format!("the overhead of {overhead:.1} ms is above {most} ms"));
    }
    Ok(report)
}

async fn take(
    server: &Server,
    host_python: &Python,
    pairs: u32,
    report: &mut Report,
) -> anyhow::Result<Taken> {
    let dir = tempfile::tempdir()?;
    let script = dir.path().join("main.py");
    std::fs::write(&script, PROGRAM)?;
    let submission = python(PROGRAM);
    let mut taken = Taken::default();
    for pair in 0..pairs {
        // Each goes first every other time.
        if pair % 2 == 0 {
            taken.bare.add(host_python.time(&script)?.0);
        }
        let started = Instant::now();
        let ended = server.run(&submission).await?;
        taken.whole.add(started.elapsed());
        if pair % 2 == 1 {
            taken.bare.add(host_python.time(&script)?.0);
        }
        if ended.verdict != Some(Verdict::Succeeded) {
            report.fail(ending(&ended));
        }
        taken.queued.add_ms(ended.timings.queued_ms);
        taken.provisioning.add_ms(ended.timings.provisioning_ms);
        taken.running.add_ms(ended.timings.running_ms);
        taken.wall.add_ms(ended.usage.wall_ms);
    }
    Ok(taken)
}
