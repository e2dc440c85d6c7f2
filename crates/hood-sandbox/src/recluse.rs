//! A process that can do nothing but read and write through what it has open: for work on hostile
//! bytes that needs no place, such as unpacking an image.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};

use rustix::process::{DumpableBehavior, Gid, Resource, Rlimit, Signal, Uid, setrlimit};

use crate::inside::{confine_to, for_recluse};
use crate::sys;

/// What a recluse keeps.
#[derive(Clone, Copy, Debug)]
pub struct Recluse<'a> {
    /// The only directory beneath which it can reach files by name.
    pub dir: BorrowedFd<'a>,
    /// The user and group that it becomes, where it is root.
    pub id: Option<u32>,
    /// CPU time after which the kernel kills it.
    pub cpu_seconds: u64,
    /// Memory that it can map.
    pub address_space: u64,
    pub open_files: u64,
}

impl Recluse<'_> {
    /// Gives up the rest, for ever. The caller has no other thread.
    ///
    /// # Errors
    /// A step was refused: what the process was to do must not be done.
    pub fn enter(&self) -> io::Result<()> {
        // Whoever started it and is gone has no use for what it makes.
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        if let Some(id) = self.id {
            rustix::thread::set_thread_groups(&[])?;
            let (uid, gid) = (Uid::from_raw(id), Gid::from_raw(id));
            rustix::thread::set_thread_res_gid(Some(gid), Some(gid), Some(gid))?;
            rustix::thread::set_thread_res_uid(Some(uid), Some(uid), Some(uid))?;
            // A change of ids takes the signal back.
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        }
        for (resource, most) in [
            (Resource::Cpu, self.cpu_seconds),
            (Resource::As, self.address_space),
            (Resource::Nofile, self.open_files),
            // A piped core_pattern heeds 1 and not 0.
            (Resource::Core, 1),
        ] {
            setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })?;
        }
        rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
        rustix::thread::set_no_new_privs(true)?;
        confine_to(self.dir.as_fd())?;
        sys::install_filter(&for_recluse())
    }
}
