//! Grey box: a recluse, which is this test program started again, and what it still can do.

use std::fs::{self, File};
use std::io;
use std::net::TcpStream;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::process::Command;

use hood_sandbox::Recluse;

const DIR: &str = "HOOD_TEST_RECLUSE";
/// Nobody's.
const ID: u32 = 1_899_999_998;

#[test]
fn a_recluse_reaches_its_directory_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let own = dir.path().join("own");
    fs::create_dir(&own).unwrap();
    fs::write(dir.path().join("neighbour"), "secret").unwrap();
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&own, Some(ID), Some(ID)).unwrap();
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["recluse::inside", "--exact", "--ignored", "--nocapture", "--test-threads=1"])
        .env(DIR, &own)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("seen to the end") && !said.contains("BROKEN"), "{said}{output:?}");
    assert_eq!(fs::read_to_string(own.join("made")).unwrap(), "bytes");
}

#[test]
#[ignore = "the test above starts it in a process of its own"]
fn inside() {
    let Some(path) = std::env::var_os(DIR) else { return };
    let (path, dir) = (std::path::PathBuf::from(&path), File::open(&path).unwrap());
    let root = rustix::process::geteuid().is_root();
    let recluse = Recluse {
        dir: dir.as_fd(),
        id: root.then_some(ID),
        cpu_seconds: 60,
        address_space: 4 << 30,
        open_files: 64,
    };
    let parent = rustix::process::getppid().unwrap();
    recluse.enter().unwrap();
    let held = |what: &str, result: io::Result<()>| {
        println!("{}: {what}: {result:?}", if result.is_err() { "held" } else { "BROKEN" });
    };
    held("read a file of the host", fs::read("/etc/passwd").map(|_| ()));
    held("read a neighbour", fs::read(path.join("../neighbour")).map(|_| ()));
    held("list the root", fs::read_dir("/").map(|_| ()));
    held("write beside", fs::write(path.join("../beside"), ""));
    held("a device", File::open("/dev/null").map(|_| ()));
    held("a socket", UnixStream::connect("/run/x").map(nothing_of));
    held("the network", TcpStream::connect("127.0.0.1:1").map(nothing_of));
    held("a process", Command::new("/bin/true").status().map(|_| ()));
    held("its own owner", std::os::unix::fs::fchown(&dir, Some(0), Some(0)));
    held(
        "root again",
        rustix::thread::set_thread_res_uid(None, Some(rustix::process::Uid::ROOT), None).map_err(Into::into),
    );
    held("signals", rustix::process::kill_process(parent, rustix::process::Signal::CONT).map_err(Into::into));
    let file = rustix::fs::openat(
        &dir,
        "made",
        rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CREATE,
        rustix::fs::Mode::from_raw_mode(0o644),
    );
    io::Write::write_all(&mut File::from(file.unwrap()), b"bytes").unwrap();
    println!("seen to the end");
}

fn nothing_of<T>(_: T) {}
