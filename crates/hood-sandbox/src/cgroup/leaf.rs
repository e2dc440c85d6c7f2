//! What one phase of a place runs in: one leaf in each hierarchy.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::gauges::Gauges;
use super::{
    Controlled, EMPTY_POLL, OomWatch, Sample, Seats, is_empty, kill_group, kill_members, limit_memory,
};

/// A period of the CPU controller; quota is given for this many microseconds.
const CPU_PERIOD_US: u64 = 100_000;

/// The groups of a phase.
#[derive(Debug)]
pub(crate) struct Leaf {
    v2: Option<PathBuf>,
    v1: Vec<PathBuf>,
    memory: Option<Controlled>,
    pids: Option<Controlled>,
    cpu: Option<Controlled>,
    gauges: Gauges,
}

impl Leaf {
    pub(super) fn create(seats: &Seats<'_>, role: &str) -> io::Result<Self> {
        let layout = seats.layout;
        let v2 = seats.v2(role);
        let [memory, pids, cpu, cpuacct] = [&layout.memory, &layout.pids, &layout.cpu, &layout.cpuacct]
            .map(|seat| seats.controlled(seat, role));
        let mut v1: Vec<PathBuf> = Vec::new();
        for one in [&memory, &pids, &cpu, &cpuacct].into_iter().flatten().filter(|one| !one.v2) {
            if !v1.contains(&one.dir) {
                v1.push(one.dir.clone());
            }
        }
        for dir in v1.iter().chain(&v2) {
            fs::create_dir(dir)?;
        }
        let gauges = Gauges::open([&memory, &pids, &cpu, &cpuacct]);
        Ok(Self { v2, v1, memory, pids, cpu, gauges })
    }

    pub(super) fn dirs(&self) -> impl Iterator<Item = &PathBuf> {
        self.v2.iter().chain(&self.v1)
    }

    pub(super) fn is_bare(&self) -> bool {
        self.v2.is_none() && self.v1.is_empty()
    }

    pub(super) fn bind(&self, memory_bytes: u64, processes: u64, cpu_milli: Option<u64>) -> io::Result<()> {
        if let Some(memory) = &self.memory {
            limit_memory(memory.v2, &memory.dir, memory_bytes)?;
        }
        if let Some(pids) = &self.pids {
            fs::write(pids.dir.join("pids.max"), processes.to_string())?;
        }
        if let (Some(cpu), Some(milli)) = (&self.cpu, cpu_milli) {
            let quota = (milli * CPU_PERIOD_US / 1000).max(1000);
            if cpu.v2 {
                fs::write(cpu.dir.join("cpu.max"), format!("{quota} {CPU_PERIOD_US}"))?;
            } else {
                fs::write(cpu.dir.join("cpu.cfs_period_us"), CPU_PERIOD_US.to_string())?;
                fs::write(cpu.dir.join("cpu.cfs_quota_us"), quota.to_string())?;
            }
        }
        Ok(())
    }

    pub(crate) fn sample(&self) -> Sample {
        self.gauges.read()
    }

    pub(crate) fn oom_watch(&self) -> io::Result<Option<OomWatch>> {
        self.memory.as_ref().map(OomWatch::open).transpose()
    }

    /// Kills what is in the leaf, and nothing else. On v1 a fork may slip past one pass, so passes are
    /// repeated until the leaf is empty or `patience` is over.
    pub(crate) fn kill(&self, patience: Duration) -> io::Result<()> {
        match (&self.v2, self.v1.first()) {
            (Some(dir), _) => fs::write(dir.join("cgroup.kill"), "1"),
            (None, Some(dir)) => kill_members(dir, patience).map(drop),
            (None, None) => Ok(()),
        }
    }

    /// As [`Leaf::kill`], and returns with the proof that nothing is in it, in any hierarchy.
    pub(crate) fn clear(&self, patience: Duration) -> io::Result<()> {
        let deadline = Instant::now() + patience;
        for dir in self.dirs() {
            while !is_empty(dir)? {
                kill_group(dir)?;
                if Instant::now() >= deadline {
                    let message = format!("{} does not become empty", dir.display());
                    return Err(io::Error::new(io::ErrorKind::TimedOut, message));
                }
                std::thread::sleep(EMPTY_POLL);
            }
        }
        Ok(())
    }
}
