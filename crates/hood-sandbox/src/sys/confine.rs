//! Seccomp, Landlock and the loopback interface.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// One instruction of a classic BPF program.
pub(crate) type Instruction = libc::sock_filter;

/// Puts a filter on this process for ever. no_new_privs must be set.
pub(crate) fn install_filter(program: &[Instruction]) -> io::Result<()> {
    let length = libc::c_ushort::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let program = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut() };
    // SAFETY: the kernel copies `length` instructions that live over the call and verifies them.
    // JUSTIFICATION: rustix has no seccomp filters.
    let result = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0 as libc::c_uint, &raw const program)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[repr(C)]
struct RulesetAttr {
    handled_access_fs: u64,
    handled_access_net: u64,
    scoped: u64,
}

#[repr(C, packed)]
struct PathBeneathAttr {
    allowed_access: u64,
    parent_fd: i32,
}

const RULE_PATH_BENEATH: libc::c_int = 1;
const CREATE_RULESET_VERSION: libc::c_uint = 1;

/// The Landlock ABI of the running kernel; 0 where there is none.
pub(crate) fn landlock_abi() -> u32 {
    // SAFETY: with the version flag and no attributes the call only answers a number.
    // JUSTIFICATION: rustix has no Landlock.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<RulesetAttr>(),
            0usize,
            CREATE_RULESET_VERSION,
        )
    };
    u32::try_from(answer).unwrap_or(0)
}

/// A new ruleset. `scoped` is 0 on kernels before ABI 6, whose attributes end before it.
pub(crate) fn landlock_ruleset(abi: u32, fs: u64, net: u64, scoped: u64) -> io::Result<OwnedFd> {
    let attr = RulesetAttr { handled_access_fs: fs, handled_access_net: net, scoped };
    let size = match abi {
        0..=3 => 8usize,
        4..=5 => 16,
        _ => 24,
    };
    // SAFETY: `attr` holds at least `size` bytes; the descriptor returned is new and ours.
    // JUSTIFICATION: as above.
    unsafe {
        let fd = libc::syscall(libc::SYS_landlock_create_ruleset, &raw const attr, size, 0 as libc::c_uint);
        match libc::c_int::try_from(fd) {
            Ok(fd) if fd >= 0 => Ok(OwnedFd::from_raw_fd(fd)),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Allows `access` beneath `path`.
pub(crate) fn landlock_allow(ruleset: BorrowedFd<'_>, path: BorrowedFd<'_>, access: u64) -> io::Result<()> {
    let rule = PathBeneathAttr { allowed_access: access, parent_fd: path.as_raw_fd() };
    // SAFETY: the pointer is to a live rule of the type that the constant names.
    // JUSTIFICATION: as above.
    let result = unsafe {
        libc::syscall(
            libc::SYS_landlock_add_rule,
            ruleset.as_raw_fd(),
            RULE_PATH_BENEATH,
            &raw const rule,
            0 as libc::c_uint,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Puts the ruleset on this process for ever.
pub(crate) fn landlock_enforce(ruleset: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: takes integers.
    // JUSTIFICATION: as above.
    let result =
        unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0 as libc::c_uint) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Brings the loopback interface of this network namespace up.
pub(crate) fn raise_loopback(socket: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the request is zeroed, then holds a name and flags; both ioctls read or write it alone.
    // JUSTIFICATION: rustix has no interface flags.
    unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l' as libc::c_char;
        request.ifr_name[1] = b'o' as libc::c_char;
        if libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS as _, &raw mut request) != 0 {
            return Err(io::Error::last_os_error());
        }
        request.ifr_ifru.ifru_flags |= libc::IFF_UP as libc::c_short;
        if libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw mut request) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Puts a filter on this process for ever and returns the descriptor that its notifications go to.
pub(crate) fn install_filter_with_listener(program: &[Instruction]) -> io::Result<OwnedFd> {
    let length = libc::c_ushort::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let program = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut() };
    // SAFETY: as in `install_filter`; the descriptor returned is new and ours.
    // JUSTIFICATION: as there.
    unsafe {
        let fd = libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER as libc::c_uint,
            &raw const program,
        );
        match libc::c_int::try_from(fd) {
            Ok(fd) if fd >= 0 => Ok(OwnedFd::from_raw_fd(fd)),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// `SECCOMP_IOCTL_NOTIF_RECV`: `_IOWR('!', 0, struct seccomp_notif)`.
const NOTIFICATION_RECEIVE: libc::c_ulong =
    (3 << 30) | ((size_of::<libc::seccomp_notif>() as libc::c_ulong) << 16) | ((b'!' as libc::c_ulong) << 8);

/// `(architecture, number)` of the call that waits; `None` if its caller has gone.
pub(crate) fn receive_notification(listener: BorrowedFd<'_>) -> io::Result<Option<(u32, u32)>> {
    // SAFETY: an all-zero notification is valid, and what the kernel asks for.
    // JUSTIFICATION: rustix has no seccomp notifications.
    let mut notification: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to live memory of the size that the request names.
    // JUSTIFICATION: as above.
    let result =
        unsafe { libc::ioctl(listener.as_raw_fd(), NOTIFICATION_RECEIVE as _, &raw mut notification) };
    if result == 0 {
        return Ok(Some((notification.data.arch, notification.data.nr.cast_unsigned())));
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::EINTR) => Ok(None),
        _ => Err(error),
    }
}
