//! Capabilities, and what PID 1 may still do without most of them.

use std::io;

use rustix::fs::{Mode, OFlags, RawDir};
use rustix::process::{Pid, Signal};
use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::sys;

/// Holds exactly `wanted` from now on.
pub(super) fn keep(wanted: CapabilitySet) -> io::Result<()> {
    let sets = CapabilitySets { effective: wanted, permitted: wanted, inheritable: CapabilitySet::empty() };
    Ok(rustix::thread::set_capabilities(None, sets)?)
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It called exit.
    Code(u8),
    /// A signal ended it.
    Signal(u8),
}

/// A child that was reaped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reaped {
    /// Its pid in the place.
    pub pid: i32,
    /// How it ended.
    pub ended: Ended,
    /// User CPU, with that of the children it waited for.
    pub user_us: u64,
    /// System CPU, likewise.
    pub system_us: u64,
    /// Its largest resident set.
    pub max_rss_bytes: u64,
}

/// Reaps one ended child. `Ok(None)`: all live. An error of `ECHILD`: there is none.
///
/// # Errors
/// As wait4(2).
pub fn reap() -> io::Result<Option<Reaped>> {
    let low = |value: i32| value.to_le_bytes()[0];
    Ok(sys::reap_one()?.map(|raw| Reaped {
        pid: raw.pid,
        ended: if libc::WIFSIGNALED(raw.status) {
            Ended::Signal(low(libc::WTERMSIG(raw.status)))
        } else {
            Ended::Code(low(libc::WEXITSTATUS(raw.status)))
        },
        user_us: raw.user_us,
        system_us: raw.system_us,
        max_rss_bytes: raw.max_rss_bytes,
    }))
}

/// Sends a signal to every process of the place but the caller, which must be its PID 1.
///
/// # Errors
/// As kill(2); `ESRCH` means that there is nobody.
pub fn signal_everyone(signal: i32) -> io::Result<()> {
    if rustix::process::getpid() != Pid::INIT {
        // Anywhere else, -1 would reach beyond the place.
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    sys::signal_all(signal)
}

/// Sends a signal to every process of the place but the caller, which must be its PID 1, and `spared`.
/// Gives how many there were. One that forks may get ahead of this: only none left is an answer.
///
/// # Errors
/// The processes cannot be listed.
pub fn signal_all_but(spared: &[i32], signal: i32) -> io::Result<usize> {
    if rustix::process::getpid() != Pid::INIT {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let signal = Signal::from_named_raw(signal).ok_or(io::ErrorKind::InvalidInput)?;
    let mut others = processes()?;
    others.retain(|pid| !spared.contains(pid) && Pid::from_raw(*pid) != Some(Pid::INIT));
    for pid in others.iter().filter_map(|pid| Pid::from_raw(*pid)) {
        // Gone already: what was wanted.
        let _ = rustix::process::kill_process(pid, signal);
    }
    Ok(others.len())
}

/// The place's processes, those that have ended and were not reaped included.
pub(super) fn processes() -> io::Result<Vec<i32>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let proc = rustix::fs::open("/proc", flags, Mode::empty())?;
    let mut space = Vec::with_capacity(8192);
    let mut entries = RawDir::new(&proc, space.spare_capacity_mut());
    let mut pids = Vec::new();
    while let Some(entry) = entries.next() {
        pids.extend(entry?.file_name().to_str().ok().and_then(|name| name.parse::<i32>().ok()));
    }
    Ok(pids)
}
