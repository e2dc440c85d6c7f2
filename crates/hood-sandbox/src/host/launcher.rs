//! The launcher: a small process that does nothing but clone.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};

use super::Error;
use super::ids::{IdLease, IdPool, IdRange};
use super::place::{Place, Remains};
use super::record::Record;
use crate::cgroup::{Groups, Layout};
use crate::packets;
use crate::protocol::{NAMESPACES, Order, SystemCalls, decode_answer};
use crate::sys;

/// How long the launcher may take to answer: a clone is milliseconds even on a loaded machine.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);

/// What a launcher is started with.
#[derive(Debug, Clone)]
pub struct LauncherConfig {
    /// Records of live places are kept in `places/` beneath it.
    pub state_dir: PathBuf,
    /// Host ids for places; `None` takes the default for this user.
    pub ids: Option<IdRange>,
    /// A cgroup (v2) to make ours beneath; `None` finds one.
    pub cgroup_parent: Option<PathBuf>,
}

/// What a place is made from, before it is known what will run in it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PlaceSpec {
    /// Directory of the root image; readable by everyone, owned by an id that no place maps.
    pub image: PathBuf,
    /// Size of the one tmpfs behind `/eval`, `/tmp` and `/dev/shm`.
    pub disk_bytes: u64,
    /// Files and directories in it.
    pub disk_inodes: u64,
    /// Which system calls its program may make.
    pub calls: SystemCalls,
    /// Something is built there before the program runs.
    pub builds: bool,
}

/// Makes places. Cheap to clone; may be used from several threads at once.
#[derive(Debug, Clone)]
pub struct Launcher {
    shared: Arc<Shared>,
}

#[derive(Debug)]
pub(super) struct Shared {
    control: Mutex<Option<OwnedFd>>,
    process: Mutex<Child>,
    pub(super) ids: IdPool,
    pub(super) layout: Layout,
    record: Record,
    state_dir: PathBuf,
    instance: String,
    next: AtomicU64,
    orders: AtomicU32,
    /// Namespaces of the server itself.
    pub(super) foreign: Vec<u64>,
    pub(super) core_piped: bool,
}

impl Launcher {
    /// Starts the launcher from the bytes of the agent's executable. It lives as long as this value
    /// and the places made with it, and no longer than this process.
    ///
    /// # Errors
    /// A step failed; the host may lack what places need.
    pub fn start(agent: &[u8], config: &LauncherConfig) -> Result<Self, Error> {
        let ids = IdPool::open(config.ids)?;
        ids.make_lock_dir().map_err(Error::host("make the directory of id locks"))?;
        let instance = instance_name().map_err(Error::host("name this launcher"))?;
        let group = format!("fumehood-{instance}");
        let layout = Layout::make(&group, config.cgroup_parent.as_deref())
            .map_err(Error::host("find this process's cgroups"))?;
        let record = Record::instance(&config.state_dir, &instance, layout.instance_dirs())
            .map_err(Error::host("write the launcher's record"))?;
        let executable = sealed(agent).map_err(Error::host("seal the agent's executable in memory"))?;
        let (ours, theirs) = packets::packet_pair().map_err(Error::host("make the launcher's channel"))?;
        let process = spawn(&executable, &theirs).map_err(Error::host("execute the launcher"))?;
        drop(theirs);
        let shared = Shared {
            control: Mutex::new(Some(ours)),
            process: Mutex::new(process),
            ids,
            layout,
            record,
            state_dir: config.state_dir.clone(),
            instance,
            next: AtomicU64::new(0),
            orders: AtomicU32::new(0),
            foreign: foreign().map_err(Error::host("read this process's namespaces"))?,
            core_piped: super::report::core_is_piped(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Makes one place that waits for an assignment. Blocks for tens of milliseconds; several calls
    /// may run at once.
    ///
    /// # Errors
    /// A step failed. Nothing of the place is left.
    pub fn prepare(&self, spec: &PlaceSpec) -> Result<Place, Error> {
        let shared = &self.shared;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let image = rustix::fs::open(&spec.image, flags, Mode::empty())
            .map_err(|error| Error::Image { path: spec.image.clone(), source: error.into() })?;
        let ids = shared.ids.lease()?;
        let id = format!("{}-{}", shared.instance, shared.next.fetch_add(1, Ordering::Relaxed));
        let record = Record::place(&shared.state_dir, &id, Groups::planned(&shared.layout, &id, spec.builds))
            .map_err(Error::host("write the place's record"))?;
        let mut remains = Remains { id, record, ids, groups: None, pidfd: None };
        match super::place::build(shared, spec, image.as_fd(), &mut remains) {
            Ok(built) => Ok(Place::new(built, remains, Arc::clone(shared))),
            Err(error) => {
                // What cannot be removed keeps its record and is buried at the next start.
                let _ = remains.bury();
                Err(error)
            }
        }
    }

    /// Whether the launcher process is alive. Its places die with it.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        let mut process = self.shared.process.lock().unwrap_or_else(PoisonError::into_inner);
        matches!(process.try_wait(), Ok(None))
    }

    /// The launcher's process id, for diagnostics.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.shared.process.lock().unwrap_or_else(PoisonError::into_inner).id()
    }
}

impl Shared {
    /// Has the launcher clone, and gives the new process's pid and pidfd.
    pub(super) fn clone_place(
        &self,
        ids: &IdLease,
        birth: &Descriptors<'_>,
    ) -> Result<(u32, OwnedFd), Error> {
        let order = Order {
            sequence: self.orders.fetch_add(1, Ordering::Relaxed),
            has_lock: ids.lock().is_some(),
            has_cgroup: birth.cgroup.is_some(),
            owner: (!self.ids.is_single() && rustix::process::geteuid().is_root()).then_some(ids.agent.0),
        };
        let mut fds = vec![birth.setup, birth.link, birth.image];
        fds.extend(ids.lock());
        fds.extend(birth.cgroup);
        let guard = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        let control = guard.as_ref().ok_or(Error::LauncherGone)?;
        packets::send(control, &order.encode(), &fds).map_err(|_| Error::LauncherGone)?;
        let (number, fds) = loop {
            if !matches!(super::record::await_readable(control, ANSWER_PATIENCE), Ok(true)) {
                return Err(Error::Silent("clone"));
            }
            let answer = packets::receive(control).map_err(|_| Error::LauncherGone)?;
            let (sequence, number) = decode_answer(&answer.bytes).ok_or(Error::LauncherGone)?;
            // One that was given up on: its process finds its setup channel closed, and ends.
            if sequence == order.sequence {
                break (number, answer.fds);
            }
        };
        match (u32::try_from(number), fds.into_iter().next()) {
            (Ok(pid), Some(pidfd)) => Ok((pid, pidfd)),
            _ => Err(Error::Host {
                step: "clone into new namespaces",
                fix: Some(
                    "the kernel must allow user, mount, pid, net, ipc, uts and cgroup namespaces to this user",
                ),
                source: io::Error::from_raw_os_error(-number),
            }),
        }
    }
}

/// What the first process of a place is born with.
pub(super) struct Descriptors<'a> {
    pub(super) setup: BorrowedFd<'a>,
    pub(super) link: BorrowedFd<'a>,
    pub(super) image: BorrowedFd<'a>,
    pub(super) cgroup: Option<BorrowedFd<'a>>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        // End of file ends the launcher; every place is gone already, as each holds this value.
        self.control.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        let process = self.process.get_mut().unwrap_or_else(PoisonError::into_inner);
        let _ = process.wait();
        let removed = self
            .layout
            .instance_dirs()
            .iter()
            .try_for_each(|dir| crate::cgroup::remove_group(dir, Duration::ZERO));
        if removed.is_ok() {
            let _ = self.record.remove();
        }
    }
}

fn instance_name() -> io::Result<String> {
    let uuid = std::fs::read_to_string("/proc/sys/kernel/random/uuid")?;
    Ok(uuid.chars().filter(char::is_ascii_hexdigit).take(12).collect())
}

fn foreign() -> io::Result<Vec<u64>> {
    NAMESPACES
        .iter()
        .map(|name| Ok(std::fs::metadata(Path::new("/proc/self/ns").join(name))?.ino()))
        .collect()
}

/// An executable in memory that nobody can change any more.
pub(super) fn sealed(bytes: &[u8]) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = match rustix::fs::memfd_create("hood-agent", flags | MemfdFlags::EXEC) {
        // Kernels before 6.3 make every memfd executable and know no flag for it.
        Err(rustix::io::Errno::INVAL) => rustix::fs::memfd_create("hood-agent", flags)?,
        other => other?,
    };
    let mut file = File::from(fd);
    file.write_all(bytes)?;
    let fd = OwnedFd::from(file);
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&fd, seals)?;
    Ok(fd)
}

/// The launcher is not bound to the death of its parent *thread*, which is what PDEATHSIG means and
/// which a server's thread pool ends at any time: it ends when its channel does.
fn spawn(executable: &OwnedFd, control: &OwnedFd) -> io::Result<Child> {
    let mut command = Command::new(format!("/proc/self/fd/{}", executable.as_raw_fd()));
    command
        .arg0("hood-agent")
        .arg("launcher")
        .arg(control.as_raw_fd().to_string())
        .arg(executable.as_raw_fd().to_string())
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    sys::keep_only(&mut command, [control.as_raw_fd(), executable.as_raw_fd()]);
    command.spawn()
}
