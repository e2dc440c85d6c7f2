//! Two host ids for each live place, shared with no other live place of any server on this host.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{Mode, OFlags};

use super::Error;
use crate::sys;

/// Host ids for places, as root takes them by default: above what distributions, containers and
/// systemd hand out.
const DEFAULT_FIRST: u32 = 1_900_000_000;
/// Pairs of the default range: more than one machine has places.
const DEFAULT_PAIRS: u32 = 32_768;

/// A range of host user and group ids that nothing else uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRange {
    /// The first id, the same for users and groups. Never 0.
    pub first: u32,
    /// How many pairs follow.
    pub pairs: u32,
}

/// Where ids come from.
#[derive(Debug)]
pub(super) enum Source {
    /// We may map what we like.
    Privileged,
    /// newuidmap and newgidmap map what /etc/subuid and /etc/subgid give to this user.
    Subordinate,
    /// Only the user's own id: the program is nested.
    Single,
}

#[derive(Debug)]
pub(super) struct IdPool {
    pub(super) source: Source,
    first_uid: u32,
    first_gid: u32,
    pairs: u32,
    locks: PathBuf,
    next: AtomicU32,
}

/// The ids of one place. They are taken until every copy of the lock is closed, and the agent holds
/// one: a place that outlives a killed server keeps its ids from the next.
#[derive(Debug)]
pub(super) struct IdLease {
    pub(super) agent: (u32, u32),
    pub(super) program: (u32, u32),
    lock: Option<OwnedFd>,
}

impl IdLease {
    pub(super) fn lock(&self) -> Option<BorrowedFd<'_>> {
        self.lock.as_ref().map(AsFd::as_fd)
    }

    /// Gives the lock away: the ids stay taken for as long as it is open.
    pub(super) fn take_lock(&mut self) -> Option<OwnedFd> {
        self.lock.take()
    }
}

impl IdPool {
    pub(super) fn open(range: Option<IdRange>) -> Result<Self, Error> {
        let uid = rustix::process::geteuid();
        let (source, first_uid, first_gid, pairs) = if uid.is_root() {
            let range = range.unwrap_or_else(default_range);
            if range.first == 0 || range.first.checked_add(range.pairs.saturating_mul(2)).is_none() {
                return Err(Error::Unsupported {
                    what: format!("the id range {range:?} contains id 0 or runs past the last id"),
                    fix: "configure a range of ids that no user and no container has",
                });
            }
            (Source::Privileged, range.first, range.first, range.pairs)
        } else {
            match subordinate(uid.as_raw()) {
                Some((first_uid, first_gid, pairs)) => (Source::Subordinate, first_uid, first_gid, pairs),
                None => (Source::Single, uid.as_raw(), rustix::process::getegid().as_raw(), 0),
            }
        };
        let locks = lock_dir(uid.as_raw()).join("ids");
        // Servers that start together spread over the range instead of walking it in step.
        let start = std::process::id().checked_rem(pairs).unwrap_or(0);
        Ok(Self { source, first_uid, first_gid, pairs, locks, next: AtomicU32::new(start) })
    }

    /// Makes the directory of the locks, which nobody else may write.
    pub(super) fn make_lock_dir(&self) -> io::Result<()> {
        let Some(dir) = self.locks.parent() else { return Ok(()) };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let meta = fs::symlink_metadata(dir)?;
        if meta.is_dir() && meta.uid() == rustix::process::geteuid().as_raw() && meta.mode() & 0o022 == 0 {
            return Ok(());
        }
        Err(io::Error::other(format!("{} is not a directory that only this user can write", dir.display())))
    }

    /// How many places may live at once.
    pub(super) fn pairs(&self) -> u32 {
        self.pairs
    }

    pub(super) fn is_single(&self) -> bool {
        matches!(self.source, Source::Single)
    }

    pub(super) fn lease(&self) -> Result<IdLease, Error> {
        if self.is_single() {
            let own = (self.first_uid, self.first_gid);
            return Ok(IdLease { agent: own, program: own, lock: None });
        }
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let step = "lock a pair of host ids";
        let file = rustix::fs::open(&self.locks, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|source| Error::host(step)(source.into()))?;
        for _ in 0..self.pairs {
            let index = self.next.fetch_add(1, Ordering::Relaxed) % self.pairs;
            if sys::lock_byte(file.as_fd(), index).map_err(Error::host(step))? {
                let (uid, gid) = (self.first_uid + 2 * index, self.first_gid + 2 * index);
                return Ok(IdLease { agent: (uid, gid), program: (uid + 1, gid + 1), lock: Some(file) });
            }
        }
        Err(Error::IdsExhausted { pairs: self.pairs })
    }
}

/// The default range, or the end of what is mapped where we are root of a user namespace ourselves.
fn default_range() -> IdRange {
    let text = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let extents = text.lines().filter_map(|line| {
        let numbers: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        Some((*numbers.first()?, *numbers.get(2)?))
    });
    let wanted = u64::from(DEFAULT_FIRST)..u64::from(DEFAULT_FIRST + 2 * DEFAULT_PAIRS);
    let extents: Vec<(u64, u64)> = extents.collect();
    if extents.iter().any(|(first, count)| *first <= wanted.start && first + count >= wanted.end) {
        return IdRange { first: DEFAULT_FIRST, pairs: DEFAULT_PAIRS };
    }
    let (first, count) = extents.into_iter().max_by_key(|extent| extent.1).unwrap_or((0, 0));
    // The upper half, without the very last ids, which are `nobody` on most systems.
    let first = u32::try_from(first + count / 2).unwrap_or(0);
    let pairs = u32::try_from((count / 2).saturating_sub(4) / 2).unwrap_or(0);
    IdRange { first, pairs }
}

/// This user's range in both tables, if they give at least one pair and the helpers are there.
fn subordinate(uid: u32) -> Option<(u32, u32, u32)> {
    if !["newuidmap", "newgidmap"].iter().all(|tool| find_tool(tool).is_some()) {
        return None;
    }
    let (first_uid, uids) = table_entry("/etc/subuid", uid)?;
    let (first_gid, gids) = table_entry("/etc/subgid", uid)?;
    let pairs = uids.min(gids) / 2;
    (pairs > 0 && first_uid > 0 && first_gid > 0).then_some((first_uid, first_gid, pairs))
}

fn table_entry(path: &str, uid: u32) -> Option<(u32, u32)> {
    let name = user_name(uid);
    fs::read_to_string(path).ok()?.lines().find_map(|line| {
        let mut parts = line.split(':');
        let owner = parts.next()?;
        if Some(owner) != name.as_deref() && owner.parse() != Ok(uid) {
            return None;
        }
        Some((parts.next()?.parse().ok()?, parts.next()?.trim().parse().ok()?))
    })
}

fn user_name(uid: u32) -> Option<String> {
    fs::read_to_string("/etc/passwd").ok()?.lines().find_map(|line| {
        let mut parts = line.split(':');
        let name = parts.next()?;
        (parts.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

/// A set-uid helper, from the places where distributions keep them: the caller's PATH is not asked.
pub(super) fn find_tool(name: &str) -> Option<PathBuf> {
    ["/usr/bin", "/bin", "/usr/sbin", "/usr/local/bin"]
        .iter()
        .map(|dir| Path::new(dir).join(name))
        .find(|path| path.is_file())
}

/// One directory for all servers of a user on this host: locks in the data directory would not see
/// a server with another one.
fn lock_dir(uid: u32) -> PathBuf {
    let runtime = PathBuf::from(format!("/run/user/{uid}"));
    if uid == 0 {
        PathBuf::from("/run/fumehood")
    } else if fs::metadata(&runtime).is_ok_and(|meta| meta.uid() == uid) {
        runtime.join("fumehood")
    } else {
        std::env::temp_dir().join(format!("fumehood-{uid}"))
    }
}
