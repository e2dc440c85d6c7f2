//! Servers and launchers die at any time; what they leave is found, killed and proven dead.

use std::path::Path;
use std::process::{Command, Stdio};

use hood_sandbox::{SystemCalls, bury_leftovers};

use crate::harness::{Lab, Session, eventually, image, job, start};

fn is_alive(pid: u32) -> bool {
    // A zombie that its parent has not collected is dead.
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn places_die_with_their_launcher() {
    let lab = Lab::new();
    let waiting = job(&["pause"]);
    let mut session = lab.open(&waiting);
    session.assign(&waiting);
    session.await_output("ready");
    let (agent, program) = session.place.pids();
    let launcher = rustix::process::Pid::from_raw(lab.launcher.pid() as i32).unwrap();
    rustix::process::kill_process(launcher, rustix::process::Signal::KILL).unwrap();
    eventually("both are dead", || !is_alive(agent) && !is_alive(program));
    eventually("the launcher is known to be dead", || !lab.launcher.is_alive());
    session.place.destroy().unwrap();
}

/// The other process of the next test: a server that runs a program in a place and is killed.
#[test]
#[ignore = "run by a_killed_server_leaves_nothing_alive in a process of its own"]
fn server_to_be_killed() {
    let state = std::env::var("HOOD_TEST_STATE").unwrap();
    let image = std::env::var("HOOD_TEST_IMAGE").unwrap();
    let launcher = start(Path::new(&state));
    let spread = job(&["spread"]);
    let mut session = Session::open(&launcher, Path::new(&image), &spread);
    session.assign(&spread);
    session.await_start();
    let (agent, program) = session.place.pids();
    std::fs::write(Path::new(&state).join("pids.new"), format!("{agent} {program} {}", launcher.pid()))
        .unwrap();
    std::fs::rename(Path::new(&state).join("pids.new"), Path::new(&state).join("pids")).unwrap();
    loop {
        std::thread::park();
    }
}

#[test]
fn a_killed_server_leaves_nothing_alive() {
    let (image, state) = (image(), tempfile::tempdir().unwrap());
    for _ in 0..3 {
        let mut server = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "burial::server_to_be_killed", "--ignored", "--nocapture"])
            .env("HOOD_TEST_STATE", state.path())
            .env("HOOD_TEST_IMAGE", image.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let pids = state.path().join("pids");
        eventually("the server runs a program", || pids.exists());
        let text = std::fs::read_to_string(&pids).unwrap();
        std::fs::remove_file(&pids).unwrap();
        server.kill().unwrap();
        server.wait().unwrap();
        let buried = bury_leftovers(state.path()).unwrap();
        assert_eq!(buried.len(), 1, "{buried:?}");
        assert_eq!(buried[0].unproven, None);
        // Proven, not hoped: everything is gone by the time that burial returns.
        for pid in text.split(' ').take(2).map(|pid| pid.parse().unwrap()) {
            assert!(!is_alive(pid), "{pid} lives after burial");
        }
        eventually("the launcher has ended", || !is_alive(text.split(' ').nth(2).unwrap().parse().unwrap()));
        let left: Vec<_> = std::fs::read_dir(state.path().join("places")).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }
    assert_eq!(bury_leftovers(state.path()).unwrap(), []);
}

/// A record whose process number has been given to somebody else kills nobody.
#[test]
fn a_reused_pid_is_spared() {
    let state = tempfile::tempdir().unwrap();
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    std::fs::create_dir(state.path().join("places")).unwrap();
    let mut bystander = Command::new("sleep").arg("60").spawn().unwrap();
    let record = format!("boot {}\nprocess {} 1\n", boot.trim(), bystander.id());
    std::fs::write(state.path().join("places/x-1"), record).unwrap();
    let buried = bury_leftovers(state.path()).unwrap();
    assert_eq!((buried.len(), buried[0].killed, &buried[0].unproven), (1, 0, &None));
    assert!(is_alive(bystander.id()));
    bystander.kill().unwrap();
    bystander.wait().unwrap();
}

#[test]
fn a_place_that_cannot_be_made_leaves_nothing() {
    let lab = Lab::new();
    let spec = hood_sandbox::PlaceSpec {
        image: lab.state.join("missing"),
        disk_bytes: 1 << 20,
        disk_inodes: 100,
        calls: SystemCalls::Ordinary,
        builds: false,
    };
    assert!(matches!(lab.launcher.prepare(&spec), Err(hood_sandbox::Error::Image { .. })));
    let file = hood_sandbox::PlaceSpec {
        image: lab.image.clone(),
        disk_bytes: 1 << 20,
        disk_inodes: 1,
        calls: SystemCalls::Ordinary,
        builds: false,
    };
    // Too few inodes even for nothing is not an error; an image that is no directory is.
    lab.launcher.prepare(&file).unwrap().destroy().unwrap();
    let spec = hood_sandbox::PlaceSpec { image: lab.image.join("bin/adversary"), ..file };
    assert!(lab.launcher.prepare(&spec).is_err());
}
