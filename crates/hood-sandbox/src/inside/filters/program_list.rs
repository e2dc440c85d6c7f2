//! The program's list.

use libc::c_long;

use super::super::bpf::{Condition, Verdict};

const EPERM: u16 = libc::EPERM as u16;
/// `CLONE_NEW*` of every kind; CLONE_NEWTIME shares its bit with the exit signal and exists only for
/// clone3 and unshare, which are not allowed.
const NAMESPACE_FLAGS: u32 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWCGROUP) as u32;
/// libc gives it another type with each C library.
const RLIMIT_CORE: u32 = 4;

/// AF_UNIX, and TCP or UDP over the addresses of an empty network namespace. No raw, packet,
/// netlink, vsock or crypto sockets, and no protocol that is rarely looked at.
const SOCKET: Verdict = Verdict::Unless(
    &[
        &[Condition::In(0, &[libc::AF_UNIX as u32])],
        &[
            Condition::In(0, &[libc::AF_INET as u32, libc::AF_INET6 as u32]),
            Condition::In(2, &[0, libc::IPPROTO_TCP as u32, libc::IPPROTO_UDP as u32]),
        ],
    ],
    libc::EAFNOSUPPORT as u16,
);
const SOCKETPAIR: Verdict =
    Verdict::Unless(&[&[Condition::In(0, &[libc::AF_UNIX as u32])]], libc::EAFNOSUPPORT as u16);
const CLONE: Verdict = Verdict::Unless(&[&[Condition::Without(0, NAMESPACE_FLAGS)]], EPERM);
/// A terminal would take these as typed input. There is no terminal; the calls are refused anyway.
const IOCTL: Verdict =
    Verdict::Unless(&[&[Condition::NotIn(1, &[libc::TIOCSTI as u32, libc::TIOCLINUX as u32])]], EPERM);
const PRCTL: Verdict =
    Verdict::Unless(&[&[Condition::NotIn(0, &[libc::PR_SET_SECCOMP as u32, libc::PR_SET_MM as u32])]], EPERM);
/// Where core_pattern is a pipe, a limit of 1 is what keeps the host's crash handler out, and 0 would
/// let it in: the limit must stay as it is.
const SETRLIMIT: Verdict = Verdict::Unless(&[&[Condition::NotIn(0, &[RLIMIT_CORE])]], EPERM);
const PRLIMIT: Verdict =
    Verdict::Unless(&[&[Condition::NotIn(1, &[RLIMIT_CORE])], &[Condition::Null(2)]], EPERM);
/// Only to ask, or for Linux as it is.
const PERSONALITY: Verdict = Verdict::Unless(&[&[Condition::In(0, &[0, u32::MAX])]], EPERM);

pub(super) fn rules() -> Vec<(c_long, Verdict)> {
    let mut rules: Vec<(c_long, Verdict)> = Vec::new();
    rules.extend(ALLOWED.iter().chain(ALLOWED_HERE).map(|number| (*number, Verdict::Allow)));
    rules.extend(DENIED.iter().chain(DENIED_HERE).map(|number| (*number, Verdict::Errno(EPERM))));
    rules.extend([
        (libc::SYS_socket, SOCKET),
        (libc::SYS_socketpair, SOCKETPAIR),
        (libc::SYS_clone, CLONE),
        // Its flags are behind a pointer, where a filter cannot look.
        (libc::SYS_clone3, Verdict::Errno(libc::ENOSYS as u16)),
        (libc::SYS_ioctl, IOCTL),
        (libc::SYS_prctl, PRCTL),
        (libc::SYS_setrlimit, SETRLIMIT),
        (libc::SYS_prlimit64, PRLIMIT),
        (libc::SYS_personality, PERSONALITY),
    ]);
    rules
}

#[rustfmt::skip]
const ALLOWED: &[c_long] = &[
    libc::SYS_read, libc::SYS_write, libc::SYS_readv, libc::SYS_writev, libc::SYS_pread64,
    libc::SYS_pwrite64, libc::SYS_preadv, libc::SYS_pwritev, libc::SYS_preadv2, libc::SYS_pwritev2,
    libc::SYS_close, libc::SYS_close_range, libc::SYS_lseek, libc::SYS_openat, libc::SYS_openat2,
    libc::SYS_fstat, libc::SYS_newfstatat, libc::SYS_statx, libc::SYS_statfs, libc::SYS_fstatfs,
    libc::SYS_truncate, libc::SYS_ftruncate, libc::SYS_fallocate, libc::SYS_faccessat,
    libc::SYS_faccessat2, libc::SYS_fchmod, libc::SYS_fchmodat, libc::SYS_fchown, libc::SYS_fchownat,
    libc::SYS_unlinkat, libc::SYS_renameat2, libc::SYS_linkat, libc::SYS_symlinkat, libc::SYS_readlinkat,
    libc::SYS_mkdirat, libc::SYS_mknodat, libc::SYS_getdents64, libc::SYS_getcwd, libc::SYS_chdir,
    libc::SYS_fchdir, libc::SYS_umask, libc::SYS_utimensat, libc::SYS_flock, libc::SYS_fsync,
    libc::SYS_fdatasync, libc::SYS_sync_file_range, libc::SYS_syncfs, libc::SYS_fcntl, libc::SYS_dup,
    libc::SYS_dup3, libc::SYS_pipe2, libc::SYS_splice, libc::SYS_tee, libc::SYS_sendfile,
    libc::SYS_copy_file_range, libc::SYS_fadvise64, libc::SYS_readahead, libc::SYS_getxattr,
    libc::SYS_lgetxattr, libc::SYS_fgetxattr, libc::SYS_setxattr, libc::SYS_lsetxattr, libc::SYS_fsetxattr,
    libc::SYS_listxattr, libc::SYS_llistxattr, libc::SYS_flistxattr, libc::SYS_removexattr,
    libc::SYS_lremovexattr, libc::SYS_fremovexattr, libc::SYS_inotify_init1, libc::SYS_inotify_add_watch,
    libc::SYS_inotify_rm_watch, libc::SYS_mmap, libc::SYS_munmap, libc::SYS_mremap, libc::SYS_mprotect,
    libc::SYS_madvise, libc::SYS_msync, libc::SYS_mincore, libc::SYS_brk, libc::SYS_mlock,
    libc::SYS_mlock2, libc::SYS_munlock, libc::SYS_mlockall, libc::SYS_munlockall, libc::SYS_memfd_create,
    libc::SYS_membarrier, libc::SYS_mbind, libc::SYS_get_mempolicy, libc::SYS_set_mempolicy,
    libc::SYS_pkey_alloc, libc::SYS_pkey_free, libc::SYS_pkey_mprotect, libc::SYS_execve,
    libc::SYS_execveat, libc::SYS_exit, libc::SYS_exit_group, libc::SYS_wait4, libc::SYS_waitid,
    libc::SYS_getpid, libc::SYS_getppid, libc::SYS_gettid, libc::SYS_getpgid, libc::SYS_setpgid,
    libc::SYS_getsid, libc::SYS_setsid, libc::SYS_getuid, libc::SYS_geteuid, libc::SYS_getgid,
    libc::SYS_getegid, libc::SYS_getgroups, libc::SYS_getresuid, libc::SYS_getresgid, libc::SYS_setuid,
    libc::SYS_setgid, libc::SYS_setreuid, libc::SYS_setregid, libc::SYS_setresuid, libc::SYS_setresgid,
    libc::SYS_setfsuid, libc::SYS_setfsgid, libc::SYS_setgroups, libc::SYS_capget, libc::SYS_capset,
    libc::SYS_getrlimit, libc::SYS_getrusage, libc::SYS_times, libc::SYS_getpriority,
    libc::SYS_setpriority, libc::SYS_sched_yield, libc::SYS_sched_getaffinity, libc::SYS_sched_setaffinity,
    libc::SYS_sched_getparam, libc::SYS_sched_setparam, libc::SYS_sched_getscheduler,
    libc::SYS_sched_setscheduler, libc::SYS_sched_get_priority_max, libc::SYS_sched_get_priority_min,
    libc::SYS_sched_rr_get_interval, libc::SYS_sched_getattr, libc::SYS_sched_setattr,
    libc::SYS_ioprio_get, libc::SYS_ioprio_set, libc::SYS_getcpu, libc::SYS_kill, libc::SYS_tkill,
    libc::SYS_tgkill, libc::SYS_rt_sigaction, libc::SYS_rt_sigprocmask, libc::SYS_rt_sigpending,
    libc::SYS_rt_sigsuspend, libc::SYS_rt_sigtimedwait, libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_tgsigqueueinfo, libc::SYS_rt_sigreturn, libc::SYS_sigaltstack, libc::SYS_restart_syscall,
    libc::SYS_signalfd4, libc::SYS_pidfd_open, libc::SYS_pidfd_send_signal, libc::SYS_futex,
    libc::SYS_set_robust_list, libc::SYS_get_robust_list, libc::SYS_set_tid_address, libc::SYS_rseq,
    libc::SYS_clock_gettime, libc::SYS_clock_getres, libc::SYS_clock_nanosleep, libc::SYS_gettimeofday,
    libc::SYS_nanosleep, libc::SYS_timer_create, libc::SYS_timer_settime, libc::SYS_timer_gettime,
    libc::SYS_timer_getoverrun, libc::SYS_timer_delete, libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime, libc::SYS_timerfd_gettime, libc::SYS_getitimer, libc::SYS_setitimer,
    libc::SYS_eventfd2, libc::SYS_epoll_create1, libc::SYS_epoll_ctl, libc::SYS_epoll_pwait,
    libc::SYS_ppoll, libc::SYS_pselect6, libc::SYS_bind, libc::SYS_listen, libc::SYS_accept,
    libc::SYS_accept4, libc::SYS_connect, libc::SYS_getsockname, libc::SYS_getpeername, libc::SYS_sendto,
    libc::SYS_recvfrom, libc::SYS_sendmsg, libc::SYS_recvmsg, libc::SYS_sendmmsg, libc::SYS_recvmmsg,
    libc::SYS_shutdown, libc::SYS_setsockopt, libc::SYS_getsockopt, libc::SYS_uname, libc::SYS_sysinfo,
    libc::SYS_getrandom, libc::SYS_shmget, libc::SYS_shmat, libc::SYS_shmdt, libc::SYS_shmctl,
    libc::SYS_semget, libc::SYS_semop, libc::SYS_semtimedop, libc::SYS_semctl, libc::SYS_msgget,
    libc::SYS_msgsnd, libc::SYS_msgrcv, libc::SYS_msgctl, libc::SYS_mq_open, libc::SYS_mq_unlink,
    libc::SYS_mq_timedsend, libc::SYS_mq_timedreceive, libc::SYS_mq_notify, libc::SYS_mq_getsetattr,
    libc::SYS_io_setup, libc::SYS_io_submit, libc::SYS_io_getevents, libc::SYS_io_destroy,
    libc::SYS_io_cancel,
    // Newer than the table of names: epoll_pwait2, futex_waitv, cachestat, fchmodat2, map_shadow_stack,
    // futex_wake, futex_wait, futex_requeue, mseal.
    441, 449, 451, 452, 453, 454, 455, 456, 462,
];

#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const ALLOWED_HERE: &[c_long] = &[
    libc::SYS_open, libc::SYS_creat, libc::SYS_stat, libc::SYS_lstat, libc::SYS_access, libc::SYS_chmod,
    libc::SYS_chown, libc::SYS_lchown, libc::SYS_unlink, libc::SYS_rename, libc::SYS_renameat,
    libc::SYS_link, libc::SYS_symlink, libc::SYS_readlink, libc::SYS_mkdir, libc::SYS_rmdir,
    libc::SYS_mknod, libc::SYS_getdents, libc::SYS_utime, libc::SYS_utimes, libc::SYS_futimesat,
    libc::SYS_dup2, libc::SYS_pipe, libc::SYS_poll, libc::SYS_select, libc::SYS_epoll_create,
    libc::SYS_epoll_wait, libc::SYS_eventfd, libc::SYS_signalfd, libc::SYS_inotify_init, libc::SYS_fork,
    libc::SYS_vfork, libc::SYS_getpgrp, libc::SYS_alarm, libc::SYS_pause, libc::SYS_time,
    libc::SYS_arch_prctl,
];
#[cfg(target_arch = "aarch64")]
const ALLOWED_HERE: &[c_long] = &[libc::SYS_renameat];

#[rustfmt::skip]
const DENIED: &[c_long] = &[
    libc::SYS_unshare, libc::SYS_setns, libc::SYS_mount, libc::SYS_umount2, libc::SYS_pivot_root,
    libc::SYS_chroot, libc::SYS_swapon, libc::SYS_swapoff, libc::SYS_reboot, libc::SYS_sethostname,
    libc::SYS_setdomainname, libc::SYS_init_module, libc::SYS_finit_module, libc::SYS_delete_module,
    libc::SYS_kexec_load, libc::SYS_kexec_file_load, libc::SYS_bpf, libc::SYS_perf_event_open,
    libc::SYS_userfaultfd, libc::SYS_ptrace, libc::SYS_process_vm_readv, libc::SYS_process_vm_writev,
    libc::SYS_process_madvise, libc::SYS_kcmp, libc::SYS_keyctl, libc::SYS_add_key, libc::SYS_request_key,
    libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register, libc::SYS_open_tree,
    libc::SYS_move_mount, libc::SYS_fsopen, libc::SYS_fsconfig, libc::SYS_fsmount, libc::SYS_fspick,
    libc::SYS_mount_setattr, libc::SYS_open_by_handle_at, libc::SYS_name_to_handle_at,
    libc::SYS_fanotify_init, libc::SYS_fanotify_mark, libc::SYS_quotactl, libc::SYS_acct, libc::SYS_syslog,
    libc::SYS_settimeofday, libc::SYS_clock_settime, libc::SYS_adjtimex, libc::SYS_clock_adjtime,
    libc::SYS_seccomp, libc::SYS_landlock_create_ruleset, libc::SYS_landlock_add_rule,
    libc::SYS_landlock_restrict_self, libc::SYS_vmsplice, libc::SYS_move_pages, libc::SYS_migrate_pages,
    libc::SYS_remap_file_pages, libc::SYS_lookup_dcookie, libc::SYS_vhangup, libc::SYS_pidfd_getfd,
    libc::SYS_process_mrelease, libc::SYS_memfd_secret,
];

#[cfg(target_arch = "x86_64")]
const DENIED_HERE: &[c_long] = &[libc::SYS_iopl, libc::SYS_ioperm, libc::SYS_modify_ldt];
#[cfg(target_arch = "aarch64")]
const DENIED_HERE: &[c_long] = &[];
