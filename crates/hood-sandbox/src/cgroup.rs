//! The groups of a place: sibling leaves, one for the agent, one for the program and, where something
//! is built first, one for that, in every hierarchy that a needed controller lives in. v2 where it offers the controller, else v1; on a
//! hybrid host the v2 hierarchy still serves to be born in, to kill at once and to prove death.

mod gauges;
mod layout;
mod leaf;

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal};

use gauges::number_after;
pub use gauges::{OomWatch, Sample};
pub(crate) use layout::{Layout, Seat, prospects};
pub(crate) use leaf::Leaf;

/// Between two looks at a group that should become empty.
const EMPTY_POLL: Duration = Duration::from_millis(1);

/// What a place's groups hold the program to, written when the place is claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupLimits {
    /// Memory of the program, what it writes to tmpfs included.
    pub memory_bytes: u64,
    /// Processes and threads of the program.
    pub processes: u64,
    /// What holds the build before it, in groups of its own.
    pub build: Option<BuildLimits>,
    /// Thousandths of a CPU that it may use at once; `None` leaves it to the scheduler.
    pub cpu_milli: Option<u64>,
    /// Memory of the agent: what it may have to hold of output and stdin. See
    /// [`GroupLimits::agent_memory`].
    pub agent_memory_bytes: u64,
}

/// The same of a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BuildLimits {
    /// Memory, what it writes to tmpfs included.
    pub memory_bytes: u64,
    /// Processes and threads.
    pub processes: u64,
}

impl GroupLimits {
    /// Memory that the agent needs to hold both streams whole, all of stdin, one frame being built
    /// and itself.
    #[must_use]
    pub fn agent_memory(output_bytes: u64, stdin_bytes: u64) -> u64 {
        /// Executable, page tables, buffers, sockets and pipes.
        const AGENT_ITSELF: u64 = 16 << 20;
        // A buffer that grows by doubling holds the old and the new for a moment.
        output_bytes
            .saturating_mul(2)
            .saturating_add(stdin_bytes)
            .saturating_mul(2)
            .saturating_add(AGENT_ITSELF)
    }
}

/// What runs in a place, one after the other, each in groups of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// What comes before the program, where the place was made for it.
    Build,
    /// The program.
    Run,
}

impl Phase {
    /// Those that a place goes through, in order.
    pub(crate) const fn of(builds: bool) -> &'static [Self] {
        if builds { &[Self::Build, Self::Run] } else { &[Self::Run] }
    }

    const fn role(self) -> &'static str {
        match self {
            Self::Build => "build",
            Self::Run => "program",
        }
    }
}

/// The groups of one place.
#[derive(Debug)]
pub(crate) struct Groups {
    v2_agent: Option<PathBuf>,
    /// One for each of memory and pids.
    v1_agent: Vec<PathBuf>,
    agent_memory: Option<Controlled>,
    leaves: Vec<(Phase, Leaf)>,
}

/// Where a controller holds a leaf.
#[derive(Debug, Clone)]
pub(crate) struct Controlled {
    pub(crate) v2: bool,
    pub(crate) dir: PathBuf,
}

/// Where controllers sit, as leaves of one role.
struct Seats<'a> {
    layout: &'a Layout,
    id: &'a str,
}

impl Seats<'_> {
    fn controlled(&self, seat: &Seat, role: &str) -> Option<Controlled> {
        let (v2, dir) = match seat {
            Seat::V2 => (true, self.layout.v2.as_deref()?),
            Seat::V1(dir) => (false, dir.as_path()),
            Seat::Missing(_) => return None,
        };
        Some(Controlled { v2, dir: dir.join(format!("{}.{role}", self.id)) })
    }

    fn v2(&self, role: &str) -> Option<PathBuf> {
        self.layout.v2.as_deref().map(|dir| dir.join(format!("{}.{role}", self.id)))
    }
}

impl Groups {
    /// Paths that [`Groups::create`] will make, for the record that is written before.
    pub(crate) fn planned(layout: &Layout, id: &str, builds: bool) -> Vec<PathBuf> {
        let mut paths = Vec::new();
        for dir in layout.instance_dirs() {
            paths.extend(Phase::of(builds).iter().map(|phase| dir.join(format!("{id}.{}", phase.role()))));
            paths.push(dir.join(format!("{id}.agent")));
        }
        paths
    }

    pub(crate) fn create(layout: &Layout, id: &str, builds: bool) -> io::Result<Self> {
        let seats = Seats { layout, id };
        let v2_agent = seats.v2("agent");
        let agent_memory = seats.controlled(&layout.memory, "agent");
        let pids = seats.controlled(&layout.pids, "agent");
        let mut v1_agent: Vec<PathBuf> = Vec::new();
        for one in [&agent_memory, &pids].into_iter().flatten().filter(|one| !one.v2) {
            if !v1_agent.contains(&one.dir) {
                v1_agent.push(one.dir.clone());
            }
        }
        for dir in v1_agent.iter().chain(&v2_agent) {
            fs::create_dir(dir)?;
        }
        let leaf = |phase: &Phase| Ok((*phase, Leaf::create(&seats, phase.role())?));
        let leaves = Phase::of(builds).iter().map(leaf).collect::<io::Result<_>>()?;
        Ok(Self { v2_agent, v1_agent, agent_memory, leaves })
    }

    /// The v2 leaf that the agent is to be born in.
    pub(crate) fn birthplace(&self) -> io::Result<Option<OwnedFd>> {
        let Some(agent) = &self.v2_agent else { return Ok(None) };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Some(rustix::fs::open(agent, flags, Mode::empty())?))
    }

    /// Moves the agent to where it was not born. Slow when the machine is calm (the kernel awaits an
    /// RCU grace period) and cheap in bursts, so never on the hot path; likewise [`Groups::place`].
    pub(crate) fn place_agent(&self, agent: u32) -> io::Result<()> {
        for dir in &self.v1_agent {
            fs::write(dir.join("cgroup.procs"), agent.to_string())?;
        }
        self.v1_agent.iter().chain(&self.v2_agent).try_for_each(|dir| expect(dir, agent))
    }

    /// Moves a phase's first process to where it belongs, and looks whether it is there.
    pub(crate) fn place(&self, phase: Phase, program: u32) -> io::Result<()> {
        let leaf = self.leaf(phase).ok_or(io::ErrorKind::NotFound)?;
        for dir in leaf.dirs() {
            fs::write(dir.join("cgroup.procs"), program.to_string())?;
        }
        leaf.dirs().try_for_each(|dir| expect(dir, program))
    }

    pub(crate) fn bind(&self, limits: &GroupLimits) -> io::Result<()> {
        if let Some(memory) = &self.agent_memory {
            limit_memory(memory.v2, &memory.dir, limits.agent_memory_bytes)?;
        }
        for (phase, leaf) in &self.leaves {
            let (memory_bytes, processes) = match (phase, limits.build) {
                (Phase::Run, _) | (Phase::Build, None) => (limits.memory_bytes, limits.processes),
                (Phase::Build, Some(build)) => (build.memory_bytes, build.processes),
            };
            leaf.bind(memory_bytes, processes, limits.cpu_milli)?;
        }
        Ok(())
    }

    /// No hierarchy holds this place.
    pub(crate) fn is_bare(&self) -> bool {
        self.v2_agent.is_none() && self.leaves.iter().all(|(_, leaf)| leaf.is_bare())
    }

    /// `None` for a phase that this place does not have.
    pub(crate) fn leaf(&self, phase: Phase) -> Option<&Leaf> {
        self.leaves.iter().find(|(known, _)| *known == phase).map(|(_, leaf)| leaf)
    }

    /// Kills everything that is in any group.
    pub(crate) fn kill_all(&self) -> io::Result<()> {
        for dir in self.dirs() {
            kill_group(dir)?;
        }
        Ok(())
    }

    /// Waits until no group has a member, then removes them.
    pub(crate) fn remove(&self, patience: Duration) -> io::Result<()> {
        self.dirs().try_for_each(|dir| remove_group(dir, patience))
    }

    fn dirs(&self) -> impl Iterator<Item = &PathBuf> {
        let leaves = self.leaves.iter().flat_map(|(_, leaf)| leaf.dirs());
        leaves.chain(&self.v2_agent).chain(&self.v1_agent)
    }
}

fn expect(dir: &Path, pid: u32) -> io::Result<()> {
    if members(dir)?.contains(&pid) {
        return Ok(());
    }
    Err(io::Error::other(format!("process {pid} is not in {}", dir.display())))
}

fn limit_memory(v2: bool, dir: &Path, bytes: u64) -> io::Result<()> {
    if v2 {
        fs::write(dir.join("memory.max"), bytes.to_string())?;
        fs::write(dir.join("memory.oom.group"), "1")?;
        return write_if_present(&dir.join("memory.swap.max"), "0");
    }
    fs::write(dir.join("memory.limit_in_bytes"), bytes.to_string())?;
    // Memory and swap together get the same bound, so that no swap is left. Absent without swap
    // accounting.
    write_if_present(&dir.join("memory.memsw.limit_in_bytes"), &bytes.to_string())?;
    // The peak begins with the program, not with what the place used while it waited.
    fs::write(dir.join("memory.max_usage_in_bytes"), "0")
}

fn write_if_present(path: &Path, value: &str) -> io::Result<()> {
    match fs::write(path, value) {
        // Opening for writing would create it, which cgroupfs refuses in its own ways.
        Err(error) if !path.exists() => {
            drop(error);
            Ok(())
        }
        other => other,
    }
}

fn members(dir: &Path) -> io::Result<Vec<u32>> {
    let text = fs::read_to_string(dir.join("cgroup.procs"))?;
    Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
}

/// Kills everything in a group that we made. A group that is gone needs nothing.
pub(crate) fn kill_group(dir: &Path) -> io::Result<usize> {
    let result = if dir.join("cgroup.kill").exists() {
        members(dir).and_then(|pids| fs::write(dir.join("cgroup.kill"), "1").map(|()| pids.len()))
    } else {
        kill_members(dir, Duration::ZERO)
    };
    match result {
        Err(error) if is_gone(&error) => Ok(0),
        other => other,
    }
}

fn kill_members(dir: &Path, patience: Duration) -> io::Result<usize> {
    let deadline = Instant::now() + patience;
    let mut killed = 0;
    loop {
        let pids = members(dir)?;
        for pid in pids.iter().filter_map(|pid| Pid::from_raw(i32::try_from(*pid).ok()?)) {
            // Gone already: what we wanted.
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
        killed = killed.max(pids.len());
        if pids.is_empty() || Instant::now() >= deadline {
            return Ok(killed);
        }
        std::thread::sleep(EMPTY_POLL);
    }
}

/// No process is in the group.
pub(crate) fn is_empty(dir: &Path) -> io::Result<bool> {
    match fs::read_to_string(dir.join("cgroup.events")) {
        Ok(events) => Ok(number_after(&events, "populated") == Some(0)),
        Err(error) if is_gone(&error) => match members(dir) {
            Ok(pids) => Ok(pids.is_empty()),
            Err(error) if is_gone(&error) => Ok(true),
            Err(error) => Err(error),
        },
        Err(error) => Err(error),
    }
}

/// Waits for the group to be empty and removes it.
pub(crate) fn remove_group(dir: &Path, patience: Duration) -> io::Result<()> {
    let deadline = Instant::now() + patience;
    loop {
        if is_empty(dir)? {
            match fs::remove_dir(dir) {
                Ok(()) => return Ok(()),
                Err(error) if is_gone(&error) => return Ok(()),
                // A member that has ended is still being taken out.
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
                Err(error) => return Err(error),
            }
        }
        if Instant::now() >= deadline {
            let message = format!("{} still has members: {:?}", dir.display(), members(dir));
            return Err(io::Error::new(io::ErrorKind::TimedOut, message));
        }
        std::thread::sleep(EMPTY_POLL);
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV))
}
