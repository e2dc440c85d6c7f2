//! Programs that want more than they may have.

use hood_wire::agent::{Exit, HostFrame, KillCause};

use crate::harness::{Lab, MIB, eventually, has_groups, job, run};

fn number(text: &str, key: &str) -> u64 {
    let rest = text.split(key).nth(1).unwrap_or_else(|| panic!("no {key} in {text}"));
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap()
}

#[test]
fn all_writable_directories_share_one_bound() {
    let done = run(&job(&["disk-flood"]));
    assert_eq!(done.exit(), Exit::Code(0));
    let written = number(&done.text(), "written=");
    assert!((15 * MIB..=16 * MIB).contains(&written), "{written}");
    assert_eq!(number(&done.text(), "errno="), 28);
}

#[test]
fn files_are_bounded_in_number() {
    let mut job = job(&["inode-flood"]);
    job.disk_inodes = 500;
    let text = run(&job).text();
    assert!((400..=532).contains(&number(&text, "made=")), "{text}");
    assert_eq!(number(&text, "errno="), 28);
}

#[test]
fn a_fork_bomb_meets_the_group() {
    if !has_groups() {
        return;
    }
    let mut bomb = job(&["fork-bomb"]);
    bomb.limits.processes = 20;
    let done = run(&bomb);
    assert_eq!(number(&done.text(), "made="), 19);
    assert_eq!(number(&done.text(), "errno="), 11);
    assert!(done.sample.forks_refused > Some(0), "{:?}", done.sample);
    assert_eq!(done.sample.processes_peak, Some(20));
}

#[test]
fn a_fork_bomb_that_goes_on_dies_at_once() {
    if !has_groups() {
        return;
    }
    let lab = Lab::new();
    let mut bomb = job(&["spread"]);
    bomb.limits.processes = 50;
    let mut session = lab.open(&bomb);
    session.assign(&bomb);
    session.await_start();
    eventually("the group is full", || {
        session.place.sample(hood_sandbox::Phase::Run).forks_refused > Some(10)
    });
    session.send(&HostFrame::Kill);
    let ending = *session.finish().ending();
    assert_eq!((ending.exit, ending.cause), (Exit::Signal(9), Some(KillCause::Kill)));
    let mut session = lab.open(&bomb);
    session.assign(&bomb);
    session.await_start();
    eventually("the group is full", || {
        session.place.sample(hood_sandbox::Phase::Run).forks_refused > Some(10)
    });
    session.place.kill_program(hood_sandbox::Phase::Run).unwrap();
    assert_eq!(session.finish().exit(), Exit::Signal(9), "the agent lives to tell it");
}

#[test]
fn memory_is_the_programs_own_end() {
    if !has_groups() {
        return;
    }
    let lab = Lab::new();
    for how in ["here", "buffers"] {
        let done = lab.run(&job(&["hog", how]));
        assert_eq!(done.exit(), Exit::Signal(9), "{how}");
        assert!(done.sample.oom_kills > Some(0), "{how}: {:?}", done.sample);
        let peak = done.sample.memory_peak_bytes.unwrap();
        assert!((60 * MIB..=64 * MIB).contains(&peak), "{how}: {peak}");
    }
    let done = lab.run(&job(&["hog", "child"]));
    assert!(done.sample.oom_kills > Some(0), "{:?}", done.sample);
}

#[test]
fn a_full_tmpfs_ends_the_program_and_not_the_agent() {
    if !has_groups() {
        return;
    }
    let mut small = job(&["hog", "shm"]);
    small.disk_bytes = 64 * MIB;
    small.limits.memory_bytes = 8 * MIB;
    let done = run(&small);
    assert_eq!(done.exit(), Exit::Signal(9));
    assert!(done.sample.oom_kills > Some(0), "{:?}", done.sample);
}

#[test]
fn the_outside_is_told_of_memory_running_out() {
    use rustix::event::{PollFd, PollFlags, Timespec};
    if !has_groups() {
        return;
    }
    let lab = Lab::new();
    let hog = job(&["hog", "here"]);
    let mut session = lab.open(&hog);
    let watch =
        session.place.oom_watch(hood_sandbox::Phase::Run).unwrap().expect("a group holds memory here");
    session.assign(&hog);
    let limit = Timespec { tv_sec: 20, tv_nsec: 0 };
    let ready = rustix::event::poll(&mut [PollFd::new(&watch, PollFlags::IN)], Some(&limit)).unwrap();
    assert_eq!(ready, 1);
    eventually("the kill is counted", || session.place.sample(hood_sandbox::Phase::Run).oom_kills > Some(0));
    session.finish();
}

#[test]
fn a_cpu_quota_holds_and_is_measured() {
    if !has_groups() {
        return;
    }
    let mut spin = job(&["spin"]);
    spin.limits.cpu_milli = Some(200);
    spin.assignment.wall_ms = 1000;
    spin.assignment.grace_ms = 0;
    let done = run(&spin);
    let used = done.sample.user_us.unwrap() + done.sample.system_us.unwrap();
    assert!(used < 500_000, "{used} µs of 1 s at a fifth of a CPU");
    assert!(done.sample.throttled_us > Some(200_000), "{:?}", done.sample);
}
