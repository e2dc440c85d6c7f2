//! Where no cgroup counts, the agent does: coarse, and said so on every result.

use std::time::Duration;

use rustix::fs::{Mode, OFlags, RawDir};

/// How often it looks.
pub(crate) const EVERY: Duration = Duration::from_millis(20);

/// What the place's processes use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sampled {
    pub(crate) processes: u64,
    pub(crate) memory_bytes: u64,
}

/// Adds up the processes but the agent and `waiting`: private memory each, and the tmpfs once.
pub(crate) fn sample(waiting: &[i32]) -> Sampled {
    let mut sampled = Sampled::default();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(proc) = rustix::fs::open("/proc", flags, Mode::empty()) else { return sampled };
    let mut space = Vec::with_capacity(8192);
    let mut entries = RawDir::new(&proc, space.spare_capacity_mut());
    while let Some(Ok(entry)) = entries.next() {
        let name = entry.file_name().to_string_lossy();
        let Ok(pid) = name.parse::<i32>() else { continue };
        if pid == 1 || waiting.contains(&pid) {
            continue;
        }
        sampled.processes += 1;
        sampled.memory_bytes += private_bytes(&name).unwrap_or(0);
    }
    if let Ok(disk) = rustix::fs::statvfs("/eval") {
        sampled.memory_bytes += disk.f_blocks.saturating_sub(disk.f_bfree) * disk.f_frsize;
    }
    sampled
}

/// Resident pages that are not shared with a file or another process's tmpfs.
fn private_bytes(pid: &str) -> Option<u64> {
    /// What statm counts in, on the architectures that the agent is built for.
    const PAGE_BYTES: u64 = 4096;
    let path = format!("/proc/{pid}/statm");
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let mut text = [0; 128];
    let length = rustix::io::read(&file, &mut text).ok()?;
    let text = std::str::from_utf8(&text[..length]).ok()?;
    let mut fields = text.split(' ').skip(1).map(|field| field.parse::<u64>().unwrap_or(0));
    let (resident, shared) = (fields.next()?, fields.next()?);
    Some(resident.saturating_sub(shared) * PAGE_BYTES)
}
