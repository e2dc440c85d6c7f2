//! What happened, in plain words.

use comfy_table::{Cell, Color};
use hood_wire::api::{Evaluation, Evidence, Preview, State, Usage, Verdict};

use super::terminal::{Style, Text};
use super::units::{show_bytes, show_millis};

pub(super) const fn state(state: State) -> &'static str {
    match state {
        State::Queued => "queued",
        State::Provisioning => "provisioning",
        State::Running => "running",
        State::Succeeded => "succeeded",
        State::Failed => "failed",
        State::Cancelled => "cancelled",
    }
}

pub(super) const fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Succeeded => "succeeded",
        Verdict::BuildFailed => "build_failed",
        Verdict::Failed => "failed",
        Verdict::TimedOut => "timed_out",
        Verdict::OutOfMemory => "out_of_memory",
        Verdict::OutputLimit => "output_limit",
        Verdict::PolicyViolation => "policy_violation",
        Verdict::Cancelled => "cancelled",
        Verdict::InfrastructureError => "infrastructure_error",
    }
}

pub(super) fn paint(style: Style, verdict: Verdict) -> String {
    let name = self::verdict(verdict);
    match verdict {
        Verdict::Succeeded => style.good(name),
        Verdict::Cancelled => style.warn(name),
        _ => style.bad(name),
    }
}

/// In a table, which measures its cells and so must know of the colour.
pub(super) fn cell(style: Style, verdict: Verdict) -> Cell {
    let cell = Cell::new(self::verdict(verdict));
    match verdict {
        _ if !style.is_on() => cell,
        Verdict::Succeeded => cell.fg(Color::Green),
        Verdict::Cancelled => cell.fg(Color::Yellow),
        _ => cell.fg(Color::Red),
    }
}

/// The signal's name, or its number.
pub(super) fn signal(number: u8) -> String {
    let name = match number {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        5 => "SIGTRAP",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        10 => "SIGUSR1",
        11 => "SIGSEGV",
        12 => "SIGUSR2",
        13 => "SIGPIPE",
        14 => "SIGALRM",
        15 => "SIGTERM",
        24 => "SIGXCPU",
        25 => "SIGXFSZ",
        31 => "SIGSYS",
        _ => return format!("signal {number}"),
    };
    format!("{name} ({number})")
}

/// Why the verdict is what it is: one phrase.
pub(super) fn why(evaluation: &Evaluation) -> String {
    let none = Evidence::default();
    let evidence = evaluation.evidence.as_ref().unwrap_or(&none);
    match evaluation.verdict {
        None => format!("not ended yet: {}", state(evaluation.state)),
        Some(Verdict::BuildFailed) => {
            let how = evaluation.build.as_ref().and_then(|build| build.verdict).unwrap_or(Verdict::Failed);
            format!("the build: {}", how_it_ended(how, evidence, evaluation))
        }
        Some(verdict) => how_it_ended(verdict, evidence, evaluation),
    }
}

/// Of the program, or of a build that failed: what is said of the end is of what decided it.
fn how_it_ended(verdict: Verdict, evidence: &Evidence, evaluation: &Evaluation) -> String {
    match verdict {
        Verdict::BuildFailed => "failed".to_owned(),
        Verdict::Succeeded => "exit code 0".to_owned(),
        Verdict::Failed => match &evidence.exec_error {
            Some(error) => format!("could not be started: {}", Text::new(&error.message)),
            None => ended(evaluation),
        },
        Verdict::TimedOut => match &evidence.limit {
            Some(limit) if limit.name == "cpu_ms" => {
                format!("used up its {} of CPU time (cpu_ms)", show_millis(limit.allowed as f64))
            }
            Some(limit) => format!("still ran after {} (wall_ms)", show_millis(limit.allowed as f64)),
            None => "used up its time".to_owned(),
        },
        Verdict::OutOfMemory => match &evidence.limit {
            Some(limit) => format!("needed more than {} (memory_bytes)", show_bytes(limit.allowed)),
            None => "needed more memory than it may have".to_owned(),
        },
        Verdict::OutputLimit => match &evidence.limit {
            Some(limit) => {
                format!("wrote more than {} to one stream (output_bytes)", show_bytes(limit.allowed))
            }
            None => "wrote more than it may".to_owned(),
        },
        Verdict::PolicyViolation => {
            let what = evidence.violation.as_deref().unwrap_or("it did what the sandbox kills for");
            format!("entered the kernel as no program may: {}", Text::new(what))
        }
        Verdict::Cancelled => match evidence.decided_by.as_str() {
            "cancelled_in_queue" => "before it ran".to_owned(),
            _ => "on request".to_owned(),
        },
        Verdict::InfrastructureError => infrastructure(evidence),
    }
}

fn ended(evaluation: &Evaluation) -> String {
    match (evaluation.exit_code, evaluation.signal) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(number)) => format!("ended by {}", signal(number)),
        (None, None) => "it is not known how it ended".to_owned(),
    }
}

fn infrastructure(evidence: &Evidence) -> String {
    if let Some(refusal) = &evidence.refusal {
        return format!("refused: {} ({})", Text::new(&refusal.reason), Text::new(&refusal.code));
    }
    match &evidence.lost {
        Some(lost) => format!("Fumehood failed, not the program: {}", Text::new(&lost.reason)),
        None => "Fumehood failed, not the program".to_owned(),
    }
}

/// What was used, as far as it was measured.
pub(super) fn usage(evaluation: &Evaluation) -> Vec<String> {
    used(&evaluation.usage)
}

pub(super) fn used(usage: &Usage) -> Vec<String> {
    let mut parts = Vec::new();
    parts.extend(usage.wall_ms.map(show_millis));
    if let (Some(user), Some(system)) = (usage.cpu_user_ms, usage.cpu_system_ms) {
        parts.push(format!("CPU {}", show_millis(user + system)));
    }
    parts.extend(usage.memory_peak_bytes.map(|bytes| format!("peak memory {}", show_bytes(bytes))));
    parts
}

/// What a reader of the result must know besides its verdict.
pub(super) fn remarks(evaluation: &Evaluation) -> Vec<String> {
    let mut remarks = Vec::new();
    let build = evaluation.build.as_ref().map(|build| ("the build's output", &build.output));
    let streams = [("stdout", &evaluation.stdout), ("stderr", &evaluation.stderr)];
    for (name, stream) in streams.into_iter().chain(build) {
        remarks.extend(truncation(name, stream, evaluation.state.is_terminal()));
    }
    let Some(evidence) = &evaluation.evidence else { return remarks };
    if evidence.forks_refused > 0 {
        remarks.push(format!("the process limit refused {} times to start another", evidence.forks_refused));
    }
    if evidence.kill.as_ref().is_some_and(|kill| kill.by == "supervisor") {
        remarks.push("it was killed from outside, since the agent did not end it in time".to_owned());
    }
    if evidence.suspect {
        remarks.push("an attempt was lost while the program ran: the program may be why".to_owned());
    }
    if evaluation.attempts.len() > 1 {
        remarks.push(format!("it took {} attempts", evaluation.attempts.len()));
    }
    if !evidence.degraded.is_empty() {
        let layers: Vec<String> = evidence
            .degraded
            .iter()
            .map(|missing| format!("{}: {}", Text::new(&missing.layer), Text::new(&missing.reason)))
            .collect();
        remarks.push(format!(
            "isolation was less than it should be (policy `development`):\n    {}",
            layers.join("\n    ")
        ));
    }
    remarks
}

fn truncation(name: &str, stream: &Preview, terminal: bool) -> Option<String> {
    if stream.truncated {
        let (kept, all) = (show_bytes(stream.kept_bytes), show_bytes(stream.bytes));
        return Some(format!("{name} was cut off: the first {kept} of {all} were kept"));
    }
    let missing = terminal && !stream.complete && stream.bytes > 0;
    missing.then(|| format!("{name} may have had more: its end was lost"))
}
