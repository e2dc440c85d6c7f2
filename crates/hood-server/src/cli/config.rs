//! `fumehood config`: what is configured, where it came from, and what is wrong with it.

use clap::{Args as ClapArgs, Subcommand};

use super::exit::Exit;
use super::failure::Failure;
use super::global::Global;
use super::output::{self, Format};
use super::terminal::{Style, Text};
use crate::config::{self, Config, ConfigError, Entry, Finding, Host};
use crate::roles::declarations::{self, DeclarationsError};

const EXAMPLES: &str = "\
Examples:
  fumehood config show --origin
  fumehood config check --config ./fumehood.toml
  fumehood config default > fumehood.toml      the commented defaults, to begin a file with

`config check` exits with 0 if all is well, with 1 if something is wrong.";

/// Show and check the configuration.
#[derive(Debug, ClapArgs)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Every key with its value.
    Show {
        /// Say where each value came from.
        #[arg(long)]
        origin: bool,
        /// How to print it.
        #[arg(short = 'o', long, value_name = "FORMAT", default_value = "text")]
        output: Format,
    },
    /// Name every mistake, with its file and line.
    Check {
        /// How to print it.
        #[arg(short = 'o', long, value_name = "FORMAT", default_value = "text")]
        output: Format,
    },
    /// The commented default file.
    Default,
}

pub(super) fn execute(args: &Args, global: &Global) -> Result<Exit, Failure> {
    match args.command {
        Command::Show { origin, output } => show(global, origin, output),
        Command::Check { output } => check(global, output),
        Command::Default => output::text(config::DEFAULT_FILE),
    }
}

#[derive(serde::Serialize)]
struct ShownEntry<'a> {
    key: &'a str,
    value: &'a toml::Value,
    origin: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<&'a str>,
}

fn show(global: &Global, origin: bool, format: Format) -> Result<Exit, Failure> {
    let loaded = global.load()?;
    if format == Format::Json {
        let shown = |entry: &Entry| {
            let Entry { key, value, origin, note } = entry;
            serde_json::to_value(ShownEntry {
                key: key.name,
                value: &key.shown(value),
                origin: origin.to_string(),
                note: note.as_deref(),
            })
        };
        let entries: Result<Vec<_>, _> = loaded.entries.iter().map(shown).collect();
        let entries =
            entries.map_err(|error| Failure::new("cannot write the configuration").because(error))?;
        return output::json(&entries);
    }
    let style = Style::stdout();
    let mut lines = Vec::new();
    let mut section = "";
    for entry in &loaded.entries {
        let (head, name) = entry.key.name.rsplit_once('.').unwrap_or(("", entry.key.name));
        if head != section {
            lines.push(format!("\n{}", style.bold(&format!("[{head}]"))));
            section = head;
        }
        let value = Text::line(&entry.shown());
        let comment = if origin { style.dim(&format!("  # {}", said(entry))) } else { String::new() };
        lines.push(format!("{name} = {value}{comment}"));
    }
    output::text(&lines.join("\n"))
}

fn said(entry: &Entry) -> String {
    let origin = Text::line(&entry.origin.to_string());
    match &entry.note {
        Some(note) => format!("{origin}, auto: {note}"),
        None => origin,
    }
}

#[derive(serde::Serialize)]
struct Checked {
    ok: bool,
    findings: Vec<CheckedFinding>,
    warnings: Vec<String>,
}

#[derive(serde::Serialize)]
struct CheckedFinding {
    origin: String,
    key: String,
    problem: String,
    allowed: String,
    #[serde(skip)]
    text: String,
}

impl CheckedFinding {
    fn of_key(found: Finding) -> Self {
        let text = found.to_string();
        let Finding { origin, key, problem, allowed } = found;
        Self { origin: origin.to_string(), key, problem, allowed, text }
    }
}

/// The configuration names their directory, and one that is wrong stops every command as well.
fn in_declarations(config: &Config) -> Vec<CheckedFinding> {
    let found = |error: DeclarationsError| {
        let (problem, allowed) = (error.to_string(), error.next_step());
        let text = format!("{}; {allowed}", problem.replace('\n', "; "));
        CheckedFinding {
            origin: "declarations".to_owned(),
            key: "environments.dir".to_owned(),
            problem,
            allowed,
            text,
        }
    };
    declarations::problems(config).into_iter().map(found).collect()
}

fn check(global: &Global, format: Format) -> Result<Exit, Failure> {
    let (findings, warnings, file) = match Config::load(&global.sources()?, &Host::detect()) {
        Ok(loaded) => (in_declarations(&loaded.config), loaded.warnings, loaded.file),
        Err(ConfigError::Findings(findings)) => {
            (findings.into_iter().map(CheckedFinding::of_key).collect(), Vec::new(), None)
        }
        // A file that cannot be read is no finding about its content.
        Err(_) => return global.load().map(|_| Exit::DONE),
    };
    let exit = if findings.is_empty() { Exit::DONE } else { Exit::NO };
    if format == Format::Json {
        output::json(&Checked { ok: findings.is_empty(), findings, warnings })?;
        return Ok(exit);
    }
    let style = Style::stdout();
    let mut lines: Vec<String> = findings
        .iter()
        .map(|finding| format!("{} {}", style.bad("wrong:"), Text::line(&finding.text)))
        .collect();
    lines.extend(warnings.iter().map(|warning| format!("{} {}", style.warn("odd:"), Text::line(warning))));
    if findings.is_empty() {
        let file = file.map_or_else(|| "no file, defaults".to_owned(), |file| file.display().to_string());
        lines.push(format!("{} ({})", style.good("the configuration is sound"), Text::line(&file)));
    }
    output::text(&lines.join("\n"))?;
    Ok(exit)
}
