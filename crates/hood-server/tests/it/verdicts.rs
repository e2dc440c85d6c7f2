//! Black box: each way to end, through the API, in real sandboxes. The program does it; the verdict
//! and its evidence must say so.

mod environments;

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::server::Server;

const MIB: u64 = 1024 * 1024;

fn verdict(evaluation: &Value) -> &str {
    evaluation["verdict"].as_str().unwrap_or("(none)")
}

/// Fails with the whole document, so that a wrong verdict explains itself.
fn expect(evaluation: &Value, wanted: &str) {
    assert_eq!(verdict(evaluation), wanted, "{evaluation:#}");
    let state = match wanted {
        "succeeded" | "cancelled" => wanted,
        _ => "failed",
    };
    assert_eq!(evaluation["state"], state);
    assert!(evaluation["evidence"]["decided_by"].is_string());
    assert_eq!(evaluation["attempts"].as_array().map(Vec::len), Some(1), "{evaluation:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_tells_when_it_was_where() {
    let server = Server::start().await;
    let ended = server.python("print(1)").await;
    let events =
        server.get(&format!("/v1/evaluations/{}/events", ended["id"].as_str().expect("an id"))).await;
    let finished = events["items"].as_array().expect("events").last().expect("the end");
    let detail = &finished["detail"];
    let moments =
        ["accepted_at", "queued_at", "leased_at", "ready_at", "started_at", "ended_at", "committed_at"].map(
            |hop| {
                detail["hops"][hop].as_str().unwrap_or_else(|| panic!("{hop} is not in {detail}")).to_owned()
            },
        );
    assert!(moments.is_sorted(), "{moments:?}");
    assert_eq!((&detail["attempt"], &detail["exit_code"]), (&json!(1), &json!(0)));
    assert!(detail["executor"].as_str().is_some_and(|kind| kind.starts_with("local_")), "{detail}");
    assert!(detail["usage"]["wall_ms"].as_f64().is_some_and(|wall| wall > 0.0), "{detail}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes() {
    let server = Server::start().await;
    for code in [0, 1, 3, 255] {
        let ended = server.python(&format!("raise SystemExit({code})")).await;
        expect(&ended, if code == 0 { "succeeded" } else { "failed" });
        assert_eq!((&ended["exit_code"], &ended["signal"]), (&json!(code), &Value::Null));
        assert_eq!(ended["evidence"]["decided_by"], "wait_status");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fatal_signal() {
    let server = Server::start().await;
    // All whose default is to end the process; 16 is not used by Linux but ends it too.
    for signal in [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 24, 25, 26, 27, 29, 30, 31, 34, 64]
    {
        let code = format!(
            "import os, signal\nif {signal} != 9: signal.signal({signal}, signal.SIG_DFL)\nos.kill(os.getpid(), {signal})\nsignal.pause()"
        );
        let ended = server.python(&code).await;
        // A SIGSYS that it raised itself is its own doing and no violation.
        expect(&ended, "failed");
        assert_eq!((&ended["exit_code"], &ended["signal"]), (&Value::Null, &json!(signal)), "{ended:#}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn time_runs_out() {
    let server = Server::start().await;
    let programs = [
        ("sleeping", "import time\ntime.sleep(60)"),
        ("spinning", "while True: pass"),
        ("ignoring SIGTERM", "import signal, time\nsignal.signal(15, signal.SIG_IGN)\ntime.sleep(60)"),
        (
            "children that survive their parent",
            "import os, signal, time\nsignal.signal(15, signal.SIG_IGN)\nfor _ in range(4):\n    if os.fork() == 0:\n        os.setsid()\n        time.sleep(60)\ntime.sleep(60)",
        ),
    ];
    for (what, code) in programs {
        let began = Instant::now();
        let submission = json!({ "code": code, "limits": { "wall_ms": 500 }, "grace_ms": 300 });
        let ended = server.run(&submission).await;
        expect(&ended, "timed_out");
        let evidence = &ended["evidence"];
        assert_eq!(evidence["kill"]["cause"], "wall_time", "{what}");
        assert_eq!(evidence["limit"], json!({ "name": "wall_ms", "allowed": 500 }), "{what}");
        let wall = ended["usage"]["wall_ms"].as_f64().expect("measured");
        // The supervisor hears of the start a moment after the agent's clock began to run.
        assert!((450.0..5000.0).contains(&wall), "{what}: {wall} ms");
        assert!(began.elapsed() < Duration::from_secs(30), "{what}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_grace_is_the_programs_to_use_and_is_ended_at_once_when_it_goes() {
    let server = Server::start().await;
    let code = "import signal, sys, time\n\
        def bye(*_):\n    print('bye', flush=True)\n    sys.exit(7)\n\
        signal.signal(15, bye)\nprint('ready', flush=True)\ntime.sleep(60)";
    let began = Instant::now();
    let ended = server.run(&json!({ "code": code, "limits": { "wall_ms": 400 }, "risk_level": "low" })).await;
    expect(&ended, "timed_out");
    assert_eq!(ended["exit_code"], 7);
    assert_eq!(server.bytes(&ended, "stdout").await, b"ready\nbye\n");
    assert!(began.elapsed() < Duration::from_secs(20), "a grace of 30 s was waited out");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cpu_time_runs_out() {
    let server = Server::start().await;
    if !server.has_groups().await {
        return server.stop().await;
    }
    let spin = "import os\nfor _ in range(3): os.fork()\nwhile True: pass";
    let ended = server.run(&json!({ "code": spin, "limits": { "cpu_ms": 400, "wall_ms": 30_000 } })).await;
    expect(&ended, "timed_out");
    assert_eq!(ended["evidence"]["limit"], json!({ "name": "cpu_ms", "allowed": 400 }));
    assert_eq!(ended["evidence"]["kill"]["cause"], "cpu_time");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_runs_out() {
    let server = Server::start().await;
    if !server.has_groups().await {
        return server.stop().await;
    }
    let limits = json!({ "memory_bytes": 64 * MIB, "wall_ms": 60_000 });
    let programs = [
        ("one process", "x = bytearray(1 << 30)\nfor i in range(0, len(x), 4096): x[i] = 1"),
        (
            "many processes",
            "import os\nfor _ in range(6): os.fork()\nx = []\nwhile True: x.append(bytearray(b'x' * (1 << 20)))",
        ),
        (
            "a child only, and the program then exits 0",
            "import os\npid = os.fork()\nif pid == 0:\n    x = []\n    while True: x.append(bytearray(b'x' * (1 << 20)))\nos.waitpid(pid, 0)\nos._exit(0)",
        ),
        ("files", "f = open('/tmp/x', 'wb')\nwhile True: f.write(b'x' * (1 << 20)); f.flush()"),
    ];
    for (what, code) in programs {
        let ended = server.run(&json!({ "code": code, "limits": limits })).await;
        if what == "files" {
            // Disk is at most memory, so the disk may be full first: both are the program's doing.
            assert!(["out_of_memory", "failed"].contains(&verdict(&ended)), "{ended:#}");
            continue;
        }
        expect(&ended, "out_of_memory");
        assert!(ended["evidence"]["oom_kills"].as_u64() >= Some(1), "{what}: {ended:#}");
        assert_eq!(
            ended["evidence"]["limit"],
            json!({ "name": "memory_bytes", "allowed": 64 * MIB }),
            "{what}"
        );
        assert!(ended["usage"]["memory_peak_bytes"].as_u64() <= Some(64 * MIB), "{what}: {ended:#}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_bomb_is_held_by_the_process_limit() {
    let server = Server::start().await;
    if !server.has_groups().await {
        return server.stop().await;
    }
    let bomb = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass";
    let limits = json!({ "processes": 20, "wall_ms": 1000 });
    let ended = server.run(&json!({ "code": bomb, "limits": limits, "grace_ms": 0 })).await;
    expect(&ended, "timed_out");
    assert!(ended["evidence"]["forks_refused"].as_u64() > Some(0), "{ended:#}");
    if let Some(peak) = ended["usage"]["processes_peak"].as_u64() {
        assert!(peak <= 20, "{ended:#}");
    }
    // The limit is exact: one less than it can be forked beside the program itself.
    let count = "import os, time\nn = 0\ntry:\n    while True:\n        if os.fork() == 0: time.sleep(60)\n        n += 1\nexcept OSError: print(n)\nos._exit(0)";
    let ended = server.run(&json!({ "code": count, "limits": { "processes": 20 } })).await;
    expect(&ended, "succeeded");
    assert_eq!(server.bytes(&ended, "stdout").await, b"19\n");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_of_output() {
    let server = Server::start().await;
    let one = "import sys\nfor _ in range(100): sys.stdout.buffer.write(b'o' * (1 << 20))";
    let both = "import sys\nfor _ in range(100):\n    sys.stdout.buffer.write(b'o' * (1 << 20)); sys.stderr.buffer.write(b'e' * (1 << 20))";
    for (code, streams) in [(one, &["stdout"][..]), (both, &["stdout", "stderr"])] {
        let limits = json!({ "output_bytes": 1_000_000 });
        let ended = server.run(&json!({ "code": code, "limits": limits })).await;
        expect(&ended, "succeeded");
        for stream in streams {
            assert_eq!(ended[*stream]["bytes"], 100 * MIB, "{ended:#}");
            assert_eq!(
                (&ended[*stream]["kept_bytes"], &ended[*stream]["truncated"]),
                (&json!(1_000_000), &json!(true))
            );
            let kept = server.bytes(&ended, stream).await;
            assert!(kept.len() == 1_000_000 && kept.iter().all(|byte| *byte == stream.as_bytes()[3]));
        }
        let ended = server.run(&json!({ "code": code, "limits": limits, "on_output_limit": "fail" })).await;
        expect(&ended, "output_limit");
        assert_eq!(ended["evidence"]["limit"], json!({ "name": "output_bytes", "allowed": 1_000_000 }));
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn output_limits_at_their_edge() {
    let server = Server::start().await;
    for (written, truncated) in [(999, false), (1000, false), (1001, true)] {
        let code = format!("import sys\nsys.stdout.write('x' * {written})");
        let submission =
            json!({ "code": code, "limits": { "output_bytes": 1000 }, "on_output_limit": "fail" });
        let ended = server.run(&submission).await;
        expect(&ended, if truncated { "output_limit" } else { "succeeded" });
        assert_eq!(ended["stdout"]["kept_bytes"], written.min(1000));
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn disks_that_fill() {
    let server = Server::start().await;
    let bytes = "try:\n    f = open('/tmp/x', 'wb')\n    while True: f.write(b'x' * 65536); f.flush()\nexcept OSError as e: print(e.errno, f.tell())\n";
    let limits = json!({ "disk_bytes": 8 * MIB, "file_bytes": 64 * MIB });
    let ended = server.run(&json!({ "code": bytes, "limits": limits })).await;
    expect(&ended, "succeeded");
    let said = String::from_utf8(server.bytes(&ended, "stdout").await).expect("text");
    let (errno, held) = said.trim().split_once(' ').expect("two numbers");
    assert_eq!(errno, "28", "ENOSPC");
    assert!(held.parse::<u64>().expect("a number") <= 8 * MIB);

    let inodes = "n = 0\ntry:\n    while True:\n        open(f'/tmp/{n}', 'w').close(); n += 1\nexcept OSError as e: print(e.errno, n)\n";
    let ended = server.run(&json!({ "code": inodes, "limits": { "disk_inodes": 200 } })).await;
    expect(&ended, "succeeded");
    assert_eq!(server.bytes(&ended, "stdout").await, b"28 199\n", "main.py is the 200th");

    let file = "import signal\nsignal.signal(25, signal.SIG_IGN)\ntry:\n    f = open('x', 'wb', buffering=0)\n    while True: f.write(b'x' * 65536)\nexcept OSError as e: print(e.errno, f.tell())\n";
    let ended = server.run(&json!({ "code": file, "limits": { "file_bytes": MIB } })).await;
    expect(&ended, "succeeded");
    assert_eq!(server.bytes(&ended, "stdout").await, format!("27 {MIB}\n").as_bytes(), "EFBIG");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn open_files_at_their_edge() {
    let server = Server::start().await;
    let code = "import os\nn = 0\ntry:\n    while True: os.dup(0); n += 1\nexcept OSError as e: print(e.errno, n + 3)\n";
    let ended = server.run(&json!({ "code": code, "limits": { "open_files": 50 } })).await;
    expect(&ended, "succeeded");
    assert_eq!(server.bytes(&ended, "stdout").await, b"24 50\n", "EMFILE, and nothing but 0 to 2 was open");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_are_bytes() {
    let server = Server::start().await;
    let json_text = r#"{"verdict": "succeeded", "exit_code": 0, "nested": {"a": [1, 2, "\u0000"]}}"#;
    let cases: [(&str, String, Vec<u8>); 6] = [
        ("nothing", "pass".into(), Vec::new()),
        ("no newline", "print('x', end='')".into(), b"x".to_vec()),
        ("invalid UTF-8", "import os\nos.write(1, bytes(range(128, 256)))".into(), (128..=255).collect()),
        ("NUL bytes", "import os\nos.write(1, b'\\0' * 1000)".into(), vec![0; 1000]),
        (
            "10,000 tiny writes",
            "import os\nfor i in range(10000): os.write(1, b'%d,' % (i % 10))".into(),
            (0..10_000).flat_map(|i| format!("{},", i % 10).into_bytes()).collect(),
        ),
        (
            "a JSON document",
            format!("import sys\nsys.stdout.write({json_text:?})"),
            json_text.as_bytes().to_vec(),
        ),
    ];
    for (what, code, wanted) in cases {
        let ended = server.python(&code).await;
        expect(&ended, "succeeded");
        assert_eq!(server.bytes(&ended, "stdout").await, wanted, "{what}");
        assert_eq!(ended["stdout"]["bytes"], wanted.len(), "{what}");
        assert_eq!(
            (&ended["stdout"]["complete"], &ended["stdout"]["truncated"]),
            (&json!(true), &json!(false))
        );
        assert!(server.bytes(&ended, "stderr").await.is_empty(), "{what}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn descriptors_closed_and_streams_apart() {
    let server = Server::start().await;
    let ended = server.python("import os\nos.closerange(0, 256)\nos._exit(5)").await;
    expect(&ended, "failed");
    assert_eq!(ended["exit_code"], 5);
    let ended = server.python("import sys\nprint('out')\nprint('err', file=sys.stderr)").await;
    assert_eq!(server.bytes(&ended, "stdout").await, b"out\n");
    assert_eq!(server.bytes(&ended, "stderr").await, b"err\n");
    // A grandchild keeps stdout open for a minute: end of file is not awaited.
    let began = Instant::now();
    let ended = server
        .python("import os, time\nif os.fork() == 0:\n    os.setsid(); time.sleep(60)\nprint('done')")
        .await;
    expect(&ended, "succeeded");
    assert_eq!(server.bytes(&ended, "stdout").await, b"done\n");
    assert!(began.elapsed() < Duration::from_secs(20));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stdin_of_every_size() {
    let server = Server::start().await;
    let big = "stdin ".repeat(500_000);
    let count = "import sys\nprint(len(sys.stdin.buffer.read()))";
    for (stdin, wanted) in [("", "0\n"), ("x", "1\n"), (&big, "3000000\n")] {
        let ended = server.run(&json!({ "code": count, "stdin": stdin })).await;
        expect(&ended, "succeeded");
        assert_eq!(server.bytes(&ended, "stdout").await, wanted.as_bytes());
    }
    // Nobody reads it, and nobody waits for it to be read.
    expect(&server.run(&json!({ "code": "pass", "stdin": big })).await, "succeeded");
    let bytes = json!({ "code": "import sys\nsys.stdout.buffer.write(sys.stdin.buffer.read())", "stdin_base64": "/wD+" });
    let ended = server.run(&bytes).await;
    assert_eq!(server.bytes(&ended, "stdout").await, [0xff, 0x00, 0xfe]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_started() {
    let server = Server::start().await;
    let ended = server.run(&json!({ "command": ["no-such-program"] })).await;
    expect(&ended, "failed");
    assert_eq!((&ended["exit_code"], &ended["evidence"]["exec_error"]["errno"]), (&json!(127), &json!(2)));
    let text = json!({ "files": [{ "path": "a", "content": "no program" }], "command": ["./a"] });
    let ended = server.run(&text).await;
    expect(&ended, "failed");
    assert_eq!((&ended["exit_code"], &ended["evidence"]["exec_error"]["errno"]), (&json!(126), &json!(13)));
    let script = |first: &str| json!({ "files": [{ "path": "a", "content": first, "executable": true }], "command": ["./a"] });
    for (first, told) in [
        ("#!/opt/no/such/shell -e\n", "the interpreter `/opt/no/such/shell`"),
        ("#!/bin/sh\r\necho\r\n", "as lines do on Windows"),
    ] {
        let ended = server.run(&script(first)).await;
        expect(&ended, "failed");
        let error = &ended["evidence"]["exec_error"];
        assert_eq!((&ended["exit_code"], &error["errno"]), (&json!(127), &json!(2)));
        assert!(error["message"].as_str().is_some_and(|said| said.contains(told)), "{ended:#}");
    }
    for (submission, told) in [
        (script("#!/opt/\u{1b}[2J\u{202e}\n"), "`/opt/^[[2J<U+202E>`"),
        (script("#!/etc\n"), "`/etc`, is a directory"),
        (json!({ "command": ["/etc"] }), "it is a directory"),
        (
            json!({
                "build": { "command": ["python3", "-c", "import os; open('a', 'w').write('#!/nope\\n'); os.chmod('a', 0o111)"] },
                "command": ["./a"],
            }),
            "may be executed, and not be read",
        ),
        (
            json!({ "command": ["prog"], "env": { "PATH": "/nowhere:".repeat(65) } }),
            "first 64 directories of PATH",
        ),
    ] {
        let ended = server.run(&submission).await;
        expect(&ended, "failed");
        let message = ended["evidence"]["exec_error"]["message"].as_str();
        assert!(message.is_some_and(|said| said.contains(told)), "{ended:#}");
    }
    let garbage = json!({ "files": [{ "path": "a", "content": "no program", "executable": true }], "command": ["./a"] });
    let ended = server.run(&garbage).await;
    expect(&ended, "failed");
    assert_eq!(ended["evidence"]["decided_by"], "exec_error", "{ended:#}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_static_binary_runs_and_code_only_lies_there() {
    let server = Server::start().await;
    let binary = base64(hood_dispatch::AGENT);
    let submission = json!({
        "files": [{ "path": "bin/prog", "content_base64": binary, "executable": true }],
        "code": "not python at all (",
        "command": ["bin/prog", "--version"],
    });
    let ended = server.run(&submission).await;
    assert_ne!(verdict(&ended), "infrastructure_error", "{ended:#}");
    assert!(ended["evidence"]["exec_error"].is_null(), "{ended:#}");
    let listed = json!({ "code": "x", "command": ["python3", "-c", "print(open('main.py').read())"] });
    assert_eq!(server.bytes(&server.run(&listed).await, "stdout").await, b"x\n");
    server.stop().await;
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_architecture_is_a_violation() {
    let server = Server::start().await;
    // int 0x80 with the i386 number of getpid.
    let code = "import ctypes, mmap\n\
        m = mmap.mmap(-1, 4096, prot=7)\n\
        m.write(b'\\xb8\\x14\\x00\\x00\\x00\\xcd\\x80\\xc3')\n\
        ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(m)))()\n\
        print('survived')";
    let ended = server.python(code).await;
    expect(&ended, "policy_violation");
    assert!(ended["evidence"]["violation"].is_string(), "{ended:#}");
    assert!(server.bytes(&ended, "stdout").await.is_empty());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_program_sees() {
    let server = Server::start().await;
    let code = "import json, os, sys\nprint(json.dumps([sys.argv, __file__, __name__, sys.path[0], os.getcwd(), dict(os.environ), sorted(os.listdir('.')), open('d/f.txt').read()]))";
    let submission = json!({
        "code": code,
        "args": ["a b", "ü", ""],
        "env": { "ADDED": "1", "LANG": "C" },
        "files": [{ "path": "d/f.txt", "content": "inside" }],
    });
    let ended = server.run(&submission).await;
    expect(&ended, "succeeded");
    let seen: Value = serde_json::from_slice(&server.bytes(&ended, "stdout").await).expect("JSON");
    let environment = json!({
        "PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/eval", "TMPDIR": "/tmp", "LANG": "C",
        "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1", "ADDED": "1",
    });
    let mut wanted = json!([
        ["main.py", "a b", "ü", ""],
        "/eval/main.py",
        "__main__",
        "/eval",
        "/eval",
        environment,
        ["d", "main.py"],
        "inside"
    ]);
    // CPython sets LC_CTYPE itself when it coerces the C locale.
    if seen[5]["LC_CTYPE"].is_string() {
        wanted[5]["LC_CTYPE"] = seen[5]["LC_CTYPE"].clone();
    }
    assert_eq!(seen, wanted);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_at_every_stage() {
    let server = Server::with(|config| config.worker.places = 1).await;
    let sleeper = json!({ "code": "import time\nprint('up', flush=True)\ntime.sleep(60)" });
    let running = server.submit(&sleeper).await;
    let queued = server.submit(&sleeper).await;
    let cancel = async |id: &str, body: Value| {
        let path = format!("/v1/evaluations/{id}/cancel");
        let (status, answer) = server.request(reqwest::Method::POST, &path, Some(&body)).await;
        assert_eq!(status, 202, "{answer}");
    };
    cancel(&queued, json!({})).await;
    let ended = server.end(&queued).await;
    assert_eq!((verdict(&ended), &ended["attempts"]), ("cancelled", &json!([])));
    while server.get(&format!("/v1/evaluations/{running}")).await["stdout"]["bytes"] != 3 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    cancel(&running, json!({ "grace_ms": 0 })).await;
    cancel(&running, json!({ "grace_ms": 0 })).await;
    let ended = server.end(&running).await;
    expect(&ended, "cancelled");
    assert_eq!(ended["evidence"]["kill"]["cause"], "cancel");
    cancel(&running, json!({})).await;
    assert_eq!(
        server.get(&format!("/v1/evaluations/{running}")).await,
        ended,
        "a terminal one is left as it is"
    );
    server.stop().await;
}
