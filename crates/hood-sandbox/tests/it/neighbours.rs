//! Two places at once: neither sees, blocks or starves the other, nor the host.

use std::io::Write as _;

use crate::harness::{Lab, job, skip};

#[test]
fn an_image_is_shared_and_nobody_notices() {
    let lab = Lab::new();
    let mut watcher = job(&["watch-image"]);
    watcher.assignment.wall_ms = 30_000;
    let mut session = lab.open(&watcher);
    // As `assign`, but stdin stays open: its first byte is the signal to look.
    session.send(&hood_wire::agent::HostFrame::Assignment(watcher.assignment.clone()));
    session.send(&hood_wire::agent::HostFrame::Go);
    session.await_output("watching");
    lab.run(&job(&["lock-image"])).assert_held();
    session.send(&hood_wire::agent::HostFrame::Stdin(b"x".to_vec()));
    session.finish().assert_held();
}

#[test]
fn abstract_sockets_stay_inside() {
    let lab = Lab::new();
    let listener = job(&["abstract", "listen"]);
    let mut session = lab.open(&listener);
    session.assign(&listener);
    session.await_output("ready");
    lab.run(&job(&["abstract", "connect"])).assert_held();
    session.send(&hood_wire::agent::HostFrame::Kill);
    session.finish();
}

#[test]
fn an_exhauster_starves_nobody() {
    let lab = Lab::new();
    let mut greedy = job(&["exhaust"]);
    greedy.disk_inodes = 100_000;
    let mut session = lab.open(&greedy);
    session.assign(&greedy);
    let text = session.await_output("exhausted");
    assert!(!text.contains("BROKEN"), "{text}");
    let too_many = "held: message queue (-1, No file descriptors available)";
    assert!(text.contains(too_many), "refused for another reason than its limit: {text}");
    let number = |key: &str| -> u64 {
        let rest = text.split(key).nth(1).unwrap();
        rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap()
    };
    assert!(number("inotify=") <= 16, "{text}");
    assert!(number("watches=") <= 4096, "{text}");
    assert!(number("signals=") <= 256, "{text}");
    assert!(number("timers=") <= 256, "{text}");
    lab.run(&job(&["modest"])).assert_held();
    // The host's own root, to whom a namespace's counters would go if root had made it.
    let mut held = Vec::new();
    for _ in 0..40 {
        let flags = rustix::fs::inotify::CreateFlags::CLOEXEC;
        held.push(rustix::fs::inotify::init(flags).expect("the host's inotify instances are gone"));
    }
    session.send(&hood_wire::agent::HostFrame::Kill);
    session.finish();
}

/// What the kernel charges to the creator of a user namespace goes to an id of the place's own: two
/// places, or root and a place, draw on nothing in common.
#[test]
fn a_place_is_its_own_creator() {
    /// `NS_GET_OWNER_UID` of the file given.
    const ASK: &str = "import fcntl, struct, sys; \
        print(struct.unpack('I', fcntl.ioctl(open(sys.argv[1]), 0xb704, bytes(4)))[0])";
    if !rustix::process::geteuid().is_root() {
        return skip(
            "sandbox",
            "an ordinary user's namespaces are that user's; as root each place has its own",
        );
    }
    let lab = Lab::new();
    let session = lab.open(&job(&["pause"]));
    let path = format!("/proc/{}/ns/user", session.place.pids().0);
    let output = std::process::Command::new("python3").args(["-c", ASK, &path]).output().unwrap();
    let owner: u32 = String::from_utf8_lossy(&output.stdout).trim().parse().unwrap();
    assert_eq!(owner, session.place.uids().0);
    session.place.destroy().unwrap();
}

#[test]
fn no_two_live_places_share_an_id() {
    let (first, second) = (Lab::new(), Lab::new());
    let waiting = job(&["pause"]);
    let sessions: Vec<_> = (0..4).flat_map(|_| [first.open(&waiting), second.open(&waiting)]).collect();
    let mut uids: Vec<u32> =
        sessions.iter().flat_map(|session| <[u32; 2]>::from(session.place.uids())).collect();
    uids.sort_unstable();
    uids.dedup();
    assert_eq!(uids.len(), 16);
    assert!(!uids.contains(&0));
    for session in sessions {
        session.place.destroy().unwrap();
    }
}

#[test]
fn many_places_are_made_at_once() {
    let lab = Lab::new();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..3 {
                    let mut echo = job(&["echo"]);
                    echo.stdin = b"hello".to_vec();
                    assert_eq!(lab.run(&echo).stdout, b"hello");
                }
            });
        }
    });
    std::io::stdout().flush().unwrap();
}
