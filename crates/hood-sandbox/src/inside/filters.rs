//! Which system calls the program and the agent may make.
//!
//! For the program: what ordinary programs and interpreters use is allowed; what reaches beyond a
//! process that owns nothing (namespaces, mounts, keys, BPF, tracing, modules, clocks) is EPERM; what
//! is on neither list, future calls included, is ENOSYS, which libraries answer with the older call.

mod agent_list;
mod filter_list;
mod least_list;
mod program_list;
mod recluse_list;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::bpf::{self, Verdict};
use crate::protocol::SystemCalls;
use crate::sys::{self, Instruction};

/// The program's filter. A foreign architecture asks the listener, which is the agent: it records
/// the call and kills, so that nobody has to guess from a SIGSYS who raised it.
pub(super) fn for_program(calls: SystemCalls) -> Vec<Instruction> {
    let mut rules = program_list::rules();
    if calls == SystemCalls::Least {
        // One filter more follows, which refuses this.
        rules.retain(|(number, _)| *number != libc::SYS_seccomp);
        rules.push((libc::SYS_seccomp, Verdict::Allow));
    }
    bpf::compile(&rules, Verdict::Errno(libc::ENOSYS as u16), Verdict::Notify)
}

/// On top of the program's filter, which goes on counting, where only the least is allowed. It comes
/// second because the first one's listener has to be sent to the agent, and nothing is sent under this.
pub(super) fn on_top(calls: SystemCalls) -> Option<Vec<Instruction>> {
    let least = || bpf::compile(&least_list::rules(), Verdict::Errno(libc::ENOSYS as u16), Verdict::Allow);
    (calls == SystemCalls::Least).then(least)
}

/// The agent's filter. It never needs more than this list, so anything else is an attack.
pub(super) fn for_agent() -> Vec<Instruction> {
    let rules: Vec<_> = agent_list::CALLS.iter().map(|number| (*number, Verdict::Allow)).collect();
    bpf::compile(&rules, Verdict::Kill, Verdict::Kill)
}

/// For a process that turns bytes into bytes. Anything else is an attack.
pub(super) fn for_filter() -> Vec<Instruction> {
    let rules: Vec<_> = filter_list::CALLS.iter().map(|number| (*number, Verdict::Allow)).collect();
    bpf::compile(&rules, Verdict::Kill, Verdict::Kill)
}

/// The filter of a process that moves bytes between what it has open. Libraries ask for more than they
/// need and go on without: what is not on the list is ENOSYS.
pub(crate) fn for_recluse() -> Vec<Instruction> {
    let rules: Vec<_> = recluse_list::CALLS.iter().map(|number| (*number, Verdict::Allow)).collect();
    bpf::compile(&rules, Verdict::Errno(libc::ENOSYS as u16), Verdict::Kill)
}

/// A call through a foreign architecture's entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ForeignCall {
    /// `AUDIT_ARCH_*`, as the kernel names the entry.
    pub arch: u32,
    /// The number that was asked for.
    pub number: u32,
}

/// Where the kernel reports calls through a foreign architecture's entry. The caller is held until
/// it is killed.
#[derive(Debug)]
pub struct ForeignCalls {
    listener: OwnedFd,
}

impl ForeignCalls {
    pub(super) fn new(listener: OwnedFd) -> Self {
        Self { listener }
    }

    /// The call that is waiting; `None` if its caller is gone already.
    ///
    /// # Errors
    /// The kernel refused to tell.
    pub fn take(&self) -> io::Result<Option<ForeignCall>> {
        let call = sys::receive_notification(self.listener.as_fd())?;
        Ok(call.map(|(arch, number)| ForeignCall { arch, number }))
    }
}

impl AsFd for ForeignCalls {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}
