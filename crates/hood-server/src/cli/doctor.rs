//! `fumehood doctor`: what this host offers and lacks, each with a fix.

mod checks;

use clap::Args as ClapArgs;
use serde::Serialize;

use super::exit::Exit;
use super::failure::Failure;
use super::global::Global;
use super::output;
use super::terminal::{Style, Text};

const EXAMPLES: &str = "\
Examples:
  fumehood doctor
  fumehood doctor --json | jq '.checks[] | select(.status != \"ok\")'

Exit status: 0 if nothing is lacking, 1 if something is. What is optional counts for nothing.";

/// Look at what this host offers and lacks.
#[derive(Debug, ClapArgs)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Status {
    Ok,
    /// Places are weaker without it, or cannot be made.
    Lacking,
    /// Nothing needs it yet.
    Optional,
}

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize)]
struct Check {
    name: String,
    status: Status,
    /// What was found.
    detail: String,
    /// What to do about it; empty if nothing is to be done.
    fix: String,
}

#[derive(Debug, Serialize)]
struct Report {
    ok: bool,
    checks: Vec<Check>,
}

pub(super) fn execute(args: &Args, global: &Global) -> Result<Exit, Failure> {
    let checks = checks::all(global);
    let ok = checks.iter().all(|check| check.status != Status::Lacking);
    let report = Report { ok, checks };
    if args.json {
        output::json(&report)?;
    } else {
        output::text(&describe(&report))?;
    }
    Ok(if report.ok { Exit::DONE } else { Exit::NO })
}

fn describe(report: &Report) -> String {
    let style = Style::stdout();
    let width = report.checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
    let mut lines = Vec::new();
    for check in &report.checks {
        let status = match check.status {
            Status::Ok => style.good("ok      "),
            Status::Lacking => style.bad("lacking "),
            Status::Optional => style.dim("optional"),
        };
        lines.push(format!("{status}  {:width$}  {}", check.name, Text::line(&check.detail)));
        if !check.fix.is_empty() {
            lines.push(format!("{:10}{:width$}  {} {}", "", "", style.bold("fix:"), Text::line(&check.fix)));
        }
    }
    let lacking = report.checks.iter().filter(|check| check.status == Status::Lacking).count();
    lines.push(match lacking {
        0 => format!("\n{}", style.good("this host has what Fumehood needs")),
        n => format!("\n{}", style.bad(&format!("{n} things are lacking"))),
    });
    lines.join("\n")
}
