//! Black box: commands that are interrupted, lose their reader, their server or their life.

use std::fs;
use std::io::BufReader;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::support::shell::{Shell, text};

/// Longer than anything here takes on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(10);

const UP: &str = "import time\nprint('up', flush=True)\ntime.sleep(60)\n";
const STUBBORN: &str =
    "import signal, time\nsignal.signal(15, signal.SIG_IGN)\nprint('up', flush=True)\ntime.sleep(60)\n";

fn spawn(shell: &Shell, arguments: &[&str]) -> Child {
    shell.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs")
}

fn send(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid")).expect("not 0");
    kill_process(pid, signal).expect("it is there");
}

/// Reads lines until one holds `wanted`.
fn await_line(reader: &mut impl std::io::BufRead, wanted: &str) {
    let mut line = String::new();
    while !line.contains(wanted) {
        line.clear();
        assert!(reader.read_line(&mut line).expect("readable") > 0, "it ended before it said `{wanted}`");
    }
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        std::thread::sleep(POLL);
    }
}

fn rest(mut reader: impl std::io::Read) -> String {
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).expect("readable");
    text(&bytes)
}

fn list(shell: &Shell) -> Vec<Value> {
    let (status, output) = shell.run(&["list", "--all", "-o", "json"]);
    assert_eq!(status, 0, "{}", text(&output.stderr));
    let list: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    list["items"].as_array().expect("items").clone()
}

#[test]
fn ctrl_c_cancels_and_says_how_it_ended() {
    let shell = Shell::new();
    shell.file("up.py", UP);
    let mut run = spawn(&shell, &["run", "up.py"]);
    let mut stdout = BufReader::new(run.stdout.take().expect("piped"));
    await_line(&mut stdout, "up");
    send(&run, Signal::INT);
    assert_eq!(run.wait().expect("ends").code(), Some(130));
    let said = rest(run.stderr.take().expect("piped"));
    assert!(said.contains("cancelling") && said.contains("cancelled: on request"), "{said}");
    assert_eq!(list(&shell)[0]["verdict"], "cancelled");
}

#[test]
fn a_terminal_that_closes_cancels_too() {
    let shell = Shell::new();
    shell.file("up.py", UP);
    // Whoever runs the tests may have them ignore it, as `nohup` does, and children inherit that.
    let mut run = shell.command_by("env", &["--default-signal=HUP"], &["run", "up.py"]);
    let mut run = run.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
    let mut stdout = BufReader::new(run.stdout.take().expect("piped"));
    await_line(&mut stdout, "up");
    send(&run, Signal::HUP);
    assert_eq!(run.wait().expect("ends").code(), Some(130));
    assert_eq!(list(&shell)[0]["verdict"], "cancelled");
}

#[test]
fn a_second_ctrl_c_does_not_wait_for_the_grace() {
    let shell = Shell::new();
    shell.file("stubborn.py", STUBBORN);
    let began = Instant::now();
    let mut run = spawn(&shell, &["run", "--risk-level", "low", "stubborn.py"]);
    await_line(&mut BufReader::new(run.stdout.take().expect("piped")), "up");
    let mut stderr = BufReader::new(run.stderr.take().expect("piped"));
    send(&run, Signal::INT);
    await_line(&mut stderr, "cancelling");
    send(&run, Signal::INT);
    assert_eq!(run.wait().expect("ends").code(), Some(130));
    assert!(began.elapsed() < Duration::from_secs(25), "the grace of 30 s was waited for");
    let said = rest(stderr);
    assert!(said.contains("killing"), "{said}");
    assert_eq!(list(&shell)[0]["signal"], 9);
}

#[test]
fn a_program_whose_reader_went_away_is_ended_as_a_pipe_would_end_it() {
    let shell = Shell::new();
    shell.file("endless.py", "import time\nwhile True:\n    print('x', flush=True)\n    time.sleep(0.01)\n");
    let mut run = spawn(&shell, &["run", "endless.py"]);
    let mut stdout = BufReader::new(run.stdout.take().expect("piped"));
    await_line(&mut stdout, "x");
    drop(stdout);
    assert_eq!(run.wait().expect("ends").code(), Some(141));
    let said = rest(run.stderr.take().expect("piped"));
    assert!(!said.contains("panicked"), "{said}");
    assert_eq!(list(&shell)[0]["verdict"], "cancelled");
}

#[test]
fn looking_takes_nothing_up_and_the_next_that_works_does() {
    let shell = Shell::new();
    shell.file("once.py", "import time\nprint('up', flush=True)\ntime.sleep(1)\n");
    let mut run = spawn(&shell, &["run", "once.py"]);
    await_line(&mut BufReader::new(run.stdout.take().expect("piped")), "up");
    run.kill().expect("it is there");
    run.wait().expect("ends");
    // Each look is a server of its own: one that took work up would break it off at its end.
    let mut left = Value::Null;
    for _ in 0..3 {
        left = list(&shell)[0].clone();
        assert_eq!((&left["state"], &left["attempts"]), (&json!("running"), &json!(1)));
    }
    let id = left["id"].as_str().expect("an id");
    let (status, output) = shell.run(&["get", id, "--wait", "60s", "-o", "json"]);
    assert_eq!(status, 0, "{}", text(&output.stderr));
    let ended: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&ended["verdict"], &ended["evidence"]["suspect"]), (&json!("succeeded"), &json!(true)));
}

/// `fumehood serve` as a process of its own.
struct Serving(Child);

impl Serving {
    fn start(shell: &Shell, listen: &str) -> (Self, String) {
        let child = shell
            .command(&["serve", "--listen", listen])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("it runs");
        let serving = Self(child);
        let endpoint = || -> Option<Value> {
            serde_json::from_str(&fs::read_to_string(shell.path("data/server.json")).ok()?).ok()
        };
        let mine = || endpoint().filter(|endpoint| endpoint["pid"] == serving.0.id());
        until("the start of a server", || mine().is_some());
        let address = mine().expect("announced")["address"].as_str().expect("an address").to_owned();
        (serving, address)
    }

    fn kill(mut self) {
        self.0.kill().expect("it is there");
        self.0.wait().expect("ends");
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // Gone already where a test killed it.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_run_follows_its_evaluation_through_the_death_of_the_server() {
    let shell = Shell::new();
    shell.file(
        "count.py",
        "import time\nfor i in range(12):\n    print(i, flush=True)\n    time.sleep(0.1)\n",
    );
    let (serving, address) = Serving::start(&shell, "127.0.0.1:0");
    let mut run = spawn(&shell, &["run", "count.py"]);
    let mut stdout = BufReader::new(run.stdout.take().expect("piped"));
    await_line(&mut stdout, "3");
    serving.kill();
    let (_serving, _) = Serving::start(&shell, &address);
    let shown = rest(stdout);
    let status = run.wait().expect("ends").code();
    let said = rest(run.stderr.take().expect("piped"));
    assert_eq!(status, Some(0), "{said}");
    assert!(said.contains("attempt 1 was lost; attempt 2 begins"), "{said}");
    let whole: String = (0..12).map(|i| format!("{i}\n")).collect();
    assert!(shown.ends_with(&whole), "{shown}");
    let rest_of_first = shown.strip_suffix(&whole).expect("just seen");
    assert!(rest_of_first.lines().zip(4..).all(|(line, i)| line == i.to_string()), "{shown}");
}

#[test]
fn a_batch_that_was_killed_is_finished_by_the_same_command_and_nothing_is_doubled() {
    const LINES: usize = 60;
    let shell = Shell::new();
    let lines: String = (0..LINES)
        .map(|n| {
            format!("{}\n", json!({"id": n, "code": format!("import time; time.sleep(0.05); print({n})")}))
        })
        .collect();
    shell.file("in.jsonl", &lines);
    let (_serving, _) = Serving::start(&shell, "127.0.0.1:0");
    let arguments = ["batch", "in.jsonl", "-o", "out.jsonl", "--chunk", "7", "--summary", "json"];
    let written = || count_lines(&shell.path("out.jsonl"));
    for kills in 0..3 {
        let (before, mut batch) = (written(), spawn(&shell, &arguments));
        until("a result", || written() > before);
        assert!(written() < LINES, "it ended before it was killed {kills} times");
        batch.kill().expect("it is there");
        batch.wait().expect("ends");
        // What a death in the middle of a line leaves.
        let mut torn = fs::OpenOptions::new().append(true).open(shell.path("out.jsonl")).expect("there");
        std::io::Write::write_all(&mut torn, b"{\"id\": \"ev_").expect("written");
    }
    let (status, output) = shell.run(&arguments);
    assert_eq!(status, 0, "{}", text(&output.stderr));
    let summary: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&summary["evaluations"], &summary["verdicts"]["succeeded"]), (&json!(LINES), &json!(LINES)));
    let results = fs::read_to_string(shell.path("out.jsonl")).expect("written");
    for (n, line) in results.lines().enumerate() {
        let result: Value = serde_json::from_str(line).expect("JSON");
        assert_eq!(
            (&result["labels"]["id"], &result["stdout"]["preview"]),
            (&json!(n.to_string()), &json!(format!("{n}\n")))
        );
    }
    assert_eq!(list(&shell).len(), LINES);
}

fn count_lines(path: &Path) -> usize {
    fs::read(path).unwrap_or_default().iter().filter(|byte| **byte == b'\n').count()
}

#[test]
fn a_terminal_obeys_nothing_that_a_program_wrote_unless_told_to() {
    let shell = Shell::new();
    shell.file(
        "hostile.py",
        "import sys\nsys.stdout.buffer.write(b'\\x1b]0;title\\x07\\xc2\\x9b31m\\xe2\\x80\\xaeabc\\n')\n",
    );
    let shown = |arguments: &str| -> Option<String> {
        let fumehood = format!("{} run {arguments}", env!("CARGO_BIN_EXE_fumehood"));
        let mut command = shell.command(&[]);
        // `script` gives the command a terminal.
        let mut script = std::process::Command::new("script");
        script.args(["-qec", &fumehood, "/dev/null"]).current_dir(shell.dir.path());
        for (name, value) in command.stdin(Stdio::null()).get_envs() {
            value.map(|value| script.env(name, value));
        }
        let output = script.env("NO_COLOR", "1").env("TERM", "xterm").stdin(Stdio::null()).output().ok()?;
        Some(text(&output.stdout))
    };
    let Some(safe) = shown("hostile.py") else {
        // Past the harness, which would swallow it.
        let _ = std::io::Write::write_all(
            &mut std::io::stderr(),
            b"\nSKIPPED: terminal: no `script` (Debian: bsdutils)\n",
        );
        return;
    };
    assert!(safe.contains("^[]0;title^G<U+009B>31m<U+202E>abc"), "{safe:?}");
    assert!(!safe.contains(['\u{7}', '\u{9b}', '\u{202e}']), "{safe:?}");
    assert_eq!(safe.matches("made visible").count(), 1);
    let raw = shown("--raw hostile.py").expect("as before");
    assert!(raw.contains("\u{1b}]0;title\u{7}"), "{raw:?}");
    let document = shown("-o json hostile.py").expect("as before");
    assert!(!document.contains(['\u{1b}', '\u{9b}', '\u{202e}']), "{document:?}");
}
