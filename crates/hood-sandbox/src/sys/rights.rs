//! Ids for the file system, the bounding set, and a cgroup namespace.

use std::io;

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Makes files belong to these ids from now on, while the process keeps its own.
pub(crate) fn set_file_ids(uid: u32, gid: u32) -> io::Result<()> {
    // SAFETY: each call takes an integer.
    // JUSTIFICATION: rustix has no file system ids. The calls answer the old id and no error, so
    // each is asked again with an id that cannot be.
    unsafe {
        for (call, id) in [(libc::SYS_setfsgid, gid), (libc::SYS_setfsuid, uid)] {
            libc::syscall(call, id);
            if libc::syscall(call, u32::MAX) != libc::c_long::from(id) {
                return Err(io::ErrorKind::PermissionDenied.into());
            }
        }
    }
    Ok(())
}

/// Empties the capability bounding set. Needs CAP_SETPCAP.
pub(crate) fn empty_bounding_set() -> io::Result<()> {
    for capability in 0 as libc::c_ulong.. {
        // SAFETY: takes integers.
        // JUSTIFICATION: rustix's names of capabilities end where its release did; numbers do not.
        let result = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
        if result != 0 {
            let error = io::Error::last_os_error();
            // The number after the last.
            return if capability > 0 && error.raw_os_error() == Some(libc::EINVAL) {
                Ok(())
            } else {
                Err(error)
            };
        }
    }
    Ok(())
}

/// Puts the caller into a new namespace of the given kinds.
pub(crate) fn unshare(namespaces: libc::c_int) -> io::Result<()> {
    // SAFETY: takes an integer; none of the callers shares memory or a file table with another task.
    // JUSTIFICATION: rustix's form is unsafe too, for the same reason.
    check(unsafe { libc::syscall(libc::SYS_unshare, namespaces) }).map(drop)
}
