//! `fumehood run`: one evaluation, from here to its verdict.

mod follow;
mod pump;
mod sink;
mod submission;

use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, ValueEnum};
use hood_wire::api::{Evaluation, OnOutputLimit, RiskLevel};

use super::connect::{Connection, FOLLOWING, Need, warn};
use super::exit::{Exit, ExitFrom};
use super::failure::Failure;
use super::global::{Global, pair};
use super::output::{self, Format};
use super::terminal::Style;
use super::{units, words};
use follow::Followed;
pub(super) use follow::Interrupts;
pub(super) use sink::Sink;
use submission::FileArg;

const EXAMPLES: &str = "\
Examples:
  fumehood run hello.py
  fumehood run --timeout 2s --memory 64MiB --file data.csv --stdin - script.py -- arg1 arg2
  echo 'print(6*7)' | fumehood run -
  fumehood run --file ./prog --exec -- ./prog a b      any program, here one of your own
  fumehood run --exec -- python3 -c 'print(1)'         any program of the environment
  fumehood run --env tools --entrypoint -- --help      what an imported image runs by itself
  fumehood run --env c hello.c -- arg1                 built and run as the environment says
  fumehood run --env c --file Makefile --file a.c --build make --exec -- ./a
  fumehood run -o json hello.py                        the whole result as one JSON document

Exit status:
  the program's own, or 128+n if signal n ended it
  124 timed out         130 cancelled (Ctrl-C)     153 output limit
  125 Fumehood failed   137 out of memory          159 policy violation
  126 refused
  A build that fails gives its own status in the same way.
  With --exit-code verdict every verdict has its own: the same, 1 for a failed program, 123 for a failed build.";

/// Run a program in a sandbox, stream its output, and say how it ended.
#[derive(Debug, ClapArgs)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Source file to run, as the environment runs it: Python in most; `-` reads it from standard input.
    #[arg(value_name = "SCRIPT", required_unless_present_any = ["exec", "entrypoint"])]
    script: Option<String>,

    /// Arguments of the script; with --exec the command itself.
    #[arg(last = true, value_name = "ARGS")]
    args: Vec<String>,

    /// Run the command after `--` in place of a Python script.
    #[arg(long, requires = "args", conflicts_with = "script")]
    exec: bool,

    /// Run what the environment's image says, with its own arguments or those after `--`.
    #[arg(long, conflicts_with_all = ["script", "exec"])]
    entrypoint: bool,

    /// Put a file into the working directory, as LOCAL or LOCAL:REMOTE; may be repeated.
    #[arg(long, value_name = "FILE")]
    file: Vec<FileArg>,

    /// File for standard input; `-` passes on this command's own. Empty if left out.
    #[arg(long, value_name = "FILE")]
    stdin: Option<PathBuf>,

    /// Set an environment variable; may be repeated.
    #[arg(short = 'e', long = "env-var", value_name = "NAME=VALUE", value_parser = pair)]
    variables: Vec<(String, String)>,

    /// Environment to run in; the server's default if left out.
    #[arg(long = "env", value_name = "NAME")]
    environment: Option<String>,

    /// Print the result as one JSON document, and no output of the program.
    #[arg(short = 'o', long, value_name = "FORMAT", default_value = "text")]
    output: Format,

    /// Say nothing but what the program says.
    #[arg(short, long)]
    quiet: bool,

    /// Let a terminal obey the program's control characters.
    #[arg(long)]
    raw: bool,

    /// What the exit status says.
    #[arg(long = "exit-code", value_name = "OF", default_value = "program")]
    exit_from: ExitFrom,

    /// Print the id and leave; needs a server that stays.
    #[arg(long)]
    detach: bool,

    #[command(flatten)]
    limits: Limits,

    #[command(flatten)]
    build: Build,

    #[command(flatten)]
    order: Order,
}

/// What runs before it. An environment for a compiled language builds a source file without being told.
#[derive(Debug, Default, ClapArgs)]
#[command(next_help_heading = "Build")]
struct Build {
    /// Command that builds, split into words as a shell does it: quotes and backslashes count. Nothing else of a
    /// shell is understood (variables, patterns, pipes, `&&`); for that, `sh -c '…'` in the environment.
    #[arg(long = "build", id = "build_command", value_name = "COMMAND", value_parser = build_words)]
    command: Option<Words>,
    /// Wall time of the build.
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    build_timeout: Option<Duration>,
    /// CPU time of the build.
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    build_cpu: Option<Duration>,
    /// Memory of the build.
    #[arg(long, value_name = "SIZE", value_parser = units::bytes)]
    build_memory: Option<u64>,
    /// Processes and threads of the build at once.
    #[arg(long, value_name = "N")]
    build_processes: Option<u64>,
    /// Output kept of each of the build's stdout and stderr.
    #[arg(long, value_name = "SIZE", value_parser = units::bytes)]
    build_output_limit: Option<u64>,
}

/// The words of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Words(Vec<String>);

fn build_words(text: &str) -> Result<Words, String> {
    let mut splitter = shlex::Shlex::new(text);
    let words: Vec<String> = splitter.by_ref().collect();
    if splitter.had_error {
        return Err("a quote is left open, or it ends in a backslash: close the quote, or put a backslash before one \
                    that is meant as it stands"
            .to_owned());
    }
    match words.first() {
        Some(program) if !program.is_empty() => Ok(Words(words)),
        _ => Err("name the program that builds, as in 'make main'".to_owned()),
    }
}

/// How much it may use.
#[derive(Debug, Default, ClapArgs)]
#[command(next_help_heading = "Limits")]
struct Limits {
    /// Wall time, as in 2s or 500ms.
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    timeout: Option<Duration>,
    /// CPU time of all processes together.
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    cpu: Option<Duration>,
    /// Memory, as in 64MiB; what is written to files counts.
    #[arg(long, value_name = "SIZE", value_parser = units::bytes)]
    memory: Option<u64>,
    /// Processes and threads at once.
    #[arg(long, value_name = "N")]
    processes: Option<u64>,
    /// All files together.
    #[arg(long, value_name = "SIZE", value_parser = units::bytes)]
    disk: Option<u64>,
    /// Files and directories.
    #[arg(long, value_name = "N")]
    inodes: Option<u64>,
    /// The largest single file.
    #[arg(long, value_name = "SIZE", value_parser = units::bytes)]
    file_size: Option<u64>,
    /// Output kept of each of stdout and stderr.
    #[arg(long, value_name = "SIZE", value_parser = units::bytes)]
    output_limit: Option<u64>,
    /// Open files of each process.
    #[arg(long, value_name = "N")]
    open_files: Option<u64>,
    /// What happens at the output limit.
    #[arg(long, value_name = "WHAT", default_value = "truncate")]
    on_output_limit: AtOutputLimit,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum AtOutputLimit {
    /// The rest is dropped and counted.
    #[default]
    Truncate,
    /// The program is ended.
    Fail,
}

impl From<AtOutputLimit> for OnOutputLimit {
    fn from(at: AtOutputLimit) -> Self {
        match at {
            AtOutputLimit::Truncate => Self::Truncate,
            AtOutputLimit::Fail => Self::Fail,
        }
    }
}

/// How it stands among others.
#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "Order and labels")]
struct Order {
    /// 0 to 9; higher goes first.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=9))]
    priority: Option<u8>,
    /// Label to find it by; may be repeated.
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = pair)]
    labels: Vec<(String, String)>,
    /// How far the code is trusted; sets the time between SIGTERM and the kill.
    #[arg(long = "risk-level", visible_alias = "risk", value_name = "LEVEL", default_value = "high")]
    risk: Risk,
    /// Time between SIGTERM and the kill, in place of the risk level's.
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    grace: Option<Duration>,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Risk {
    /// 30 s.
    Low,
    /// 10 s.
    Medium,
    /// 5 s.
    #[default]
    High,
    /// 2 s.
    Critical,
}

impl From<Risk> for RiskLevel {
    fn from(risk: Risk) -> Self {
        match risk {
            Risk::Low => Self::Low,
            Risk::Medium => Self::Medium,
            Risk::High => Self::High,
            Risk::Critical => Self::Critical,
        }
    }
}

pub(super) async fn execute(args: &Args, global: &Global) -> Result<Exit, Failure> {
    let submission = args.submission()?;
    let need = if args.detach { Need::Lasting } else { Need::Work };
    let connection = Connection::open(global, need).await?;
    let result = async {
        let submitted = connection.client.submit(&submission, None).await?;
        let evaluation = submitted.evaluation;
        if args.detach {
            return match args.output {
                Format::Text => output::text(&evaluation.id),
                Format::Json => output::json(&evaluation),
            };
        }
        let client = connection.client.with_retry(FOLLOWING);
        let followed = follow::follow(&client, &evaluation, args.look()).await?;
        args.report(&followed)
    }
    .await;
    connection.close(result).await
}

impl Args {
    const fn look(&self) -> follow::Look {
        follow::Look { stream: matches!(self.output, Format::Text), raw: self.raw, quiet: self.quiet }
    }

    fn report(&self, followed: &Followed) -> Result<Exit, Failure> {
        let evaluation = &followed.evaluation;
        if self.output == Format::Json {
            output::json(evaluation)?;
        } else if !self.quiet {
            summarise(evaluation, followed.mid_line);
            if followed.made_visible {
                warn("control characters in the output were made visible; --raw shows them as they are");
            }
        }
        Ok(if followed.reader_gone { Exit::BROKEN_PIPE } else { Exit::of(evaluation, self.exit_from) })
    }
}

/// How it ended, on stderr: stdout is the program's.
fn summarise(evaluation: &Evaluation, mid_line: bool) {
    let style = Style::stderr();
    let verdict = evaluation
        .verdict
        .map_or_else(|| words::state(evaluation.state).to_owned(), |verdict| words::paint(style, verdict));
    let mut text = String::new();
    if mid_line && io::stderr().is_terminal() {
        text.push('\n');
    }
    text.push_str(&format!("{} {verdict}: {}", style.dim("fumehood:"), words::why(evaluation)));
    let usage = words::usage(evaluation);
    if !usage.is_empty() {
        text.push_str(&format!(" {}", style.dim(&format!("({})", usage.join(", ")))));
    }
    text.push('\n');
    for remark in words::remarks(evaluation) {
        text.push_str(&format!("  {} {remark}\n", style.warn("note:")));
    }
    // Nobody reads stderr any more: the exit status still says it.
    let _ = io::stderr().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_command_is_split_as_a_shell_does_it() {
        let words = |text: &str| build_words(text).map(|words| words.0);
        let wanted = |words: &[&str]| Ok(words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
        assert_eq!(words("make  main"), wanted(&["make", "main"]));
        assert_eq!(
            words(r#"sh -c 'cc -o "a b" x.c && ./"a b"' '' "it's" a\ b"#),
            wanted(&["sh", "-c", r#"cc -o "a b" x.c && ./"a b""#, "", "it's", "a b"])
        );
        assert_eq!(
            words("cc $CFLAGS *.c"),
            wanted(&["cc", "$CFLAGS", "*.c"]),
            "nothing is put in their place"
        );
        for open in ["make 'main", "make \"main", "make main\\"] {
            assert!(words(open).is_err_and(|why| why.contains("a quote is left open")), "{open}");
        }
        for nobody in ["", "  ", "''", "# make"] {
            assert!(words(nobody).is_err_and(|why| why.contains("name the program")), "{nobody}");
        }
    }
}
