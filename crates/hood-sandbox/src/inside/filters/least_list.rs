//! The least list: one process of an interpreter that computes, reads and writes its own files, and
//! has threads. Found by tracing CPython through its standard library, and held to it by running it.

use std::collections::BTreeMap;

use libc::c_long;

use super::super::bpf::{Condition, Verdict};
use super::program_list;

const EPERM: u16 = libc::EPERM as u16;

/// Threads; no other process. What a thread may not bring along is for the ordinary list to say.
const CLONE: Verdict = Verdict::Unless(&[&[Condition::With(0, libc::CLONE_THREAD as u32)]], EPERM);
/// Whether it is a terminal and how wide, and what a descriptor is like. The error is what the kernel
/// gives for a request that a file does not know.
const IOCTL: Verdict = Verdict::Unless(
    &[&[Condition::In(
        1,
        &[
            libc::TCGETS as u32,
            libc::TIOCGWINSZ as u32,
            libc::FIOCLEX as u32,
            libc::FIONCLEX as u32,
            libc::FIONBIO as u32,
        ],
    )]],
    libc::ENOTTY as u16,
);
/// Copies, flags and locks; nobody is made the owner of a signal, and no lease is taken.
const FCNTL: Verdict = Verdict::Unless(
    &[&[Condition::In(
        1,
        &[
            libc::F_DUPFD as u32,
            libc::F_DUPFD_CLOEXEC as u32,
            libc::F_GETFD as u32,
            libc::F_SETFD as u32,
            libc::F_GETFL as u32,
            libc::F_SETFL as u32,
            libc::F_GETLK as u32,
            libc::F_SETLK as u32,
            libc::F_SETLKW as u32,
        ],
    )]],
    EPERM,
);
/// To ask; no limit changes.
const PRLIMIT: Verdict = Verdict::Unless(&[&[Condition::Null(2)]], EPERM);
/// What copies files goes on without attributes where there are none.
const NO_ATTRIBUTES: Verdict = Verdict::Errno(libc::EOPNOTSUPP as u16);
const NO_SOCKETS: Verdict = Verdict::Errno(libc::EAFNOSUPPORT as u16);

/// What is not in here is ENOSYS: a call that is newer than the list.
pub(super) fn rules() -> Vec<(c_long, Verdict)> {
    let mut rules: BTreeMap<c_long, Verdict> = BTreeMap::new();
    // Something that a program may well ask for is refused, and not missing.
    for (number, _) in program_list::rules() {
        if !WITH_AN_OLDER_ONE.contains(&number) {
            rules.insert(number, Verdict::Errno(EPERM));
        }
    }
    rules.extend(ALLOWED.iter().chain(ALLOWED_HERE).map(|number| (*number, Verdict::Allow)));
    rules.extend(ATTRIBUTES.iter().map(|number| (*number, NO_ATTRIBUTES)));
    rules.extend([
        (libc::SYS_clone, CLONE),
        (libc::SYS_ioctl, IOCTL),
        (libc::SYS_fcntl, FCNTL),
        (libc::SYS_prlimit64, PRLIMIT),
        (libc::SYS_socket, NO_SOCKETS),
    ]);
    rules.into_iter().collect()
}

/// Libraries try these first and answer ENOSYS, and that alone, with an older call.
const WITH_AN_OLDER_ONE: &[c_long] = &[
    libc::SYS_clone3,
    libc::SYS_openat2,
    libc::SYS_statx,
    libc::SYS_faccessat2,
    libc::SYS_close_range,
    libc::SYS_preadv2,
    libc::SYS_pwritev2,
    libc::SYS_copy_file_range,
    libc::SYS_renameat2,
    libc::SYS_memfd_create,
    libc::SYS_membarrier,
    libc::SYS_getcpu,
    // epoll_pwait2, futex_waitv, fchmodat2.
    441,
    449,
    452,
];

#[rustfmt::skip]
pub(super) const ALLOWED: &[c_long] = &[
    // Its start and end, memory and threads.
    libc::SYS_execve, libc::SYS_exit, libc::SYS_exit_group, libc::SYS_brk, libc::SYS_mmap,
    libc::SYS_munmap, libc::SYS_mremap, libc::SYS_mprotect, libc::SYS_madvise, libc::SYS_msync,
    libc::SYS_futex, libc::SYS_set_robust_list, libc::SYS_set_tid_address, libc::SYS_rseq,
    libc::SYS_sched_yield, libc::SYS_sched_getaffinity,
    // Who and where it is.
    libc::SYS_getpid, libc::SYS_getppid, libc::SYS_gettid, libc::SYS_getuid, libc::SYS_geteuid,
    libc::SYS_getgid, libc::SYS_getegid, libc::SYS_uname, libc::SYS_sysinfo, libc::SYS_getrusage,
    libc::SYS_times, libc::SYS_getrandom,
    // Time and signals, within itself.
    libc::SYS_clock_gettime, libc::SYS_clock_getres, libc::SYS_clock_nanosleep, libc::SYS_nanosleep,
    libc::SYS_gettimeofday, libc::SYS_getitimer, libc::SYS_setitimer, libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask, libc::SYS_rt_sigreturn, libc::SYS_rt_sigtimedwait,
    libc::SYS_rt_sigpending, libc::SYS_sigaltstack, libc::SYS_restart_syscall, libc::SYS_kill,
    libc::SYS_tgkill,
    // Files.
    libc::SYS_read, libc::SYS_write, libc::SYS_readv, libc::SYS_writev, libc::SYS_pread64,
    libc::SYS_pwrite64, libc::SYS_lseek, libc::SYS_openat, libc::SYS_close, libc::SYS_fstat,
    libc::SYS_newfstatat, libc::SYS_faccessat, libc::SYS_readlinkat, libc::SYS_getdents64,
    libc::SYS_getcwd, libc::SYS_chdir, libc::SYS_mkdirat, libc::SYS_unlinkat, libc::SYS_fchmod,
    libc::SYS_fchmodat, libc::SYS_utimensat, libc::SYS_ftruncate, libc::SYS_fsync,
    libc::SYS_fdatasync, libc::SYS_umask, libc::SYS_dup, libc::SYS_dup3, libc::SYS_pipe2,
    // Waiting for them; a pair of sockets is how an event loop wakes itself.
    libc::SYS_ppoll, libc::SYS_pselect6, libc::SYS_epoll_create1, libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait, libc::SYS_socketpair, libc::SYS_sendto, libc::SYS_recvfrom,
    libc::SYS_getsockname,
];

#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
pub(super) const ALLOWED_HERE: &[c_long] = &[
    libc::SYS_arch_prctl, libc::SYS_open, libc::SYS_stat, libc::SYS_lstat, libc::SYS_access,
    libc::SYS_readlink, libc::SYS_mkdir, libc::SYS_rmdir, libc::SYS_unlink, libc::SYS_rename,
    libc::SYS_renameat, libc::SYS_chmod, libc::SYS_dup2, libc::SYS_pipe, libc::SYS_poll,
    libc::SYS_select, libc::SYS_epoll_wait, libc::SYS_alarm, libc::SYS_time,
];
#[cfg(target_arch = "aarch64")]
pub(super) const ALLOWED_HERE: &[c_long] = &[libc::SYS_renameat];

#[rustfmt::skip]
const ATTRIBUTES: &[c_long] = &[
    libc::SYS_getxattr, libc::SYS_lgetxattr, libc::SYS_fgetxattr, libc::SYS_setxattr,
    libc::SYS_lsetxattr, libc::SYS_fsetxattr, libc::SYS_listxattr, libc::SYS_llistxattr,
    libc::SYS_flistxattr, libc::SYS_removexattr, libc::SYS_lremovexattr, libc::SYS_fremovexattr,
];

#[cfg(test)]
mod tests {
    use super::*;

    /// Every call that might reach the kernel's work for a program, whatever its arguments.
    fn passable(rules: &[(c_long, Verdict)]) -> Vec<c_long> {
        let passes = |verdict: &Verdict| matches!(verdict, Verdict::Allow | Verdict::Unless(..));
        rules.iter().filter(|(_, verdict)| passes(verdict)).map(|(number, _)| *number).collect()
    }

    #[test]
    fn it_is_a_part_of_the_ordinary_list_and_less_than_half_of_it() {
        let (least, ordinary) = (passable(&rules()), passable(&program_list::rules()));
        let beyond: Vec<_> = least.iter().filter(|number| !ordinary.contains(number)).collect();
        assert!(beyond.is_empty(), "not even ordinary programs may: {beyond:?}");
        assert!(least.len() * 2 < ordinary.len(), "{} of {}", least.len(), ordinary.len());
    }
}
