//! White box: a process that only turns bytes into bytes, tried from inside.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};

const DEED: &str = "HOOD_TEST_FILTER_DEED";

/// Not a test of its own: the process that confines itself and then does what it is told.
#[test]
#[ignore = "started by other tests"]
fn child_that_is_confined() {
    let Ok(deed) = std::env::var(DEED) else { return };
    let mut input = File::from(std::io::stdin().as_fd().try_clone_to_owned().expect("a copy"));
    hood_sandbox::inside::become_filter(input.as_fd()).expect("confined");
    match deed.as_str() {
        "filter" => {
            let mut bytes = [0; 5];
            input.read_exact(&mut bytes).expect("may read");
            rustix::io::write(std::io::stdout().as_fd(), &bytes).expect("may write");
        }
        "open" => drop(File::open("/etc/passwd")),
        "connect" => drop(std::net::TcpStream::connect("127.0.0.1:1")),
        "execute" => drop(Command::new("/bin/true").status()),
        "kill" => _ = rustix::process::test_kill_process(rustix::process::Pid::INIT),
        other => panic!("no deed: {other}"),
    }
    // Closing asks first whether it is open, where the standard library is built to look.
    std::mem::forget(input);
    std::process::exit(7);
}

fn child(deed: &str) -> (Option<i32>, Option<i32>, Vec<u8>) {
    let mut command = Command::new(std::env::current_exe().expect("known"));
    let mut child = command
        .args(["--exact", "filter::child_that_is_confined", "--ignored", "--nocapture", "--test-threads=1"])
        .env(DEED, deed)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("starts");
    // One that is killed for its deed may be gone before it is fed; what it made of the bytes is told.
    let _ = child.stdin.take().expect("piped").write_all(b"bytes");
    let output = child.wait_with_output().expect("ends");
    (output.status.code(), output.status.signal(), output.stdout)
}

#[test]
fn it_reads_and_writes() {
    let (code, signal, stdout) = child("filter");
    assert_eq!((code, signal), (Some(7), None), "{}", String::from_utf8_lossy(&stdout));
    assert!(stdout.ends_with(b"bytes"));
}

#[test]
fn whatever_else_it_tries_kills_it() {
    for deed in ["open", "connect", "execute", "kill"] {
        let (code, signal, _) = child(deed);
        assert_eq!((code, signal), (None, Some(libc::SIGSYS)), "{deed}");
    }
}
