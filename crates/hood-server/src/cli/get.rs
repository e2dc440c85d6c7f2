//! `fumehood get`: one evaluation, with everything that is known of it.

use std::fmt::Write as _;
use std::time::Duration;

use clap::Args as ClapArgs;
use hood_wire::api::{Evaluation, Limits, Preview};

use super::connect::{Connection, Need};
use super::exit::Exit;
use super::failure::Failure;
use super::global::Global;
use super::output::{self, Format};
use super::terminal::{Style, Text};
use super::{units, words};

const EXAMPLES: &str = "\
Examples:
  fumehood get ev_0190163d8694739baea5966c26f8ad91
  fumehood get ID --wait 1m -o json | jq .verdict";

/// Show an evaluation.
#[derive(Debug, ClapArgs)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The evaluation's id.
    id: String,
    /// Wait for its end, this long at most.
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    wait: Option<Duration>,
    /// How to print it.
    #[arg(short = 'o', long, value_name = "FORMAT", default_value = "text")]
    output: Format,
}

pub(super) async fn execute(args: &Args, global: &Global) -> Result<Exit, Failure> {
    let need = if args.wait.is_some() { Need::Work } else { Need::Look };
    let connection = Connection::open(global, need).await?;
    let evaluation = connection.client.get(&args.id, args.wait).await.map_err(Failure::from);
    let evaluation = connection.close(evaluation).await?;
    match args.output {
        Format::Json => output::json(&evaluation),
        Format::Text => output::text(&describe(&evaluation, Style::stdout())),
    }
}

/// For people: what matters first, previews last.
pub(super) fn describe(evaluation: &Evaluation, style: Style) -> String {
    let verdict = evaluation.verdict.map(|verdict| words::paint(style, verdict));
    let mut text = String::new();
    let mut line =
        |name: &str, value: &str| _ = writeln!(text, "{} {value}", style.dim(&format!("{name:12}")));
    line("id", &Text::line(&evaluation.id));
    line("state", words::state(evaluation.state));
    if let Some(verdict) = verdict {
        line("verdict", &format!("{verdict}: {}", words::why(evaluation)));
    } else if evaluation.cancel_requested {
        line("cancel", "was asked for");
    }
    let usage = words::usage(evaluation);
    if !usage.is_empty() {
        line("used", &usage.join(", "));
    }
    line("limits", &limits(&evaluation.limits));
    if let Some(build) = &evaluation.build {
        let how = build.verdict.map_or("not ended", words::verdict);
        let used: Vec<String> = words::used(&build.usage);
        line("build", &[vec![how.to_owned()], used].concat().join(", "));
        line("its limits", &limits(&build.limits));
    }
    let digest = evaluation.environment.digest.as_deref().unwrap_or("not chosen yet");
    line("environment", &Text::line(&format!("{} ({digest})", evaluation.environment.name)));
    line("priority", &evaluation.priority.to_string());
    for (name, value) in &evaluation.labels {
        line("label", &Text::line(&format!("{name}={value}")));
    }
    if let Some(batch) = &evaluation.batch {
        line("batch", &Text::line(batch));
    }
    times(evaluation, &mut line);
    for attempt in &evaluation.attempts {
        if let Some(lost) = &attempt.lost {
            line("lost", &Text::line(&format!("attempt {}: {}", attempt.number, lost.reason)));
        }
    }
    for remark in words::remarks(evaluation) {
        line("note", &remark);
    }
    let build = evaluation.build.as_ref().map(|build| ("build", &build.output));
    let streams = [("stdout", &evaluation.stdout), ("stderr", &evaluation.stderr)];
    for (name, stream) in build.into_iter().chain(streams) {
        preview(&mut text, (name, stream), style);
    }
    text
}

fn times(evaluation: &Evaluation, line: &mut impl FnMut(&str, &str)) {
    let times = [
        ("created", Some(&evaluation.created_at)),
        ("started", evaluation.started_at.as_ref()),
        ("finished", evaluation.finished_at.as_ref()),
    ];
    for (name, at) in times {
        if let Some(at) = at {
            line(name, &Text::line(at));
        }
    }
}

fn limits(limits: &Limits) -> String {
    let mut parts = Vec::new();
    let mut part = |name: &str, value: Option<u64>, show: fn(u64) -> String| {
        parts.push(format!("{name} {}", value.map_or_else(|| "not enforced".to_owned(), show)));
    };
    part("wall", limits.wall_ms, |ms| units::show_millis(ms as f64));
    part("CPU", limits.cpu_ms, |ms| units::show_millis(ms as f64));
    part("memory", limits.memory_bytes, units::show_bytes);
    part("processes", limits.processes, |n| n.to_string());
    part("disk", limits.disk_bytes, units::show_bytes);
    part("output", limits.output_bytes, units::show_bytes);
    parts.join(", ")
}

fn preview(text: &mut String, (name, stream): (&str, &Preview), style: Style) {
    if stream.bytes == 0 {
        return;
    }
    let size = units::show_bytes(stream.bytes);
    let part = if stream.preview_truncated { ", its beginning" } else { "" };
    _ = write!(text, "\n{}\n", style.bold(&format!("{name} ({size}{part})")));
    _ = writeln!(text, "{}", Text::new(stream.preview.trim_end_matches('\n')));
}
