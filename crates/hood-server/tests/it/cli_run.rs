//! Black box: the binary as somebody types it, over a data directory of its own, with and without a
//! server.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::support::server::Server;
use crate::support::shell::{Shell, text};

#[test]
fn run_exits_as_its_program_did_and_tells_our_failures_from_it() {
    let shell = Shell::new();
    shell.file("zero.py", "print('fine')");
    shell.file("seven.py", "raise SystemExit(7)");
    shell.file("segv.py", "import os\nos.kill(os.getpid(), 11)");
    shell.file("slow.py", "import time\ntime.sleep(60)");
    shell.file("big.py", "x = bytearray(1 << 30)\nfor i in range(0, len(x), 4096): x[i] = 1");
    let cases: [(&[&str], i32, &str); 9] = [
        (&["run", "zero.py"], 0, "succeeded"),
        (&["run", "seven.py"], 7, "failed"),
        (&["run", "segv.py"], 128 + 11, "SIGSEGV"),
        (&["run", "--timeout", "300ms", "slow.py"], 124, "timed_out"),
        (&["run", "--memory", "64MiB", "big.py"], 137, "out_of_memory"),
        (&["run", "--memory", "900GiB", "zero.py"], 126, "memory_bytes"),
        (&["run", "--env", "nothing", "zero.py"], 126, "minimal"),
        (&["run", "missing.py"], 125, "missing.py"),
        (&["run", "--exit-code", "verdict", "seven.py"], 1, "failed"),
    ];
    // Said of every run where no group holds this user's programs.
    let holds_memory = !text(&shell.run(&["run", "zero.py"]).1.stderr).contains("memory_limit");
    for (arguments, wanted, said) in cases.into_iter().filter(|case| holds_memory || case.1 != 137) {
        let (status, output) = shell.run(arguments);
        assert_eq!(status, wanted, "{arguments:?}: {}", text(&output.stderr));
        assert!(text(&output.stderr).contains(said), "{arguments:?}: {}", text(&output.stderr));
    }
    let (_, output) = shell.run(&["run", "--quiet", "zero.py"]);
    assert_eq!((text(&output.stdout), text(&output.stderr)), ("fine\n".to_owned(), String::new()));
}

#[test]
fn input_files_and_arguments_arrive_and_bytes_leave_as_they_are() {
    let shell = Shell::new();
    shell.file("data.csv", "a,b\n1,2\n");
    shell.file(
        "script.py",
        "import sys\nsys.stdout.buffer.write(b'\\x00\\xff\\x1b[31m')\n\
         print(sys.argv[1:], open('data.csv').read(), sys.stdin.read(), flush=True)\n",
    );
    let arguments = ["run", "--quiet", "--stdin", "-", "--file", "data.csv", "script.py", "--", "x", "-y"];
    let (status, output) = shell.run_with_stdin(&arguments, b"from stdin");
    assert_eq!(status, 0, "{}", text(&output.stderr));
    let mut wanted = b"\x00\xff\x1b[31m".to_vec();
    wanted.extend(b"['x', '-y'] a,b\n1,2\n from stdin\n");
    assert_eq!(output.stdout, wanted);

    let (status, output) = shell.run_with_stdin(&["run", "-", "-o", "json"], b"print(6*7)");
    assert_eq!(status, 0);
    let whole: Value = serde_json::from_slice(&output.stdout).expect("one JSON document");
    assert_eq!((&whole["verdict"], &whole["stdout"]["preview"]), (&"succeeded".into(), &"42\n".into()));
}

#[test]
fn a_build_command_has_the_words_that_a_shell_would_give_it() {
    let shell = Shell::new();
    shell.file("main.py", "print(open('made by it').read())");
    let build = r#"python3 -c "open('made by it', 'w').write('two words')""#;
    let (status, output) = shell.run(&["run", "--quiet", "--build", build, "main.py"]);
    assert_eq!((status, text(&output.stdout)), (0, "two words\n".to_owned()), "{}", text(&output.stderr));
    let (status, output) = shell.run(&["run", "--build", "make 'main", "main.py"]);
    assert!(status != 0 && text(&output.stderr).contains("a quote is left open"), "{}", text(&output.stderr));
}

#[test]
fn a_batch_goes_on_where_it_was_and_does_nothing_twice() {
    let shell = Shell::new();
    let lines: String = (0..6).map(|n| format!("{{\"id\": \"p{n}\", \"code\": \"print({n})\"}}\n")).collect();
    shell.file("problems.jsonl", &lines);
    let arguments = ["batch", "problems.jsonl", "-o", "results.jsonl"];
    let (status, output) = shell.run(&arguments);
    assert_eq!(status, 0, "{}", text(&output.stderr));
    let results = std::fs::read_to_string(shell.path("results.jsonl")).expect("written");
    let results: Vec<Value> = results.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    for (n, result) in results.iter().enumerate() {
        assert_eq!(result["stdout"]["preview"], format!("{n}\n"), "in the order of the input");
        assert_eq!(result["labels"]["id"], format!("p{n}"));
    }
    assert_eq!(results.len(), 6);
    shell.run(&arguments);
    let (_, listed) = shell.run(&["list", "-o", "json"]);
    let listed: Value = serde_json::from_slice(&listed.stdout).expect("JSON");
    assert_eq!(
        listed["items"].as_array().map(Vec::len),
        Some(6),
        "run again, and nothing was submitted twice"
    );

    shell.file("wrong.jsonl", "{\"code\": \"x\"}\nnot json\n");
    let (status, output) = shell.run(&["batch", "wrong.jsonl", "-o", "w.jsonl"]);
    assert_eq!(status, 125, "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("wrong.jsonl:2"), "{}", text(&output.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_commands_against_a_server() {
    let server = Server::start().await;
    let shell = Shell::new();
    shell.file("token", &server.running.token);
    shell.file("hello.py", "print('hello')");
    let url = server.url("");
    let dir = shell.dir.path().to_owned();
    let call = move |arguments: &[&str]| -> (i32, Output) {
        let mut all: Vec<&str> = arguments.to_vec();
        all.extend(["--server", &url, "--token-file", "token"]);
        let output = command(&dir, &all).output().expect("it runs");
        (output.status.code().expect("an exit status"), output)
    };
    tokio::task::spawn_blocking(move || {
        let (status, output) = call(&["run", "--label", "from=test", "hello.py"]);
        assert_eq!((status, text(&output.stdout)), (0, "hello\n".to_owned()), "{}", text(&output.stderr));
        let (_, output) = call(&["list", "--label", "from=test", "-o", "json"]);
        let listed: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let id = listed["items"][0]["id"].as_str().expect("one").to_owned();
        assert_eq!(text(&call(&["logs", &id]).1.stdout), "hello\n");
        assert!(text(&call(&["events", &id]).1.stdout).contains("finished"));
        assert_eq!(call(&["get", &id]).0, 0);
        assert_eq!(call(&["cancel", &id]).0, 0, "of one that has ended it changes nothing");
        assert_eq!(call(&["delete", &id]).0, 0);
        assert_eq!(call(&["get", &id]).0, 126);
        let (status, output) = call(&["run", "--detach", "hello.py"]);
        assert!(status == 0 && text(&output.stdout).starts_with("ev_"), "{}", text(&output.stdout));
    })
    .await
    .expect("ran");
    server.stop().await;
}

fn command(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fumehood"));
    command.args(arguments).current_dir(dir).env("FUMEHOOD_DATA_DIR", dir.join("data")).stdin(Stdio::null());
    command
}

const UNKNOWN: &str = "ev_00000000000000000000000000000000";

#[test]
fn one_unknown_id_does_not_keep_a_command_from_the_others() {
    let shell = Shell::new();
    shell.file("zero.py", "");
    let (_, output) = shell.run(&["run", "-o", "json", "zero.py"]);
    let evaluation: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let id = evaluation["id"].as_str().expect("an id");
    for command in ["cancel", "delete"] {
        let (status, output) = shell.run(&[command, UNKNOWN, id]);
        let said = text(&output.stderr);
        assert_eq!(status, 126, "{said}");
        assert!(said.contains(UNKNOWN) && !said.contains(id), "{said}");
        assert_eq!(said.matches("o such evaluation").count(), 1, "{said}");
    }
    assert_eq!(shell.run(&["get", id]).0, 126, "it was deleted, though it came second");
}

#[test]
fn a_batch_never_loses_its_input_and_a_refused_one_can_be_put_right() {
    let shell = Shell::new();
    let input = "{\"code\": \"print(1)\"}\n";
    shell.file("in.jsonl", input);
    for arguments in [
        &["batch", "in.jsonl", "-o", "in.jsonl"][..],
        &["batch", "in.jsonl", "-o", "./in.jsonl", "--restart"],
    ] {
        let (status, output) = shell.run(arguments);
        assert_eq!(status, 126);
        assert!(text(&output.stderr).contains("would overwrite the input"), "{}", text(&output.stderr));
        assert_eq!(std::fs::read_to_string(shell.path("in.jsonl")).expect("there"), input);
    }
    shell.file("in.jsonl", "{\"code\": \"print(1)\", \"environment\": \"nowhere\"}\n");
    assert_eq!(shell.run(&["batch", "in.jsonl", "-o", "out.jsonl"]).0, 126);
    shell.file("in.jsonl", input);
    let (status, output) = shell.run(&["batch", "in.jsonl", "-o", "out.jsonl"]);
    assert_eq!(status, 0, "{}", text(&output.stderr));
    let (status, output) = shell.run(&["batch", "in.jsonl", "-o", "out.jsonl"]);
    assert_eq!(status, 0);
    assert!(text(&output.stderr).contains("nothing was run"), "{}", text(&output.stderr));
}
