//! The groups of a place: two sibling leaves, one for the agent and one for the program, in every
//! hierarchy that a needed controller lives in. v2 where it offers the controller, else v1; on a
//! hybrid host the v2 hierarchy still serves to be born in, to kill at once and to prove death.

mod gauges;
mod layout;

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal};

use gauges::{Gauges, number_after};
pub use gauges::{OomWatch, Sample};
pub(crate) use layout::{Layout, Seat, prospects};

/// A period of the CPU controller; quota is given for this many microseconds.
const CPU_PERIOD_US: u64 = 100_000;
/// Between two looks at a group that should become empty.
const EMPTY_POLL: Duration = Duration::from_millis(1);

/// What a place's groups hold the program to, written when the place is claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupLimits {
    /// Memory of the program, what it writes to tmpfs included.
    pub memory_bytes: u64,
    /// Processes and threads of the program.
    pub processes: u64,
    /// Thousandths of a CPU that it may use at once; `None` leaves it to the scheduler.
    pub cpu_milli: Option<u64>,
    /// Memory of the agent: what it may have to hold of output and stdin. See
    /// [`GroupLimits::agent_memory`].
    pub agent_memory_bytes: u64,
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

/// The groups of one place.
#[derive(Debug)]
pub(crate) struct Groups {
    /// v2 leaves, `(agent, program)`.
    v2: Option<(PathBuf, PathBuf)>,
    /// v1 leaves of the agent, one for each of memory and pids.
    v1_agent: Vec<PathBuf>,
    /// v1 leaves of the program, one for each hierarchy.
    v1_program: Vec<PathBuf>,
    memory: Option<Controlled>,
    pids: Option<Controlled>,
    cpu: Option<Controlled>,
    gauges: Gauges,
}

/// Where a controller holds this place.
#[derive(Debug, Clone)]
pub(crate) struct Controlled {
    pub(crate) v2: bool,
    pub(crate) agent: PathBuf,
    pub(crate) program: PathBuf,
}

impl Groups {
    /// Paths that [`Groups::create`] will make, for the record that is written before.
    pub(crate) fn planned(layout: &Layout, id: &str) -> Vec<PathBuf> {
        let mut paths = Vec::new();
        for dir in layout.instance_dirs() {
            paths.push(dir.join(format!("{id}.program")));
            paths.push(dir.join(format!("{id}.agent")));
        }
        paths
    }

    pub(crate) fn create(layout: &Layout, id: &str) -> io::Result<Self> {
        let leaf = |dir: &Path, role: &str| dir.join(format!("{id}.{role}"));
        let controlled = |seat: &Seat| {
            let (v2, dir) = match seat {
                Seat::V2 => (true, layout.v2.as_deref()?),
                Seat::V1(dir) => (false, dir.as_path()),
                Seat::Missing(_) => return None,
            };
            Some(Controlled { v2, agent: leaf(dir, "agent"), program: leaf(dir, "program") })
        };
        let v2 = layout.v2.as_deref().map(|dir| (leaf(dir, "agent"), leaf(dir, "program")));
        let memory = controlled(&layout.memory);
        let pids = controlled(&layout.pids);
        let cpu = controlled(&layout.cpu);
        let cpuacct = controlled(&layout.cpuacct);
        let mut v1_agent = Vec::new();
        let mut v1_program: Vec<PathBuf> = Vec::new();
        for (one, agent_too) in [(&memory, true), (&pids, true), (&cpu, false), (&cpuacct, false)] {
            let Some(one) = one.as_ref().filter(|one| !one.v2) else { continue };
            if agent_too && !v1_agent.contains(&one.agent) {
                v1_agent.push(one.agent.clone());
            }
            if !v1_program.contains(&one.program) {
                v1_program.push(one.program.clone());
            }
        }
        let v2_leaves = v2.iter().flat_map(|(agent, program)| [agent, program]);
        for dir in v1_agent.iter().chain(&v1_program).chain(v2_leaves) {
            fs::create_dir(dir)?;
        }
        let gauges = Gauges::open([&memory, &pids, &cpu, &cpuacct]);
        Ok(Self { v2, v1_agent, v1_program, memory, pids, cpu, gauges })
    }

    /// The v2 leaf that the agent is to be born in.
    pub(crate) fn birthplace(&self) -> io::Result<Option<OwnedFd>> {
        let Some((agent, _)) = &self.v2 else { return Ok(None) };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Some(rustix::fs::open(agent, flags, Mode::empty())?))
    }

    /// Moves both processes to where they were not born. Slow when the machine is calm (the kernel
    /// awaits an RCU grace period) and cheap in bursts, so never on the hot path.
    pub(crate) fn place(&self, agent: u32, program: u32) -> io::Result<()> {
        for dir in &self.v1_agent {
            fs::write(dir.join("cgroup.procs"), agent.to_string())?;
        }
        for dir in self.v1_program.iter().chain(self.v2.as_ref().map(|leaves| &leaves.1)) {
            fs::write(dir.join("cgroup.procs"), program.to_string())?;
        }
        Ok(())
    }

    /// Both processes are where they belong, as the kernel tells it.
    pub(crate) fn verify(&self, agent: u32, program: u32) -> io::Result<()> {
        let expect = |dir: &Path, pid: u32| {
            if members(dir)?.contains(&pid) {
                return Ok(());
            }
            Err(io::Error::other(format!("process {pid} is not in {}", dir.display())))
        };
        let leaves = self.v2.as_ref();
        for dir in self.v1_agent.iter().chain(leaves.map(|leaves| &leaves.0)) {
            expect(dir, agent)?;
        }
        for dir in self.v1_program.iter().chain(leaves.map(|leaves| &leaves.1)) {
            expect(dir, program)?;
        }
        Ok(())
    }

    pub(crate) fn bind(&self, limits: &GroupLimits) -> io::Result<()> {
        if let Some(memory) = &self.memory {
            limit_memory(memory.v2, &memory.program, limits.memory_bytes)?;
            limit_memory(memory.v2, &memory.agent, limits.agent_memory_bytes)?;
        }
        if let Some(pids) = &self.pids {
            fs::write(pids.program.join("pids.max"), limits.processes.to_string())?;
        }
        if let (Some(cpu), Some(milli)) = (&self.cpu, limits.cpu_milli) {
            let quota = (milli * CPU_PERIOD_US / 1000).max(1000);
            if cpu.v2 {
                fs::write(cpu.program.join("cpu.max"), format!("{quota} {CPU_PERIOD_US}"))?;
            } else {
                fs::write(cpu.program.join("cpu.cfs_period_us"), CPU_PERIOD_US.to_string())?;
                fs::write(cpu.program.join("cpu.cfs_quota_us"), quota.to_string())?;
            }
        }
        Ok(())
    }

    /// No hierarchy holds this place.
    pub(crate) fn is_bare(&self) -> bool {
        self.v2.is_none() && self.v1_program.is_empty()
    }

    pub(crate) fn sample(&self) -> Sample {
        self.gauges.read()
    }

    pub(crate) fn oom_watch(&self) -> io::Result<Option<OomWatch>> {
        self.memory.as_ref().map(OomWatch::open).transpose()
    }

    /// Kills what is in the program's leaf, and nothing else. On v1 a fork may slip past one pass,
    /// so passes are repeated until the leaf is empty or `patience` is over.
    pub(crate) fn kill_program(&self, patience: Duration) -> io::Result<()> {
        if let Some((_, program)) = &self.v2 {
            return fs::write(program.join("cgroup.kill"), "1");
        }
        match self.v1_program.first() {
            Some(dir) => kill_members(dir, patience).map(drop),
            None => Ok(()),
        }
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
        let leaves = self.v2.iter().flat_map(|(agent, program)| [program, agent]);
        leaves.chain(&self.v1_program).chain(&self.v1_agent)
    }
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
