//! How the agent's process becomes PID 1 of a finished place: it builds the root, forks the
//! program's starter, gives up what it no longer needs, and checks what holds.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;

use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::net::{AddressFamily, SocketType};
use rustix::pipe::PipeFlags;
use rustix::process::{DumpableBehavior, Signal};
use rustix::thread::CapabilitySet;

use super::landlock::SCOPES_SINCE;
use super::orders::{self, Report};
use super::starter::{self, Ends};
use super::{ForeignCalls, Step, StepFailed, filters, privilege, root};
use crate::packets;
use crate::protocol::{self, AGENT_ID, Blueprint, Failure, NAMESPACES, PROGRAM_ID};
use crate::sys::{self, Fork};

/// What user namespaces charge to their creator, and what a place may have of it. Absent names are
/// those of newer kernels.
const KERNEL_COUNTERS: [(&str, &str); 12] = [
    ("max_user_namespaces", "0"),
    ("max_mnt_namespaces", "0"),
    ("max_pid_namespaces", "0"),
    ("max_net_namespaces", "0"),
    ("max_ipc_namespaces", "0"),
    ("max_uts_namespaces", "0"),
    ("max_cgroup_namespaces", "0"),
    ("max_time_namespaces", "0"),
    ("max_inotify_instances", "16"),
    ("max_inotify_watches", "4096"),
    ("max_fanotify_groups", "0"),
    ("max_fanotify_marks", "0"),
];

const SINGLE_ID: &str = "only one id may be mapped, so agent and program are one user in nested namespaces; \
                         give this user ranges in /etc/subuid and /etc/subgid, and install newuidmap (uidmap)";

const HOSTNAME: &[u8] = b"fumehood";

/// What PID 1 of a finished place holds. Every descriptor is nonblocking.
#[derive(Debug)]
pub struct Cell {
    /// The link to the dispatcher. Its end is the end of the place.
    pub link: OwnedFd,
    /// What becomes the build, where there is to be one.
    pub build: Option<Starter>,
    /// What becomes the program.
    pub program: Starter,
    /// Readable when a child has ended.
    pub children: OwnedFd,
    /// Held so that no other place gets these ids while this process lives.
    pub id_lock: Option<OwnedFd>,
}

/// A starter that waits, and this side of what it becomes.
#[derive(Debug)]
pub struct Starter {
    /// Orders to it, reports from it.
    pub command: OwnedFd,
    /// Its pid, which becomes the program's.
    pub pid: i32,
    /// Every process of it: one of its own, or two where it is nested.
    pub pids: Vec<i32>,
    /// The program's pipes, this side.
    pub stdin: OwnedFd,
    /// As above.
    pub stdout: OwnedFd,
    /// As above.
    pub stderr: OwnedFd,
}

/// What the starter has sent, and the listener for foreign calls if it came along. Empty: its end.
///
/// # Errors
/// As recvmsg(2); `WouldBlock` while there is nothing.
pub fn hear(starter: &OwnedFd) -> io::Result<(Vec<u8>, Option<ForeignCalls>)> {
    let packet = packets::receive(starter)?;
    Ok((packet.bytes, packet.fds.into_iter().next().map(ForeignCalls::new)))
}

/// Makes this process, the first of new namespaces, PID 1 of a place. The server hears how it went.
///
/// # Errors
/// A step failed; the server has been told, and this process should end.
pub fn enter() -> Result<Cell, StepFailed> {
    let setup = sys::inherited(sys::SETUP_FD).step("find the setup channel")?;
    let result = build(&setup);
    if let Err(failed) = &result {
        let errno = failed.source.raw_os_error().unwrap_or(0);
        // Without a server nobody needs to be told.
        let _ = packets::send(&setup, &Failure { step: failed.step.to_owned(), errno }.encode(), &[]);
    }
    result
}

fn build(setup: &OwnedFd) -> Result<Cell, StepFailed> {
    let link = sys::inherited(sys::LINK_FD).step("find the link")?;
    let id_lock = sys::inherited(sys::ID_LOCK_FD).ok();
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .step("bind to the launcher's life")?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).step("become undumpable")?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    sys::reset_signals();
    // A program that closes its stdin is no reason to end.
    sys::ignore_signal(libc::SIGPIPE);
    packets::send(setup, &[protocol::AGENT_HERE], &[]).step("greet the server")?;
    let packet = packets::receive(setup).step("receive the blueprint")?;
    let blueprint = Blueprint::decode(&packet.bytes)
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
        .step("read the blueprint")?;
    check_namespaces(&blueprint).step("check that namespaces are new")?;
    root::build(&blueprint)?;
    rustix::system::sethostname(HOSTNAME).step("name the host")?;
    raise_loopback().step("raise the loopback interface")?;
    let children = sys::child_watch().step("watch for children")?;
    let mut build = None;
    if blueprint.builds {
        let (mine, theirs) = pipes(&blueprint).step("make the build's pipes")?;
        let known = privilege::processes().step("list the place's processes")?;
        match sys::fork_single_threaded().step("fork the build's starter")? {
            Fork::Parent(pid) => build = Some(employ(setup, (mine, theirs), pid, &known)?),
            Fork::Child => {
                drop((mine, link, id_lock, children));
                begin(setup, theirs, &blueprint)
            }
        }
    }
    let (mine, theirs) = pipes(&blueprint).step("make the program's pipes")?;
    let known = privilege::processes().step("list the place's processes")?;
    let program = match sys::fork_single_threaded().step("fork the starter")? {
        Fork::Parent(pid) => employ(setup, (mine, theirs), pid, &known)?,
        Fork::Child => {
            // The build's pipes among them: nobody but its two sides may hold them open.
            drop((mine, link, id_lock, children, build));
            begin(setup, theirs, &blueprint)
        }
    };
    let findings = lock_down(&blueprint)?;
    packets::send(setup, &protocol::encode_findings(&findings), &[])
        .step("report that the place is ready")?;
    let starters = [Some(&program), build.as_ref()].into_iter().flatten();
    let theirs = starters.flat_map(|one| [&one.command, &one.stdin, &one.stdout, &one.stderr]);
    for fd in theirs.chain([&link]) {
        rustix::fs::fcntl_setfl(fd, OFlags::NONBLOCK).step("unblock descriptors")?;
    }
    Ok(Cell { link, build, program, children, id_lock })
}

/// The child's side of a fork: never returns.
fn begin(setup: &OwnedFd, ends: Ends, blueprint: &Blueprint) -> ! {
    match setup.try_clone() {
        Ok(setup_copy) => starter::run(ends, setup_copy, blueprint),
        Err(_) => sys::exit_now(70),
    }
}

/// Waits until a starter that was forked is in its groups and ready. `known` are the processes that
/// were there before it.
fn employ(
    setup: &OwnedFd,
    (mine, theirs): (Ends, Ends),
    forked: i32,
    known: &[i32],
) -> Result<Starter, StepFailed> {
    drop(theirs);
    let placed = packets::receive(setup).step("await the cgroups")?;
    if placed.bytes != [protocol::PLACED] {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof)).step("await the cgroups");
    }
    let nested = await_starter(&mine.command)?;
    let mut pids = privilege::processes().step("list the place's processes")?;
    // The process that was forked only made the nested one, and its number will be another's.
    pids.retain(|pid| !known.contains(pid) && (nested.is_none() || *pid != forked));
    let Ends { command, stdin, stdout, stderr } = mine;
    Ok(Starter { command, pid: nested.unwrap_or(forked), pids, stdin, stdout, stderr })
}

/// The agent's ends and the starter's. The pipes belong to the program: it may open them again, as
/// /dev/stdout and the like.
fn pipes(blueprint: &Blueprint) -> io::Result<(Ends, Ends)> {
    let (stdin_read, stdin_write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    let (stdout_read, stdout_write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    let (stderr_read, stderr_write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    let (command, their_command) = packets::stream_pair()?;
    let owner = if blueprint.single_id { AGENT_ID } else { PROGRAM_ID };
    for pipe in [&stdin_read, &stdout_write, &stderr_write] {
        rustix::fs::fchown(pipe, Some(Uid::from_raw(owner)), Some(Gid::from_raw(owner)))?;
    }
    Ok((
        Ends { command, stdin: stdin_write, stdout: stdout_read, stderr: stderr_read },
        Ends { command: their_command, stdin: stdin_read, stdout: stdout_write, stderr: stderr_write },
    ))
}

/// Tells the starter that it is in its group and waits for what it makes of it. A nested starter is
/// another process than the one that was forked, and tells its pid.
fn await_starter(command: &OwnedFd) -> Result<Option<i32>, StepFailed> {
    packets::send(command, &[protocol::PLACED], &[]).step("wake the starter")?;
    let answer = packets::receive(command).step("hear the starter")?;
    match answer.bytes.as_slice() {
        [0] => return Ok(None),
        [0, pid @ ..] if pid.len() == 4 => return Ok(pid.first_chunk().map(|pid| i32::from_le_bytes(*pid))),
        _ => {}
    }
    match orders::read_report(&answer.bytes, true) {
        Report::Failed { errno, .. } => {
            Err(io::Error::from_raw_os_error(errno)).step("prepare the program's starter")
        }
        _ => Err(io::Error::from(io::ErrorKind::UnexpectedEof)).step("hear the starter"),
    }
}

type Findings = Vec<(&'static str, Option<String>)>;

/// Gives up what is no longer needed and looks whether it is so.
fn lock_down(blueprint: &Blueprint) -> Result<Findings, StepFailed> {
    for (name, value) in KERNEL_COUNTERS {
        match std::fs::write(format!("/proc/sys/user/{name}"), value) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other.step("bound what the kernel charges to the namespace's creator")?,
        }
    }
    root::mask_proc()?;
    check_root(blueprint).step("check the root")?;
    let abi = sys::landlock_abi();
    // The starter holds what starting takes; killing is all that is left to do here.
    sys::empty_bounding_set().step("empty the agent's bounding set")?;
    privilege::keep(CapabilitySet::KILL).step("drop the agent's capabilities")?;
    rustix::thread::set_no_new_privs(true).step("renounce new privileges")?;
    sys::install_filter(&filters::for_agent()).step("install the seccomp filter")?;
    check_self().step("check the agent's own confinement")?;
    let landlock = |since: u32, what: &str| {
        (abi < since).then(|| format!("{what}: this kernel has Landlock ABI {abi}, it takes {since}"))
    };
    Ok(vec![
        ("namespaces", None),
        ("root", None),
        ("proc", None),
        ("kernel_counters", None),
        ("seccomp", None),
        ("capabilities", None),
        ("separate_ids", blueprint.single_id.then(|| SINGLE_ID.to_owned())),
        ("landlock", landlock(1, "no second bar before files")),
        (
            "landlock_scopes",
            landlock(SCOPES_SINCE, "signals and abstract sockets are kept in by namespaces alone"),
        ),
    ])
}

fn check_namespaces(blueprint: &Blueprint) -> io::Result<()> {
    for (name, foreign) in NAMESPACES.iter().zip(&blueprint.foreign) {
        if std::fs::metadata(format!("/proc/self/ns/{name}"))?.ino() == *foreign {
            return Err(io::Error::other("a namespace is the server's"));
        }
    }
    let map = std::fs::read_to_string("/proc/self/uid_map")?;
    let maps_root = |line: &str| line.split_whitespace().nth(1) == Some("0");
    if blueprint.foreign.len() != NAMESPACES.len() || map.lines().any(maps_root) {
        return Err(io::Error::other("the host's root is mapped"));
    }
    Ok(())
}

/// The mounts are ours, the network is empty, and nobody may look into this process.
fn check_root(blueprint: &Blueprint) -> io::Result<()> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    let of = |point: &str| mounts.lines().find(|line| line.split(' ').nth(4) == Some(point));
    let root_is_ours =
        of("/").is_some_and(|line| line.contains(" - overlay ") && line.contains(" ro,nosuid,nodev"));
    let proc_is_hidden = of("/proc").is_some_and(|line| line.contains("hidepid=invisible"));
    let disk = rustix::fs::statvfs("/eval")?;
    let disk_is_bounded =
        disk.f_blocks.saturating_mul(disk.f_frsize) <= blueprint.disk_bytes.next_multiple_of(4096);
    let interfaces = std::fs::read_to_string("/proc/self/net/dev")?;
    let foreign_interface = interfaces.lines().skip(2).any(|line| !line.trim_start().starts_with("lo:"));
    let undumpable = rustix::process::dumpable_behavior()? == DumpableBehavior::NotDumpable;
    if undumpable && root_is_ours && proc_is_hidden && disk_is_bounded && !foreign_interface {
        return Ok(());
    }
    Err(io::Error::other("the root is not as it was built"))
}

fn check_self() -> io::Result<()> {
    let status = rustix::fs::open("/proc/self/status", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut page = [0; 4096];
    let length = rustix::io::read(status.as_fd(), &mut page)?;
    let status = String::from_utf8_lossy(&page[..length]);
    let kill_only = format!("CapEff:\t{:016x}", CapabilitySet::KILL.bits());
    let wanted = ["Seccomp:\t2", "NoNewPrivs:\t1", "CapBnd:\t0000000000000000", kill_only.as_str()];
    if wanted.iter().all(|line| status.lines().any(|found| found == *line)) {
        return Ok(());
    }
    Err(io::Error::other("a right is left"))
}

fn raise_loopback() -> io::Result<()> {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    sys::raise_loopback(socket.as_fd())
}
