//! What this host offers and lacks. Reads only: what is said here is a forecast, and a place's
//! [`super::Layer`]s are the proof.

use std::fs;
use std::path::Path;

use super::ids::{self, Source};
use crate::cgroup::prospects;
use crate::sys;

/// The oldest kernel on which an unprivileged mount namespace can mount an overlay.
const OLDEST_KERNEL: (u32, u32) = (5, 11);
/// The Landlock ABI that also keeps signals and abstract sockets in.
const WANTED_LANDLOCK: u32 = 6;
/// inotify instances that one place may have.
const INOTIFY_PER_PLACE: u64 = 16;

/// One fact about the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Its stable name.
    pub name: &'static str,
    /// It is as it should be.
    pub good: bool,
    /// What was found.
    pub detail: String,
    /// What to do about it; empty if it is good.
    pub fix: String,
}

/// Everything that places depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostReport {
    /// The facts, in a fixed order.
    pub findings: Vec<Finding>,
}

/// Looks at the host, for a server that would keep up to `places` places.
#[must_use]
pub fn host_report(places: u32) -> HostReport {
    let mut findings = vec![
        kernel(),
        namespaces(),
        user_namespaces(),
        ids_for_places(),
        overlay(),
        proc_is_whole(),
        executable_memory(),
    ];
    findings.extend(cgroups());
    findings.extend([seccomp(), landlock(), core_pattern(), binfmt(), inotify(places)]);
    HostReport { findings }
}

fn finding(name: &'static str, good: bool, detail: impl Into<String>, fix: &str) -> Finding {
    Finding { name, good, detail: detail.into(), fix: if good { String::new() } else { fix.to_owned() } }
}

fn text(path: impl AsRef<Path>) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn number(path: &str) -> Option<u64> {
    text(path)?.parse().ok()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn kernel() -> Finding {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut parts =
        release.split(|sign: char| !sign.is_ascii_digit()).filter_map(|part| part.parse::<u32>().ok());
    let version = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    let fix = "places need Linux 5.11 or later (overlayfs in user namespaces)";
    finding("kernel", version >= OLDEST_KERNEL, format!("Linux {release}"), fix)
}

fn namespaces() -> Finding {
    let has = |name: &&str| Path::new("/proc/self/ns").join(name).exists();
    let missing: Vec<&str> = crate::protocol::NAMESPACES.into_iter().filter(|name| !has(name)).collect();
    let detail = if missing.is_empty() {
        "all seven kinds".to_owned()
    } else {
        format!("missing: {}", missing.join(", "))
    };
    finding(
        "namespaces",
        missing.is_empty(),
        detail,
        "use a kernel with CONFIG_NAMESPACES and all of its kinds",
    )
}

fn user_namespaces() -> Finding {
    let name = "user_namespaces";
    if number("/proc/sys/user/max_user_namespaces") == Some(0) {
        return finding(
            name,
            false,
            "user.max_user_namespaces is 0",
            "sysctl -w user.max_user_namespaces=15000",
        );
    }
    if is_root() {
        return finding(name, true, "available to root", "");
    }
    if number("/proc/sys/kernel/unprivileged_userns_clone") == Some(0) {
        let fix = "sysctl -w kernel.unprivileged_userns_clone=1";
        return finding(name, false, "closed to ordinary users by kernel.unprivileged_userns_clone", fix);
    }
    if number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == Some(1) {
        let fix = "give fumehood an AppArmor profile with `userns,`, or \
                   sysctl -w kernel.apparmor_restrict_unprivileged_userns=0";
        return finding(name, false, "restricted by AppArmor for programs without a profile", fix);
    }
    finding(name, true, "available to ordinary users", "")
}

fn ids_for_places() -> Finding {
    let fix = "add this user to /etc/subuid and /etc/subgid (usermod --add-subuids 100000-165535 \
               --add-subgids 100000-165535 USER) and install newuidmap (package uidmap)";
    match ids::IdPool::open(None) {
        Ok(pool) => {
            let (good, how) = match pool.source {
                Source::Privileged => (true, "two host ids for each place, mapped as root"),
                Source::Subordinate => (true, "two subordinate ids for each place, through newuidmap"),
                Source::Single => (false, "one id only: programs run nested, as the user's own id"),
            };
            finding("ids", good, format!("{how}; room for {} places", pool.pairs()), fix)
        }
        Err(error) => finding("ids", false, error.to_string(), fix),
    }
}

fn overlay() -> Finding {
    let known =
        text("/proc/filesystems").is_some_and(|list| list.lines().any(|line| line.ends_with("\toverlay")));
    finding("overlay", known, if known { "available" } else { "not loaded" }, "modprobe overlay")
}

/// A container that covers parts of /proc keeps everybody inside from mounting one.
fn proc_is_whole() -> Finding {
    let mounts = text("/proc/self/mountinfo").unwrap_or_default();
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    let covers: Vec<&str> =
        points.filter(|point| point.starts_with("/proc/") && *point != "/proc/sys/fs/binfmt_misc").collect();
    let fix = "run outside of the container, or start it with --security-opt systempaths=unconfined";
    let detail =
        if covers.is_empty() { "whole".to_owned() } else { format!("covered at {}", covers.join(", ")) };
    finding("proc", covers.is_empty(), detail, fix)
}

fn executable_memory() -> Finding {
    let forbidden = number("/proc/sys/vm/memfd_noexec") == Some(2);
    let detail = if forbidden { "vm.memfd_noexec is 2" } else { "memory files may be executed" };
    finding("memfd", !forbidden, detail, "sysctl -w vm.memfd_noexec=1")
}

fn cgroups() -> Vec<Finding> {
    let fix =
        "run as a service with Delegate=yes, or under: systemd-run --user --scope -p Delegate=yes fumehood …";
    let name = |controller| match controller {
        "memory" => "cgroup_memory",
        "pids" => "cgroup_processes",
        "cpu" => "cgroup_cpu",
        _ => "cgroup_cpu_time",
    };
    prospects()
        .into_iter()
        .map(|(controller, prospect)| match prospect {
            Ok(place) => finding(name(controller), true, place, ""),
            Err(reason) => finding(name(controller), false, reason, fix),
        })
        .collect()
}

fn seccomp() -> Finding {
    let actions = text("/proc/sys/kernel/seccomp/actions_avail").unwrap_or_default();
    let missing: Vec<&str> = ["kill_process", "errno", "user_notif", "allow"]
        .into_iter()
        .filter(|wanted| !actions.split(' ').any(|action| action == *wanted))
        .collect();
    let detail =
        if missing.is_empty() { "filters".to_owned() } else { format!("missing: {}", missing.join(", ")) };
    finding("seccomp", missing.is_empty(), detail, "use a kernel with CONFIG_SECCOMP_FILTER, 5.0 or later")
}

fn landlock() -> Finding {
    let abi = sys::landlock_abi();
    let fix = "use Linux 6.12 or later with landlock in the kernel's list of LSMs (lsm=landlock,…)";
    finding("landlock", abi >= WANTED_LANDLOCK, format!("ABI {abi}"), fix)
}

/// Not a fault: places hold core dumps back either way. Named because operators should know.
fn core_pattern() -> Finding {
    let pattern = text("/proc/sys/kernel/core_pattern").unwrap_or_default();
    let detail = if pattern.starts_with('|') {
        format!(
            "piped to a program of the host ({pattern}); places limit core files to 1 byte, which keeps it out"
        )
    } else {
        format!("a file ({pattern})")
    };
    finding("core_pattern", true, detail, "")
}

fn binfmt() -> Finding {
    let entries = fs::read_dir("/proc/sys/fs/binfmt_misc").into_iter().flatten().flatten();
    let open_outside = |path: &Path| {
        text(path).is_some_and(|text| {
            text.lines().any(|line| line.strip_prefix("flags:").is_some_and(|flags| flags.contains('F')))
        })
    };
    let handlers: Vec<String> = entries
        .filter(|entry| open_outside(&entry.path()))
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    let detail = if handlers.is_empty() {
        "no handler is opened outside of places".to_owned()
    } else {
        format!("interpreters of the host run inside of places for: {}", handlers.join(", "))
    };
    let fix = "remove them: echo -1 > /proc/sys/fs/binfmt_misc/NAME (from package qemu-user-static or binfmt-support)";
    finding("binfmt", handlers.is_empty(), detail, fix)
}

fn inotify(places: u32) -> Finding {
    let limit = number("/proc/sys/fs/inotify/max_user_instances").unwrap_or(0);
    let wanted = u64::from(places) * INOTIFY_PER_PLACE;
    if is_root() {
        let detail = format!("{limit} instances for each user; each place is charged to an id of its own");
        return finding(
            "inotify",
            limit >= INOTIFY_PER_PLACE,
            detail,
            "sysctl -w fs.inotify.max_user_instances=128",
        );
    }
    let detail = format!("{limit} instances for this user; {places} places may take {wanted}");
    let fix = format!("sysctl -w fs.inotify.max_user_instances={}", (wanted + 128).next_power_of_two());
    finding("inotify", limit > wanted, detail, &fix)
}

/// Whether crashes are handed to a program of the host's.
pub(super) fn core_is_piped() -> bool {
    text("/proc/sys/kernel/core_pattern").is_some_and(|pattern| pattern.starts_with('|'))
}
