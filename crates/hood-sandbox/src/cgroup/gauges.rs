//! What the groups measured, read from outside.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use rustix::fs::inotify;

use super::Controlled;

/// The program's group at one moment. `None`: no controller measures it here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sample {
    /// Memory in use, page cache and tmpfs included.
    pub memory_bytes: Option<u64>,
    /// The most memory that was in use since the limits were bound.
    pub memory_peak_bytes: Option<u64>,
    /// Processes that the OOM killer took.
    pub oom_kills: Option<u64>,
    /// CPU time in user mode.
    pub user_us: Option<u64>,
    /// CPU time in the kernel.
    pub system_us: Option<u64>,
    /// Time in which the CPU quota held it back.
    pub throttled_us: Option<u64>,
    /// Processes and threads.
    pub processes: Option<u64>,
    /// The most processes and threads at once. Older kernels do not say.
    pub processes_peak: Option<u64>,
    /// Forks that the limit refused.
    pub forks_refused: Option<u64>,
}

/// The files, open since the place was made: a sample is a handful of reads.
#[derive(Debug)]
pub(super) struct Gauges {
    memory: Option<File>,
    memory_peak: Option<File>,
    oom: Option<File>,
    user: Option<File>,
    system: Option<File>,
    /// v2: `cpu.stat` holds user, system and throttled time at once.
    cpu_stat: Option<(bool, File)>,
    pids: Option<File>,
    pids_peak: Option<File>,
    pids_events: Option<File>,
}

impl Gauges {
    pub(super) fn open([memory, pids, cpu, cpuacct]: [&Option<Controlled>; 4]) -> Self {
        let open = |group: &Option<Controlled>, v2: &str, v1: &str| {
            let group = group.as_ref()?;
            let name = if group.v2 { v2 } else { v1 };
            (!name.is_empty()).then(|| File::open(group.dir.join(name)).ok()).flatten()
        };
        Self {
            memory: open(memory, "memory.current", "memory.usage_in_bytes"),
            memory_peak: open(memory, "memory.peak", "memory.max_usage_in_bytes"),
            oom: open(memory, "memory.events", "memory.oom_control"),
            user: open(cpuacct, "", "cpuacct.usage_user"),
            system: open(cpuacct, "", "cpuacct.usage_sys"),
            cpu_stat: open(cpu, "cpu.stat", "cpu.stat")
                .zip(cpu.as_ref())
                .map(|(file, group)| (group.v2, file)),
            pids: open(pids, "pids.current", "pids.current"),
            pids_peak: open(pids, "pids.peak", "pids.peak"),
            pids_events: open(pids, "pids.events", "pids.events"),
        }
    }

    pub(super) fn read(&self) -> Sample {
        let number = |file: &Option<File>| text(file.as_ref()?)?.trim().parse::<u64>().ok();
        let within = |file: &Option<File>, key| number_after(&text(file.as_ref()?)?, key);
        let mut sample = Sample {
            memory_bytes: number(&self.memory),
            memory_peak_bytes: number(&self.memory_peak),
            oom_kills: within(&self.oom, "oom_kill"),
            user_us: number(&self.user).map(|ns| ns / 1000),
            system_us: number(&self.system).map(|ns| ns / 1000),
            throttled_us: None,
            processes: number(&self.pids),
            processes_peak: number(&self.pids_peak),
            forks_refused: within(&self.pids_events, "max"),
        };
        if let Some((v2, stat)) = self.cpu_stat.as_ref().and_then(|(v2, file)| Some((*v2, text(file)?))) {
            if v2 {
                sample.user_us = number_after(&stat, "user_usec");
                sample.system_us = number_after(&stat, "system_usec");
                sample.throttled_us = number_after(&stat, "throttled_usec");
            } else {
                sample.throttled_us = number_after(&stat, "throttled_time").map(|ns| ns / 1000);
            }
        }
        sample
    }
}

/// A group's files fit a page.
fn text(file: &File) -> Option<String> {
    let mut page = [0; 4096];
    let length = file.read_at(&mut page, 0).ok()?;
    String::from_utf8(page[..length].to_vec()).ok()
}

/// The number behind `key` in a file of `key number` lines.
pub(super) fn number_after(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

/// A descriptor that becomes readable when memory ran out in the program's group; then
/// [`Sample::oom_kills`] says whether something was killed. Read it empty before waiting again.
#[derive(Debug)]
pub struct OomWatch {
    fd: OwnedFd,
    /// v1 delivers for as long as the watched file stays open.
    _source: Option<File>,
}

impl OomWatch {
    pub(super) fn open(memory: &Controlled) -> io::Result<Self> {
        if memory.v2 {
            let flags = inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC;
            let fd = inotify::init(flags)?;
            inotify::add_watch(&fd, memory.dir.join("memory.events"), inotify::WatchFlags::MODIFY)?;
            return Ok(Self { fd, _source: None });
        }
        let flags = rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK;
        let fd = rustix::event::eventfd(0, flags)?;
        let source = File::open(memory.dir.join("memory.oom_control"))?;
        let control: PathBuf = memory.dir.join("cgroup.event_control");
        fs::write(control, format!("{} {}", fd.as_raw_fd(), source.as_raw_fd()))?;
        Ok(Self { fd, _source: Some(source) })
    }
}

impl AsFd for OomWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for OomWatch {
    fn as_raw_fd(&self) -> i32 {
        self.fd.as_raw_fd()
    }
}
