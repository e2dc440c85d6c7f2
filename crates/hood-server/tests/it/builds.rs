//! Black box: what is built and then run. The build is as hostile as the program, the program knows
//! nothing of it but its files, and a build that fails is an outcome of its own.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::server::Server;

const MIB: u64 = 1024 * 1024;

/// Builds with one Python program, then runs another.
fn two(build: &str, code: &str) -> Value {
    json!({ "build": { "command": ["python3", "-c", build] }, "code": code })
}

fn expect(evaluation: &Value, verdict: &str, of_build: &str) {
    assert_eq!(evaluation["verdict"], verdict, "{evaluation:#}");
    assert_eq!(evaluation["build"]["verdict"], of_build, "{evaluation:#}");
    assert_eq!(evaluation["attempts"].as_array().map(Vec::len), Some(1), "never tried again: {evaluation:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_leaves_its_files_to_the_program() {
    let server = Server::start().await;
    let build = "import os, sys\nos.makedirs('out/deep')\nopen('out/deep/made', 'w').write('product')\n\
                 os.chmod('out/deep/made', 0o600)\nprint('to stdout', flush=True)\nprint('to stderr', file=sys.stderr)";
    let mut submission =
        two(build, "import sys\nprint(open('out/deep/made').read(), sys.argv, sys.stdin.read())");
    submission["args"] = json!(["a", "b"]);
    submission["stdin"] = json!("input");
    let ended = server.run(&submission).await;
    expect(&ended, "succeeded", "succeeded");
    assert_eq!(ended["stdout"]["preview"], "product ['main.py', 'a', 'b'] input\n");
    assert_eq!(ended["stderr"]["bytes"], 0);
    assert_eq!(server.bytes(&ended, "build").await, b"to stdout\nto stderr\n");
    assert_eq!(ended["build"]["output"]["bytes"], 20);
    assert_eq!(ended["build"]["exit_code"], 0);
    assert!(
        ended["build"]["limits"]["wall_ms"].is_number() && ended["build"]["usage"]["wall_ms"].is_number()
    );
    // An evaluation without a build says so.
    assert_eq!(server.python("pass").await["build"], Value::Null);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_way_in_which_a_build_fails() {
    let server = Server::start().await;
    let ways = [
        ("raise SystemExit(3)", json!({}), "failed", json!([3, null, null])),
        ("import os; os.kill(os.getpid(), 11)", json!({}), "failed", json!([null, 11, null])),
        ("import time; time.sleep(60)", json!({"wall_ms": 300}), "timed_out", json!([null, null, "wall_ms"])),
        ("while True: pass", json!({"cpu_ms": 300}), "timed_out", json!([null, null, "cpu_ms"])),
        (
            "x = bytearray(256 << 20)",
            json!({"memory_bytes": 48 * MIB}),
            "out_of_memory",
            json!([null, null, "memory_bytes"]),
        ),
        (
            "print('x' * 100_000)",
            json!({"output_bytes": 1000}),
            "output_limit",
            json!([null, null, "output_bytes"]),
        ),
    ];
    let has_groups = server.has_groups().await;
    for (build, limits, how, evidence) in ways {
        if !has_groups && (how == "out_of_memory" || limits["cpu_ms"].is_number()) {
            continue;
        }
        let mut submission = two(build, "print('ran')");
        submission["build"]["limits"] = limits;
        submission["on_output_limit"] = json!("fail");
        submission["grace_ms"] = json!(100);
        let ended = server.run(&submission).await;
        expect(&ended, "build_failed", how);
        assert_eq!((&ended["state"], &ended["evidence"]["decided_by"]), (&json!("failed"), &json!("build")));
        assert_eq!(ended["stdout"]["bytes"], 0, "the program never ran");
        assert_eq!(ended["usage"]["wall_ms"], Value::Null);
        for (field, wanted) in ["exit_code", "signal"].iter().zip(evidence.as_array().expect("a list")) {
            let told = !wanted.is_null();
            assert!(!told || (ended[field] == *wanted && ended["build"][field] == *wanted), "{ended:#}");
        }
        for of in [&ended["evidence"], &ended["build"]["evidence"]] {
            assert!(evidence[2].is_null() || of["limit"]["name"] == evidence[2], "{ended:#}");
        }
    }
    let missing = json!({"build": {"command": ["no-such-compiler"]}, "code": "print('ran')"});
    let ended = server.run(&missing).await;
    expect(&ended, "build_failed", "failed");
    assert_eq!(ended["exit_code"], 127);
    assert!(
        ended["evidence"]["exec_error"]["message"].as_str().is_some_and(|m| m.contains("no-such-compiler"))
    );
    server.stop().await;
}

/// It leaves behind daemons of every kind, each of which goes on writing and ignores what can be
/// ignored, and one that forks for ever.
const DAEMONS: &str = "
import os, signal, sys, time
def daemon(body):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for number in range(1, 32):
                try: signal.signal(number, signal.SIG_IGN)
                except (OSError, ValueError): pass
            body()
        os._exit(0)
    os.wait()
def writes():
    fd = os.open('alive', os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    while True:
        os.write(fd, b'.')
        time.sleep(0.001)
def forks():
    while True:
        try: os.fork()
        except OSError:
            open('full', 'w').close()
            time.sleep(0.001)
daemon(writes)
daemon(lambda: [print('still here', flush=True) or time.sleep(0.01) for _ in iter(int, 1)])
daemon(forks)
while not (os.path.exists('alive') and os.path.exists('full')): time.sleep(0.01)
";

const LOOKS_AROUND: &str = "
import os, time
def written(): return os.stat('alive').st_size
before = written()
time.sleep(0.5)
print(before > 0, written() - before)
children = []
for _ in range(20):
    pid = os.fork()
    if pid == 0:
        time.sleep(0.2)
        os._exit(0)
    children.append(pid)
print(len(children))
";

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_build_lives_on() {
    let server = Server::start().await;
    let mut submission = two(DAEMONS, LOOKS_AROUND);
    submission["build"]["limits"] = json!({"processes": 40});
    submission["limits"] = json!({"processes": 24, "wall_ms": 20_000});
    let ended = server.run(&submission).await;
    expect(&ended, "succeeded", "succeeded");
    assert_eq!(ended["stdout"]["preview"], "True 0\n20\n", "{ended:#}");
    if server.has_groups().await {
        assert!(ended["build"]["evidence"]["forks_refused"].as_u64() > Some(0), "{ended:#}");
        assert_eq!(ended["evidence"]["forks_refused"], 0, "the program's group is its own");
    }
    server.stop().await;
}

/// The program's starter waits meanwhile, with rights that no program has.
#[tokio::test(flavor = "multi_thread")]
async fn a_build_cannot_reach_the_program_that_waits() {
    let server = Server::start().await;
    let build = "
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
for pid in [*range(1, 64), -1]:
    if pid in (os.getpid(), os.getppid()) and pid != 1: continue
    for signal in (9, 19, 15):
        try: os.kill(pid, signal)
        except OSError: pass
    if pid > 0:
        for request in (16, 0x4206): libc.ptrace(request, pid, 0, 0)
        for name in ('mem', 'environ', 'fd', 'root', 'cwd'):
            path = f'/proc/{pid}/{name}'
            try:
                os.listdir(path) if name in ('fd', 'root', 'cwd') else open(path, 'rb').read(1)
                print('reached', path)
            except OSError: pass
print(sorted(int(pid) for pid in os.listdir('/proc') if pid.isdigit()) == [os.getpid()])
";
    let ended = server.run(&two(build, "print('ran')")).await;
    expect(&ended, "succeeded", "succeeded");
    assert_eq!(server.bytes(&ended, "build").await, b"True\n", "{ended:#}");
    assert_eq!(ended["stdout"]["preview"], "ran\n");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_is_measured_and_limited_by_itself() {
    let server = Server::start().await;
    if !server.has_groups().await {
        return;
    }
    let build = "import time\nx = bytearray(120 << 20)\nend = time.process_time() + 0.7\nwhile time.process_time() < end: pass";
    let mut submission = two(build, "print(sum(range(1000)))");
    submission["limits"] = json!({"memory_bytes": 32 * MIB, "cpu_ms": 400, "wall_ms": 600});
    submission["build"]["limits"] = json!({"memory_bytes": 256 * MIB});
    let ended = server.run(&submission).await;
    expect(&ended, "succeeded", "succeeded");
    let (program, build) = (&ended["usage"], &ended["build"]["usage"]);
    assert!(build["memory_peak_bytes"].as_u64() > Some(120 * MIB), "{ended:#}");
    assert!(program["memory_peak_bytes"].as_u64() < Some(32 * MIB), "{ended:#}");
    let cpu = |usage: &Value| usage["cpu_user_ms"].as_f64().zip(usage["cpu_system_ms"].as_f64());
    let (program, build) = (cpu(program).expect("measured"), cpu(build).expect("measured"));
    assert!(build.0 + build.1 > 600.0 && program.0 + program.1 < 400.0, "{ended:#}");
    assert_eq!(ended["build"]["limits"]["memory_bytes"], 256 * MIB);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_one_disk() {
    let server = Server::start().await;
    let write = |name: &str, mib: u64| format!("open('{name}', 'wb').write(bytes({mib} << 20))");
    let mut submission = two(&write("built", 20), &write("more", 10));
    submission["limits"] = json!({"disk_bytes": 24 * MIB, "file_bytes": 24 * MIB});
    let ended = server.run(&submission).await;
    expect(&ended, "failed", "succeeded");
    assert!(
        ended["stderr"]["preview"].as_str().is_some_and(|said| said.contains("No space left")),
        "{ended:#}"
    );
    submission["code"] = json!("import os\nos.remove('built')\n".to_owned() + &write("more", 10));
    expect(&server.run(&submission).await, "succeeded", "succeeded");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_ends_the_build_and_the_program_never_runs() {
    let server = Server::start().await;
    let mut submission = two("print('up', flush=True)\nimport time\ntime.sleep(60)", "print('ran')");
    submission["grace_ms"] = json!(100);
    let id = server.submit(&submission).await;
    loop {
        let now = server.get(&format!("/v1/evaluations/{id}")).await;
        if now["build"]["output"]["preview"] == "up\n" {
            break;
        }
        assert_eq!(now["verdict"], Value::Null, "{now:#}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    server.request(reqwest::Method::POST, &format!("/v1/evaluations/{id}/cancel"), Some(&json!({}))).await;
    let ended = server.end(&id).await;
    expect(&ended, "cancelled", "cancelled");
    assert_eq!(ended["stdout"]["bytes"], 0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_built_is_refused_with_its_field() {
    let server = Server::start().await;
    let refused = [
        (json!({"code": "", "build": {}}), "build.command"),
        (json!({"code": "", "build": {"command": []}}), "build.command"),
        (json!({"code": "", "build": {"command": ["a\u{0}"]}}), "build.command[0]"),
        (
            json!({"code": "", "build": {"command": ["a"], "limits": {"disk_bytes": 8192}}}),
            "build.limits.disk_bytes",
        ),
        (json!({"code": "", "build": {"command": ["a"], "limits": {"wall_ms": 1}}}), "build.limits.wall_ms"),
        (json!({"build": {"command": ["a"]}}), "code"),
    ];
    for (submission, path) in refused {
        let (status, problem) =
            server.request(reqwest::Method::POST, "/v1/evaluations", Some(&submission)).await;
        assert_eq!((status, problem["errors"][0]["path"].as_str()), (422, Some(path)), "{problem:#}");
    }
    let unknown = json!({"code": "", "build": {"argv": ["a"]}});
    let (status, _) = server.request(reqwest::Method::POST, "/v1/evaluations", Some(&unknown)).await;
    assert!(status == 400 || status == 422);
    server.stop().await;
}
