//! What is written before a place exists, so that a successor can find and bury it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal};

use crate::cgroup;

/// How long a killed place may take to be gone: the kernel frees its memory in this time.
const BURIAL_PATIENCE: Duration = Duration::from_secs(10);
/// Record of a launcher's own cgroup directories, as opposed to a place's.
const INSTANCE: &str = "instance.";

/// A record on disk.
#[derive(Debug)]
pub(super) struct Record {
    path: PathBuf,
    boot: String,
    groups: Vec<PathBuf>,
}

impl Record {
    pub(super) fn place(state_dir: &Path, id: &str, groups: Vec<PathBuf>) -> io::Result<Self> {
        Self::write(state_dir, id, groups)
    }

    pub(super) fn instance(state_dir: &Path, id: &str, groups: Vec<PathBuf>) -> io::Result<Self> {
        Self::write(state_dir, &format!("{INSTANCE}{id}"), groups)
    }

    fn write(state_dir: &Path, name: &str, groups: Vec<PathBuf>) -> io::Result<Self> {
        let dir = state_dir.join("places");
        fs::create_dir_all(&dir)?;
        let record = Self { path: dir.join(name), boot: boot_id()?, groups };
        record.save(None)?;
        Ok(record)
    }

    /// Adds the first process, once there is one.
    pub(super) fn born(&self, pid: u32) -> io::Result<()> {
        self.save(Some((pid, start_time(pid)?)))
    }

    /// Written aside and renamed: a reader sees the old record or the new one. It need not survive
    /// a power loss, because the processes do not.
    fn save(&self, process: Option<(u32, u64)>) -> io::Result<()> {
        let mut text = format!("boot {}\n", self.boot);
        for group in &self.groups {
            text.push_str(&format!("group {}\n", group.display()));
        }
        if let Some((pid, start)) = process {
            text.push_str(&format!("process {pid} {start}\n"));
        }
        let aside = self.path.with_extension("new");
        fs::write(&aside, text)?;
        fs::rename(aside, &self.path)
    }

    pub(super) fn remove(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }
}

/// A place of a predecessor, and whether nothing of it is left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Buried {
    /// The id that [`crate::Place::id`] gave.
    pub place: String,
    /// Processes that were still alive.
    pub killed: usize,
    /// Why it is not proven dead, if it is not. Its record stays for the next try.
    pub unproven: Option<String>,
}

/// Kills and proves dead what a predecessor with the same state directory left. The caller must
/// hold whatever lock makes it the only user of that directory.
///
/// # Errors
/// The records cannot be listed. What went wrong with a single place is told in its [`Buried`].
pub fn bury_leftovers(state_dir: &Path) -> io::Result<Vec<Buried>> {
    let boot = boot_id()?;
    let mut buried = Vec::new();
    let mut instances = Vec::new();
    let entries = match fs::read_dir(state_dir.join("places")) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(buried),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let path = entry?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()).map(str::to_owned) else { continue };
        if path.extension().is_some_and(|extension| extension == "new") {
            // Half-written when its writer died; the record it was to replace is still there.
            fs::remove_file(&path)?;
        } else if name.starts_with(INSTANCE) {
            instances.push(path);
        } else {
            buried.push(bury_place(name, &path, &boot));
        }
    }
    for path in instances {
        // A directory that cannot go yet keeps its record, and the next start tries again.
        if bury_instance(&path).is_ok() {
            fs::remove_file(&path)?;
        }
    }
    Ok(buried)
}

fn bury_place(place: String, path: &Path, boot: &str) -> Buried {
    let mut killed = 0;
    let result = fs::read_to_string(path).and_then(|text| {
        let record = Parsed::read(&text);
        if record.boot == boot {
            killed = kill(&record)?;
        }
        for group in &record.groups {
            cgroup::remove_group(group, BURIAL_PATIENCE)?;
        }
        fs::remove_file(path)
    });
    Buried { place, killed, unproven: result.err().map(|error| error.to_string()) }
}

fn kill(record: &Parsed) -> io::Result<usize> {
    let mut killed = 0;
    for group in &record.groups {
        killed += cgroup::kill_group(group)?;
    }
    if let Some((pid, start)) = record.process {
        killed = killed.max(kill_process(pid, start)?);
    }
    Ok(killed)
}

/// Kills the first process if the pid is still its own; with it the kernel kills its namespace, and
/// its exit is reported only after every other process in there is gone.
fn kill_process(pid: u32, start: u64) -> io::Result<usize> {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Ok(0) };
    let pidfd = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => pidfd,
        Err(rustix::io::Errno::SRCH) => return Ok(0),
        Err(error) => return Err(error.into()),
    };
    // Read after the descriptor pins the process: if this is another's start, the pid was reused.
    if start_time(pid.as_raw_nonzero().get().unsigned_abs()).ok() != Some(start) {
        return Ok(0);
    }
    let _ = rustix::process::pidfd_send_signal(&pidfd, Signal::KILL);
    if await_readable(&pidfd, BURIAL_PATIENCE)? {
        return Ok(1);
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, format!("process {} does not end", pid.as_raw_nonzero())))
}

/// Whether `fd` became readable within `patience`; a pidfd does when its process has ended.
pub(super) fn await_readable(fd: &impl std::os::fd::AsFd, patience: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
        let mut fds = [PollFd::new(fd, PollFlags::IN)];
        match rustix::event::poll(&mut fds, Some(&timeout)) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn bury_instance(path: &Path) -> io::Result<()> {
    let record = Parsed::read(&fs::read_to_string(path)?);
    record.groups.iter().try_for_each(|group| cgroup::remove_group(group, Duration::ZERO))
}

#[derive(Debug, Default)]
struct Parsed {
    boot: String,
    groups: Vec<PathBuf>,
    process: Option<(u32, u64)>,
}

impl Parsed {
    fn read(text: &str) -> Self {
        let mut parsed = Self::default();
        for line in text.lines() {
            match line.split_once(' ') {
                Some(("boot", boot)) => boot.clone_into(&mut parsed.boot),
                Some(("group", path)) => parsed.groups.push(PathBuf::from(path)),
                Some(("process", rest)) => {
                    parsed.process = rest
                        .split_once(' ')
                        .and_then(|(pid, start)| Some((pid.parse().ok()?, start.parse().ok()?)));
                }
                _ => {}
            }
        }
        parsed
    }
}

fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// When a process started, in clock ticks since boot: with the pid, its identity.
fn start_time(pid: u32) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in parentheses may hold anything; 22 is counted from the start, 3 follows the name.
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    after_name
        .split_whitespace()
        .nth(22 - 3)
        .and_then(|word| word.parse().ok())
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}
