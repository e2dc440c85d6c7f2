//! What a program tries against the agent, the host and the filter.

use hood_sandbox::SystemCalls;
use hood_wire::agent::{Exit, ForeignCall, KillCause};

use crate::harness::{Job, Lab, has_groups, job, run};

#[test]
fn the_agent_is_out_of_reach() {
    run(&job(&["reach-agent"])).assert_held();
}

#[test]
fn proc_shows_nothing_but_the_program() {
    run(&job(&["proc-view"])).assert_held();
}

#[test]
fn the_host_is_out_of_reach() {
    run(&job(&["reach-host"])).assert_held();
}

#[test]
fn an_images_links_lead_no_mount_elsewhere() {
    let lab = Lab::new();
    for (name, target) in [("eval", "/bin"), ("tmp", "/"), ("proc", "eval"), ("dev", "../../etc")] {
        std::os::unix::fs::symlink(target, lab.image.join(name)).unwrap();
    }
    for what in ["reach-host", "reach-agent", "proc-view"] {
        lab.run(&job(&[what])).assert_held();
    }
}

#[test]
fn namespaces_cannot_be_made() {
    run(&job(&["namespaces"])).assert_held();
}

#[test]
fn dangerous_system_calls_are_refused() {
    run(&job(&["system-calls"])).assert_held();
}

#[test]
fn the_least_list_lets_nothing_else_through() {
    let least = Job { calls: SystemCalls::Least, ..job(&["least-calls"]) };
    run(&least).assert_held();
}

#[test]
fn the_network_is_empty() {
    run(&job(&["network"])).assert_held();
}

#[test]
fn landlock_stands_behind_the_modes() {
    run(&job(&["landlocked"])).assert_held();
}

#[test]
fn the_program_is_nobody() {
    let lab = Lab::new();
    let job = job(&["identity"]);
    let session = lab.open(&job);
    let (agent, program) = session.place.uids();
    session.place.destroy().unwrap();
    let done = lab.run(&job);
    done.assert_held();
    let text = done.text();
    let has = |line: &str| assert!(text.lines().any(|found| found == line), "no {line:?} in {text}");
    for line in [
        "Uid:\t1000\t1000\t1000\t1000",
        "Gid:\t1000\t1000\t1000\t1000",
        "Groups:\t ",
        "CapInh:\t0000000000000000",
        "CapPrm:\t0000000000000000",
        "CapEff:\t0000000000000000",
        "CapBnd:\t0000000000000000",
        "CapAmb:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
        "SigBlk:\t0000000000000000",
        "SigIgn:\t0000000000000000",
    ] {
        has(line);
    }
    let map: Vec<u32> = text
        .split_once("uid_map")
        .unwrap()
        .1
        .split_whitespace()
        .take(6)
        .map(|word| word.parse().unwrap())
        .collect();
    assert_eq!((map[0], map[2], map[3], map[5]), (0, 1, 1000, 1));
    assert!(map[1] != 0 && map[4] != 0 && map[1] != map[4] && agent != program, "{map:?}");
}

#[test]
fn the_kernel_counts_little_for_a_place() {
    let text = run(&job(&["counters"])).text();
    for line in text.lines() {
        let (name, value) = line.split_once('=').unwrap();
        let expected = match name {
            "max_inotify_instances" => "16",
            "max_inotify_watches" => "4096",
            _ => "0",
        };
        assert_eq!(value, expected, "{name}");
    }
}

#[test]
#[cfg(target_arch = "x86_64")]
fn a_foreign_architecture_kills_and_is_recorded() {
    let lab = Lab::new();
    let entries = [("x32", 0xc000_003e, 0x4000_0027), ("i386", 0x4000_0003, 20)];
    // The filter on top of the ordinary one changes nothing about who is told.
    let lists = [SystemCalls::Ordinary, SystemCalls::Least];
    for ((how, arch, number), calls) in
        entries.into_iter().flat_map(|entry| lists.map(|calls| (entry, calls)))
    {
        let done = lab.run(&Job { calls, ..job(&["foreign", how]) });
        let ending = done.ending();
        assert_eq!((ending.exit, ending.cause), (Exit::Signal(9), Some(KillCause::ForeignCall)), "{how}");
        assert_eq!(ending.foreign_call, Some(ForeignCall { arch, number }));
        assert_eq!(done.text(), "before\n");
    }
}

#[test]
fn a_sigsys_of_its_own_is_no_record() {
    let done = run(&job(&["foreign", "sigsys"]));
    let ending = done.ending();
    assert_eq!((ending.exit, ending.cause, ending.foreign_call), (Exit::Signal(31), None, None));
}

/// The host's view of the agent: what it holds while a program runs.
#[test]
fn the_agent_keeps_next_to_nothing() {
    let lab = Lab::new();
    let waiting = job(&["pause"]);
    let mut session = lab.open(&waiting);
    session.assign(&waiting);
    session.await_output("ready");
    let (agent, program) = session.place.pids();
    let status = std::fs::read_to_string(format!("/proc/{agent}/status")).unwrap();
    for line in [
        "CapEff:\t0000000000000020",
        "CapPrm:\t0000000000000020",
        "CapBnd:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
    ] {
        assert!(status.contains(line), "no {line:?} in {status}");
    }
    let exe = std::fs::read_link(format!("/proc/{agent}/exe")).unwrap();
    assert!(exe.to_string_lossy().starts_with("/memfd:hood-agent"), "{exe:?}");
    let uid = |pid: u32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find(|line| line.starts_with("Uid:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u32>().unwrap()
    };
    assert_eq!((uid(agent), uid(program)), session.place.uids());
    assert!(uid(agent) != 0 && uid(program) != 0 && uid(agent) != uid(program));
    // Every namespace is its own.
    for name in ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"] {
        let of = |who: &str| std::fs::read_link(format!("/proc/{who}/ns/{name}")).unwrap();
        assert_ne!(of(&agent.to_string()), of("self"), "{name}");
    }
    session.send(&hood_wire::agent::HostFrame::Kill);
    session.finish();
}

#[test]
fn layers_are_all_proven_here() {
    if !has_groups() {
        return;
    }
    let lab = Lab::new();
    let session = lab.open(&job(&["pause"]));
    // What only newer kernels have is not ours to prove.
    let ours = |name: &str| !name.starts_with("landlock");
    let lacking: Vec<_> =
        session.place.layers().iter().filter(|layer| !layer.proven && ours(&layer.name)).collect();
    assert!(lacking.is_empty(), "{lacking:?}");
    assert!(session.place.layers().len() >= 10);
    session.place.destroy().unwrap();
}
