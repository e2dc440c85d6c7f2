//! The same places as an ordinary user makes them: with a range of subordinate ids, and without.
//!
//! The outer tests run this binary again as another user, in a mount namespace whose user tables hold
//! what the case needs; the host's own tables are not touched.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use hood_wire::agent::{Exit, KillCause};

use crate::builds::leaves_no_objects;
use crate::harness::{Lab, MIB, agent, image, job, skip};

const UID: &str = "4242";

/// Runs an ignored test of this module as the ordinary user.
fn as_user(test: &str, subordinate: &str) {
    if !rustix::process::geteuid().is_root() {
        skip("sandbox-user", "only root can become the users that this is about");
        return;
    }
    let image = image();
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::copy(std::env::current_exe().unwrap(), at("test")).unwrap();
    std::fs::write(at("agent"), agent()).unwrap();
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap();
    std::fs::write(at("passwd"), format!("{passwd}hoodtest:x:{UID}:{UID}::/tmp:/bin/sh\n")).unwrap();
    std::fs::write(at("subuid"), subordinate).unwrap();
    let script = format!(
        "set -e; cd /tmp; for table in passwd subuid; do mount --bind {0}/$table /etc/$table; done; \
         mount --bind {0}/subuid /etc/subgid; \
         exec setpriv --reuid {UID} --regid {UID} --clear-groups {0}/test --exact {test} --ignored --nocapture",
        dir.path().display()
    );
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", &script])
        .env("HOOD_TEST_IMAGE", image.path())
        .env("HOOD_TEST_AGENT", at("agent"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[test]
fn with_subordinate_ids() {
    as_user("ordinary::inner_two_ids", "hoodtest:700000:65536\n");
}

#[test]
fn with_a_single_id() {
    as_user("ordinary::inner_single_id", "");
}

fn lab() -> Lab {
    Lab::with_image(Path::new(&std::env::var_os("HOOD_TEST_IMAGE").unwrap()))
}

fn lacking(lab: &Lab) -> Vec<String> {
    let session = lab.open(&job(&["pause"]));
    let lacking = session.place.layers().iter().filter(|layer| !layer.proven);
    let names =
        lacking.inspect(|layer| assert!(!layer.reason.is_empty())).map(|layer| layer.name.clone()).collect();
    session.place.destroy().unwrap();
    names
}

#[test]
#[ignore = "run by with_subordinate_ids as another user"]
fn inner_two_ids() {
    let lab = lab();
    assert_eq!(lacking(&lab), ["memory_limit", "process_limit", "cpu_accounting"]);
    for attack in [
        "reach-agent",
        "proc-view",
        "reach-host",
        "namespaces",
        "system-calls",
        "network",
        "landlocked",
        "identity",
    ] {
        lab.run(&job(&[attack])).assert_held();
    }
    leaves_no_objects(&lab);
    falls_back_to_sampling(&lab);
}

#[test]
#[ignore = "run by with_a_single_id as another user"]
fn inner_single_id() {
    let lab = lab();
    assert_eq!(lacking(&lab), ["memory_limit", "process_limit", "cpu_accounting", "separate_ids"]);
    for attack in ["reach-host", "namespaces", "system-calls", "network", "landlocked", "identity"] {
        lab.run(&job(&[attack])).assert_held();
    }
    // Number 1 is the inner init's here, which is nothing but a reaper; that this attack is told to
    // its end is what shows that the agent was not reached.
    assert_eq!(lab.run(&job(&["reach-agent"])).exit(), Exit::Code(0));
    assert_eq!(lab.run(&job(&["signal", "15"])).exit(), Exit::Signal(15));
    let done = lab.run(&job(&["survivor"]));
    assert_eq!(done.exit(), Exit::Code(0));
    assert!(done.ending().stdout.complete);
    leaves_no_objects(&lab);
    falls_back_to_sampling(&lab);
}

fn falls_back_to_sampling(lab: &Lab) {
    for how in ["here", "shm"] {
        let mut hog = job(&["hog", how]);
        hog.disk_bytes = 64 * MIB;
        hog.assignment.sampled_memory_bytes = Some(32 * MIB);
        let done = lab.run(&hog);
        assert_eq!(done.ending().cause, Some(KillCause::SampledMemory), "{how}: {:?}", done.ending());
    }
    let mut bomb = job(&["spread"]);
    bomb.assignment.sampled_processes = Some(20);
    bomb.assignment.wall_ms = 5_000;
    let ending = *lab.run(&bomb).ending();
    assert!(
        matches!(ending.cause, Some(KillCause::SampledProcesses | KillCause::Deadline))
            && ending.usage.reaped <= 100,
        "{ending:?}"
    );
    let mut slow = job(&["ignore-term"]);
    slow.assignment.wall_ms = 100;
    slow.assignment.grace_ms = 100;
    assert_eq!(lab.run(&slow).ending().cause, Some(KillCause::Deadline));
    assert_eq!(lab.run(&job(&["foreign", "i386"])).ending().cause, Some(KillCause::ForeignCall));
}

/// What the report forecasts is what a place then proves, here and for this user.
#[test]
fn the_report_agrees_with_the_places() {
    let report = hood_sandbox::host_report(8);
    let finding = |name: &str| report.findings.iter().find(|finding| finding.name == name).unwrap();
    for name in ["kernel", "namespaces", "user_namespaces", "ids", "overlay", "proc", "memfd", "seccomp"] {
        assert!(finding(name).good, "{:?}", finding(name));
    }
    for bad in report.findings.iter().filter(|finding| !finding.good) {
        assert!(!bad.fix.is_empty(), "{bad:?}");
    }
    let lab = Lab::new();
    let session = lab.open(&job(&["pause"]));
    let layer = |name: &str| session.place.layers().iter().find(|layer| layer.name == name).unwrap().proven;
    assert_eq!(finding("cgroup_memory").good, layer("memory_limit"));
    assert_eq!(finding("cgroup_processes").good, layer("process_limit"));
    assert_eq!(finding("landlock").good, layer("landlock_scopes"));
    session.place.destroy().unwrap();
}
