//! Making, ending and awaiting processes.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// The descriptor numbers that a place's first process is born with.
pub(crate) const SETUP_FD: RawFd = 3;
pub(crate) const LINK_FD: RawFd = 4;
pub(crate) const ID_LOCK_FD: RawFd = 5;
pub(crate) const LAST_RESERVED_FD: RawFd = ID_LOCK_FD;
/// libc's constant of this name is an int, which it does not fit.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
/// Everything from here on is closed by exec.
const FIRST_PRIVATE_FD: libc::c_uint = 6;

/// What the first process of a place is made from.
pub(crate) struct Birth<'a> {
    /// `CLONE_NEW*`.
    pub(crate) namespaces: u64,
    /// The cgroup (v2) to be born in.
    pub(crate) cgroup: Option<BorrowedFd<'a>>,
    pub(crate) setup: BorrowedFd<'a>,
    pub(crate) link: BorrowedFd<'a>,
    pub(crate) id_lock: Option<BorrowedFd<'a>>,
    /// The sealed executable.
    pub(crate) executable: BorrowedFd<'a>,
    pub(crate) argv: &'a [CString],
}

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Clones the first process of a place and returns its pid and pidfd. The child waits for one
/// packet on its setup socket (its ids are mapped then), becomes id 0 of its namespace and executes
/// the agent.
pub(crate) fn bear(birth: &Birth<'_>) -> io::Result<(u32, OwnedFd)> {
    let mut pidfd: RawFd = -1;
    let mut argv: Vec<*const libc::c_char> = birth.argv.iter().map(|arg| arg.as_ptr()).collect();
    argv.push(std::ptr::null());
    let envp = [std::ptr::null::<libc::c_char>()];
    // SAFETY: an all-zero clone_args is valid.
    // JUSTIFICATION: the struct grows with kernels; zero is each new field's "not used".
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = birth.namespaces | libc::CLONE_PIDFD as u64;
    args.pidfd = (&raw mut pidfd) as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    if let Some(cgroup) = birth.cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: without CLONE_VM this is fork: the child gets a copy of the memory, and it only runs
    // `child`, which makes system calls on values prepared above and never returns.
    // JUSTIFICATION: neither std nor rustix can make a child in new namespaces.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) };
    if pid == 0 {
        // SAFETY: we are the child of the call above; pointers are into our own copy of memory.
        // JUSTIFICATION: as above.
        unsafe { child(birth, argv.as_ptr(), envp.as_ptr()) }
    }
    let pid = check(pid)?;
    // SAFETY: the kernel has stored a new descriptor that nobody else owns.
    // JUSTIFICATION: clone3 hands descriptors out by pointer.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok((u32::try_from(pid).unwrap_or(0), pidfd))
}

/// # Safety
/// Only for the child of a clone without CLONE_VM; `argv` and `envp` end in null.
unsafe fn child(birth: &Birth<'_>, argv: *const *const libc::c_char, envp: *const *const libc::c_char) -> ! {
    // SAFETY: each call takes integers or pointers to live memory of ours; no heap and no lock is
    // touched between clone and exec.
    // JUSTIFICATION: libc's wrappers for the id calls signal sibling threads, which a fresh child
    // lacks; the raw calls say exactly what is wanted.
    unsafe {
        let fail = |step: u8| -> ! {
            let report = [b'!', step, *libc::__errno_location() as u8];
            libc::syscall(libc::SYS_write, birth.setup.as_raw_fd(), report.as_ptr(), report.len());
            libc::_exit(70)
        };
        if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
            fail(1);
        }
        let mut go = 0u8;
        if libc::read(birth.setup.as_raw_fd(), (&raw mut go).cast(), 1) != 1 {
            // The server has gone before the ids were mapped: there is nobody to report to.
            libc::_exit(71);
        }
        // `setgroups` is denied where an ordinary user maps a single id; `go` says so.
        if go == b'G' && libc::syscall(libc::SYS_setgroups, 0usize, std::ptr::null::<libc::gid_t>()) != 0 {
            fail(2);
        }
        if libc::syscall(libc::SYS_setresgid, 0, 0, 0) != 0
            || libc::syscall(libc::SYS_setresuid, 0, 0, 0) != 0
        {
            fail(3);
        }
        if libc::syscall(libc::SYS_dup3, birth.setup.as_raw_fd(), SETUP_FD, 0) < 0
            || libc::syscall(libc::SYS_dup3, birth.link.as_raw_fd(), LINK_FD, 0) < 0
        {
            fail(4);
        }
        match birth.id_lock {
            Some(lock) if libc::syscall(libc::SYS_dup3, lock.as_raw_fd(), ID_LOCK_FD, 0) < 0 => fail(4),
            Some(_) => {}
            None => {
                libc::close(ID_LOCK_FD);
            }
        }
        if libc::syscall(
            libc::SYS_close_range,
            FIRST_PRIVATE_FD,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        ) != 0
        {
            fail(5);
        }
        libc::syscall(
            libc::SYS_execveat,
            birth.executable.as_raw_fd(),
            c"".as_ptr(),
            argv,
            envp,
            libc::AT_EMPTY_PATH,
        );
        fail(6)
    }
}

/// Names of the steps that [`bear`]'s child reports.
pub(crate) fn birth_step(step: u8) -> &'static str {
    match step {
        1 => "bind to the launcher's life",
        2 => "drop supplementary groups",
        3 => "become id 0 of the namespace",
        4 => "arrange descriptors",
        5 => "close foreign descriptors",
        _ => "execute the agent",
    }
}

/// Which side of a fork we are on.
pub(crate) enum Fork {
    Parent(i32),
    Child,
}

/// Forks a process that has one thread.
pub(crate) fn fork_single_threaded() -> io::Result<Fork> {
    // SAFETY: both callers, launcher and agent, never start a thread, so no lock can be held by
    // one that the child lacks.
    // JUSTIFICATION: std only offers fork together with exec.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent(pid)),
    }
}

/// Ends the process without running anything that Rust registered for the parent.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: takes an integer and does not return.
    // JUSTIFICATION: std's exit runs handlers and flushes buffers that belong to the forked parent.
    unsafe { libc::_exit(code) }
}

/// execve; returns only what went wrong.
pub(crate) fn execute(path: &CStr, argv: &[CString], env: &[CString]) -> io::Error {
    let pointers = |list: &[CString]| {
        let mut pointers: Vec<*const libc::c_char> = list.iter().map(|item| item.as_ptr()).collect();
        pointers.push(std::ptr::null());
        pointers
    };
    let (argv, env) = (pointers(argv), pointers(env));
    // SAFETY: all pointers are to C strings that live over the call; both lists end in null.
    // JUSTIFICATION: std's exec re-resolves the path and touches signals; this is the bare call.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

/// A child that has ended, as wait4(2) tells it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawReaped {
    pub(crate) pid: i32,
    pub(crate) status: i32,
    pub(crate) user_us: u64,
    pub(crate) system_us: u64,
    pub(crate) max_rss_bytes: u64,
}

/// Reaps one child that has ended. `Ok(None)`: all are alive; ECHILD: there is none.
pub(crate) fn reap_one() -> io::Result<Option<RawReaped>> {
    let mut status = 0;
    // SAFETY: an all-zero rusage is valid.
    // JUSTIFICATION: rustix's wait gives no rusage.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to live memory of the right type.
    // JUSTIFICATION: as above.
    let pid = unsafe { libc::wait4(-1, &raw mut status, libc::WNOHANG | libc::__WALL, &raw mut usage) };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    let micros = |time: libc::timeval| time.tv_sec.unsigned_abs() * 1_000_000 + time.tv_usec.unsigned_abs();
    Ok((pid > 0).then(|| RawReaped {
        pid,
        status,
        user_us: micros(usage.ru_utime),
        system_us: micros(usage.ru_stime),
        max_rss_bytes: usage.ru_maxrss.unsigned_abs() * 1024,
    }))
}

/// Sends `signal` to every process of the pid namespace but the caller, which must be its PID 1.
pub(crate) fn signal_all(signal: i32) -> io::Result<()> {
    // SAFETY: takes integers. As PID 1 of a namespace, -1 reaches that namespace alone.
    // JUSTIFICATION: rustix refuses -1.
    if unsafe { libc::kill(-1, signal) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Puts every signal back to its default and blocks none.
pub(crate) fn reset_signals() {
    /// Handler, flags, restorer and mask, as the kernel has them: all zero is the default.
    const DEFAULT: [u64; 4] = [0; 4];
    const MASK_BYTES: usize = 8;
    // SAFETY: the kernel reads structures of the sizes given from live memory; no code is involved.
    // JUSTIFICATION: Rust's runtime ignores SIGPIPE, and ignored signals survive exec. libc's own
    // calls leave out the signals that it keeps for itself, which a parent may have left ignored.
    unsafe {
        for signal in 1..=64 {
            let none = std::ptr::null_mut::<u64>();
            libc::syscall(libc::SYS_rt_sigaction, signal, DEFAULT.as_ptr(), none, MASK_BYTES);
        }
        let how = libc::SIG_SETMASK;
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            how,
            DEFAULT.as_ptr(),
            std::ptr::null_mut::<u64>(),
            MASK_BYTES,
        );
    }
}

/// Ignores a signal. Ignoring SIGCHLD lets the kernel reap this process's children.
pub(crate) fn ignore_signal(signal: libc::c_int) {
    // SAFETY: sets a disposition that involves no code of ours.
    // JUSTIFICATION: std has no signal dispositions.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

/// A descriptor that becomes readable when a child has ended; SIGCHLD is blocked for it.
pub(crate) fn child_watch() -> io::Result<OwnedFd> {
    // SAFETY: the set is initialised before use; the descriptor returned is new and ours.
    // JUSTIFICATION: rustix has no signalfd.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        if libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
        let fd = libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

/// Takes over a descriptor that this process was born with. Each number may be taken once.
pub(crate) fn inherited(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_SETFD on a number that is open or not is harmless; failure means it is not open.
    // JUSTIFICATION: owning an inherited number is a claim that only the caller can make.
    unsafe {
        if libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Makes `command`'s process inherit `fds`, under their own numbers, and no other descriptor; and puts
/// it in a session of its own, so that a terminal's Ctrl-C is the server's to handle.
pub(crate) fn keep_only(command: &mut std::process::Command, fds: [RawFd; 2]) {
    use std::os::unix::process::CommandExt as _;
    let apply = move || {
        // SAFETY: marks descriptors of this process close-on-exec, then unmarks two.
        // JUSTIFICATION: runs between fork and exec, where only plain system calls may; std hands
        // over no descriptor above 2. Not closed outright, as std's own error pipe is among them.
        unsafe {
            check(libc::syscall(
                libc::SYS_close_range,
                3 as libc::c_uint,
                libc::c_uint::MAX,
                libc::CLOSE_RANGE_CLOEXEC,
            ))?;
            for fd in fds {
                check(libc::fcntl(fd, libc::F_SETFD, 0).into())?;
            }
            check(libc::setsid().into())?;
        }
        Ok(())
    };
    // SAFETY: `apply` makes system calls only and does not allocate.
    // JUSTIFICATION: as above.
    unsafe { command.pre_exec(apply) };
}

/// Locks one byte of an open file for as long as any copy of this descriptor lives, in whichever
/// process. `Ok(false)`: someone else has it.
pub(crate) fn lock_byte(file: BorrowedFd<'_>, index: u32) -> io::Result<bool> {
    // SAFETY: an all-zero flock is valid.
    // JUSTIFICATION: rustix has no locks that belong to the open file instead of the process.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = libc::F_WRLCK as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    lock.l_start = libc::off_t::from(index);
    lock.l_len = 1;
    // SAFETY: the pointer is to a live flock.
    // JUSTIFICATION: as above.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw mut lock) } == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EACCES) => Ok(false),
        _ => Err(error),
    }
}

/// Closes every descriptor from 3 on but one.
pub(crate) fn close_all_but(kept: RawFd) -> io::Result<()> {
    let kept = libc::c_uint::try_from(kept).map_err(|_| io::ErrorKind::InvalidInput)?;
    for (first, last) in [(3, kept.saturating_sub(1)), (kept + 1, libc::c_uint::MAX)] {
        if first <= last {
            // SAFETY: the caller is about to execute a program and uses no other descriptor again.
            // JUSTIFICATION: rustix has no close_range.
            check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0 as libc::c_uint) })?;
        }
    }
    Ok(())
}

/// Forks a child of this process's parent.
pub(crate) fn fork_sibling() -> io::Result<Fork> {
    // SAFETY: an all-zero clone_args is valid.
    // JUSTIFICATION: as in `bear`.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = libc::CLONE_PARENT as u64;
    // SAFETY: as in `fork_single_threaded`.
    // JUSTIFICATION: only the raw call can choose the parent.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) };
    match i32::try_from(check(pid)?) {
        Ok(0) => Ok(Fork::Child),
        Ok(pid) => Ok(Fork::Parent(pid)),
        Err(_) => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Does nothing but collect children until it is killed.
pub(crate) fn reap_for_ever() -> ! {
    ignore_signal(libc::SIGCHLD);
    loop {
        // SAFETY: takes nothing.
        // JUSTIFICATION: std has no way to wait for nothing in particular.
        unsafe { libc::pause() };
    }
}

/// The clock behind `Instant`, which is one for every process of this machine.
pub(crate) fn monotonic() -> Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a timespec to be written to.
    // JUSTIFICATION: std does not tell an Instant to another process, and rustix asks for the auxiliary
    // vector first, with a call that the agent's filter does not know.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}
