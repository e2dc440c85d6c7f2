//! A process that only turns bytes into bytes: it reads one descriptor, writes another, and is able to
//! do nothing else. For work on what strangers wrote that needs no program of theirs to run.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use rustix::process::{DumpableBehavior, Gid, Resource, Rlimit, Uid, setrlimit};
use rustix::thread::CapabilitySet;

use super::{Step, StepFailed, filters, landlock, privilege};
use crate::sys;

/// The host id that root's filters have: below those of places, and nobody's.
pub const FILTER_ID: u32 = 1_899_999_998;

/// Address space: the largest dictionary of a compressor and much more.
const MEMORY_BYTES: u64 = 1 << 30;

/// CPU time, in seconds: what takes longer is no archive but an attack.
const CPU_S: u64 = 900;

/// Confines this process for ever, which must have one thread and have read nothing yet. What stays
/// open is `input` and the three standard descriptors.
///
/// # Errors
/// A step that must hold did not.
pub fn become_filter(input: BorrowedFd<'_>) -> Result<(), StepFailed> {
    let set = |resource, value| setrlimit(resource, Rlimit { current: Some(value), maximum: Some(value) });
    for (resource, value) in [
        (Resource::As, MEMORY_BYTES),
        (Resource::Cpu, CPU_S),
        (Resource::Fsize, 0),
        (Resource::Memlock, 0),
        (Resource::Core, 0),
    ] {
        set(resource, value).step("set resource limits")?;
    }
    sys::close_all_but(input.as_raw_fd()).step("close descriptors")?;
    if rustix::process::geteuid().is_root() {
        change_ids().step("give up root")?;
    }
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .step("hide from other processes")?;
    privilege::keep(CapabilitySet::empty()).step("drop all capabilities")?;
    rustix::thread::set_no_new_privs(true).step("renounce new privileges")?;
    landlock::forbid_everything().step("install the Landlock rules")?;
    sys::install_filter(&filters::for_filter()).step("install the seccomp filter")
}

fn change_ids() -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(FILTER_ID), Gid::from_raw(FILTER_ID));
    sys::empty_bounding_set()?;
    rustix::thread::set_thread_groups(&[])?;
    match rustix::thread::set_thread_res_gid(Some(gid), Some(gid), Some(gid)) {
        // In a user namespace without this id, whose root is an ordinary user of the host.
        Err(rustix::io::Errno::INVAL) => return Ok(()),
        other => other?,
    }
    Ok(rustix::thread::set_thread_res_uid(Some(uid), Some(uid), Some(uid))?)
}
