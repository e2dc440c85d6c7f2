//! Where an ordinary user may map one id only, agent and program are the same user. Then the program
//! lives in user, pid, mount and ipc namespaces within the place's, in which the agent has no number:
//! it cannot be named, so it cannot be reached.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsRawFd as _;

use rustix::thread::CapabilitySet;

use super::{Step, StepFailed, privilege, root};
use crate::protocol::{AGENT_ID, PROGRAM_ID};
use crate::sys::{self, Fork};

const NAMESPACES: libc::c_int =
    libc::CLONE_NEWUSER | libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWCGROUP;

/// Goes through with a child of the *agent*, which is born within: it returns there alone, and its
/// pid as the agent sees it has been told. The caller and the inner PID 1 never return.
pub(super) fn enter(command: &mut File) -> Result<(), StepFailed> {
    sys::unshare(NAMESPACES).step("enter nested namespaces")?;
    map_own_id().step("map the id in the nested namespace")?;
    start_inner_init()?;
    match sys::fork_sibling().step("fork the program's starter within")? {
        Fork::Child => Ok(()),
        Fork::Parent(pid) => {
            let mut answer = vec![0];
            answer.extend_from_slice(&pid.to_le_bytes());
            command.write_all(&answer).step("tell the starter's pid")?;
            sys::exit_now(0)
        }
    }
}

fn map_own_id() -> io::Result<()> {
    std::fs::write("/proc/self/setgroups", "deny")?;
    let map = format!("{PROGRAM_ID} {AGENT_ID} 1\n");
    std::fs::write("/proc/self/uid_map", &map)?;
    std::fs::write("/proc/self/gid_map", &map)
}

/// The first child is the inner namespace's PID 1: it mounts the proc that the program sees, then only
/// reaps. The program is its neighbour and not its parent's child, so a signal that it sends itself
/// works as it does everywhere else.
fn start_inner_init() -> Result<(), StepFailed> {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).step("make a pipe")?;
    match sys::fork_single_threaded().step("fork the inner init")? {
        Fork::Child => {
            drop(read);
            let ready = mount_proc().is_ok()
                && privilege::keep(CapabilitySet::empty()).is_ok()
                // The starter's socket among others: its end is how a start is seen.
                && sys::close_all_but(write.as_raw_fd()).is_ok();
            // Said by one byte; a failure by none.
            if ready && File::from(write).write_all(&[0]).is_ok() {
                sys::reap_for_ever()
            }
            sys::exit_now(70)
        }
        Fork::Parent(_) => {
            drop(write);
            let mut said = [0];
            File::from(read).read_exact(&mut said).step("mount the nested proc")
        }
    }
}

fn mount_proc() -> Result<(), StepFailed> {
    root::mount_proc("/proc").step("mount the nested proc")?;
    root::mask_proc()
}
