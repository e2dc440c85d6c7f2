//! The launcher process: takes orders, clones, hands out pidfds. It is executed, not forked, so it
//! carries nothing of the server; it is small, so its clones are cheap; it has one thread.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::process::{DumpableBehavior, Uid};
use rustix::thread::CapabilitiesSecureBits;

use crate::packets;
use crate::protocol::{Order, encode_answer};
use crate::sys::{self, Birth};

const NAMESPACES: u64 = (libc::CLONE_NEWUSER
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP) as u64;

/// Serves until the server closes its end. Every place is bound to this process's life.
///
/// # Errors
/// The channel is unusable.
pub fn serve(control: i32, executable: i32) -> io::Result<()> {
    // The numbers that a place is born with are kept taken, so that nothing the launcher holds or
    // receives is overwritten when a child arranges its own.
    let control = above_reserved(sys::inherited(control)?)?;
    let executable = above_reserved(sys::inherited(executable)?)?;
    let mut reserved = Vec::new();
    while reserved.last().is_none_or(|fd: &OwnedFd| fd.as_raw_fd() < sys::LAST_RESERVED_FD) {
        reserved.push(rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), sys::SETUP_FD)?);
    }
    let privileged = rustix::process::geteuid().is_root();
    if privileged {
        // Capabilities must outlive the change of effective id around a clone.
        rustix::thread::set_capabilities_secure_bits(CapabilitiesSecureBits::NO_SETUID_FIXUP)?;
        // An ordinary user's launcher stays dumpable: its children's id maps could not be written.
        rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    }
    sys::ignore_signal(libc::SIGCHLD);
    let argv = [CString::from(c"hood-agent"), CString::from(c"place")];
    loop {
        let packet = packets::receive(&control)?;
        if packet.bytes.is_empty() {
            return Ok(());
        }
        let order = Order::decode(&packet.bytes).ok_or(io::ErrorKind::InvalidData)?;
        let born =
            launch(order, packet.fds, Executable { file: executable.as_fd(), argv: &argv }, privileged);
        let (number, pidfd) = match &born {
            Ok((pid, pidfd)) => (i32::try_from(*pid).unwrap_or(-libc::EOVERFLOW), Some(pidfd.as_fd())),
            Err(error) => (-error.raw_os_error().unwrap_or(libc::EINVAL), None),
        };
        packets::send(&control, &encode_answer(order.sequence, number), pidfd.as_slice())?;
    }
}

fn above_reserved(fd: OwnedFd) -> io::Result<OwnedFd> {
    Ok(rustix::io::fcntl_dupfd_cloexec(&fd, sys::LAST_RESERVED_FD + 1)?)
}

#[derive(Clone, Copy)]
struct Executable<'a> {
    file: BorrowedFd<'a>,
    argv: &'a [CString],
}

fn launch(
    order: Order,
    fds: Vec<OwnedFd>,
    executable: Executable<'_>,
    privileged: bool,
) -> io::Result<(u32, OwnedFd)> {
    let mut fds = fds.into_iter();
    let mut next = || fds.next().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData));
    let (setup, link, image) = (next()?, next()?, next()?);
    let id_lock = order.has_lock.then(&mut next).transpose()?;
    let cgroup = order.has_cgroup.then(&mut next).transpose()?;
    // The new mount namespace turns this directory into the same one of its own copy of the mounts:
    // the place enters its image without needing rights on the path to it.
    rustix::process::fchdir(&image)?;
    let owner = order.owner.filter(|_| privileged);
    if let Some(owner) = owner {
        rustix::thread::set_thread_res_uid(None, Some(Uid::from_raw(owner)), None)?;
    }
    let born = sys::bear(&Birth {
        namespaces: NAMESPACES,
        cgroup: cgroup.as_ref().map(AsFd::as_fd),
        setup: setup.as_fd(),
        link: link.as_fd(),
        id_lock: id_lock.as_ref().map(AsFd::as_fd),
        executable: executable.file,
        argv: executable.argv,
    });
    if owner.is_some() {
        rustix::thread::set_thread_res_uid(None, Some(Uid::ROOT), None)?;
    }
    rustix::process::chdir("/")?;
    born
}
