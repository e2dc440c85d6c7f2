//! Landlock: the program's rights to files, stated once more where no mount or mode can be wrong,
//! and its signals and abstract sockets kept to itself.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};

use crate::sys;

const EXECUTE: u64 = 1 << 0;
const WRITE_FILE: u64 = 1 << 1;
const READ_FILE: u64 = 1 << 2;
const READ_DIR: u64 = 1 << 3;
const MAKE_CHAR: u64 = 1 << 6;
const MAKE_BLOCK: u64 = 1 << 11;
const REFER: u64 = 1 << 13;
const TRUNCATE: u64 = 1 << 14;
const IOCTL_DEV: u64 = 1 << 15;

const SCOPE_ABSTRACT_SOCKETS: u64 = 1 << 0;
const SCOPE_SIGNALS: u64 = 1 << 1;

const NET_BIND: u64 = 1 << 0;
const NET_CONNECT: u64 = 1 << 1;
/// The first ABI with TCP.
const NET_SINCE: u32 = 4;

/// The first ABI with scopes.
pub(super) const SCOPES_SINCE: u32 = 6;

/// Every file right that the running kernel knows.
fn all_rights(abi: u32) -> u64 {
    let mut rights = REFER - 1;
    if abi >= 2 {
        rights |= REFER;
    }
    if abi >= 3 {
        rights |= TRUNCATE;
    }
    if abi >= 5 {
        rights |= IOCTL_DEV;
    }
    rights
}

/// Confines this process. Without Landlock in the kernel there is nothing to do; the place's layers
/// say so before anything runs.
pub(super) fn confine() -> io::Result<()> {
    let abi = sys::landlock_abi();
    if abi == 0 {
        return Ok(());
    }
    let all = all_rights(abi);
    let scoped = if abi >= SCOPES_SINCE { SCOPE_ABSTRACT_SOCKETS | SCOPE_SIGNALS } else { 0 };
    let ruleset = sys::landlock_ruleset(abi, all, 0, scoped)?;
    let read = EXECUTE | READ_FILE | READ_DIR;
    let own = all & !(MAKE_CHAR | MAKE_BLOCK);
    let write = all & (WRITE_FILE | TRUNCATE);
    allow(&ruleset, "/", read)?;
    for path in ["/eval", "/tmp", "/dev/shm"] {
        allow(&ruleset, path, own)?;
    }
    for path in ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"] {
        allow(&ruleset, path, READ_FILE | WRITE_FILE)?;
    }
    // Its own entries: names of threads, oom_score_adj. The process keeps its number over exec.
    allow(&ruleset, "/proc/self", read | write)?;
    sys::landlock_enforce(ruleset.as_fd())
}

/// Takes every right to files, sockets and signals. Without Landlock in the kernel the seccomp filter
/// stands alone, which knows no call that opens anything.
pub(super) fn forbid_everything() -> io::Result<()> {
    let abi = sys::landlock_abi();
    if abi == 0 {
        return Ok(());
    }
    let scoped = if abi >= SCOPES_SINCE { SCOPE_ABSTRACT_SOCKETS | SCOPE_SIGNALS } else { 0 };
    let ruleset = sys::landlock_ruleset(abi, all_rights(abi), 0, scoped)?;
    sys::landlock_enforce(ruleset.as_fd())
}

/// Leaves this process nothing that has a name but what lies beneath `dir`, and no network.
pub(crate) fn confine_to(dir: BorrowedFd<'_>) -> io::Result<()> {
    let abi = sys::landlock_abi();
    if abi == 0 {
        return Ok(());
    }
    let all = all_rights(abi);
    let scoped = if abi >= SCOPES_SINCE { SCOPE_ABSTRACT_SOCKETS | SCOPE_SIGNALS } else { 0 };
    let net = if abi >= NET_SINCE { NET_BIND | NET_CONNECT } else { 0 };
    let ruleset = sys::landlock_ruleset(abi, all, net, scoped)?;
    sys::landlock_allow(ruleset.as_fd(), dir, all & !(EXECUTE | MAKE_CHAR | MAKE_BLOCK))?;
    sys::landlock_enforce(ruleset.as_fd())
}

fn allow(ruleset: &OwnedFd, path: &str, access: u64) -> io::Result<()> {
    let fd = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    sys::landlock_allow(ruleset.as_fd(), fd.as_fd(), access)
}
