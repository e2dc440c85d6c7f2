//! One single-use place, from its making to the proof that nothing of it is left.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::Error;
use super::ids::IdLease;
use super::launcher::{Descriptors, PlaceSpec, Shared};
use super::maps;
use super::record::{Record, await_readable};
use crate::cgroup::{GroupLimits, Groups, Leaf, OomWatch, Phase, Sample, Seat};
use crate::packets;
use crate::protocol::{self, Blueprint, Failure};
use crate::sys;

/// How long the whole making may take.
const BUILD_PATIENCE: Duration = Duration::from_secs(20);
/// How long a killed place may take to be gone: the kernel frees its memory in this time.
const DEATH_PATIENCE: Duration = Duration::from_secs(10);
/// How long repeated passes over a v1 group may take to kill a program that forks.
const KILL_PATIENCE: Duration = Duration::from_millis(500);

/// One mechanism, and whether this place was seen to have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// Its stable name, as in `degraded` on results.
    pub name: String,
    /// It was checked and holds.
    pub proven: bool,
    /// Why not, with what to do about it; empty if proven.
    pub reason: String,
}

/// Proof that no process and no group of a place is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone(());

/// A place whose end could not be proven, to try again. Dropped as it is, its record stays for the
/// next [`crate::bury_leftovers`] and its ids stay taken.
#[derive(Debug, thiserror::Error)]
#[error("place {} is not proven dead", .place.id())]
pub struct NotProvenDead {
    /// The place, killed as far as the kernel let us.
    pub place: Box<Place>,
    /// What stands in the way.
    #[source]
    pub source: io::Error,
}

/// What there is of a place to clear away, complete or not.
#[derive(Debug)]
pub(super) struct Remains {
    pub(super) id: String,
    pub(super) record: Record,
    pub(super) ids: IdLease,
    pub(super) groups: Option<Groups>,
    pub(super) pidfd: Option<OwnedFd>,
}

impl Remains {
    pub(super) fn kill(&self) -> io::Result<()> {
        if let Some(pidfd) = &self.pidfd {
            match rustix::process::pidfd_send_signal(pidfd, Signal::KILL) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.groups.as_ref().map_or(Ok(()), Groups::kill_all)
    }

    /// Kills, proves dead, removes. Whether the program's ids are free again follows from the locks.
    pub(super) fn bury(&self) -> io::Result<()> {
        self.kill()?;
        // The kernel reports PID 1's end only when its pid namespace is empty.
        if let Some(pidfd) = &self.pidfd
            && !await_readable(pidfd, DEATH_PATIENCE)?
        {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "its first process does not end"));
        }
        if let Some(groups) = &self.groups {
            groups.remove(DEATH_PATIENCE)?;
        }
        self.record.remove()
    }
}

/// What [`build`] adds to the remains.
#[derive(Debug)]
pub(super) struct Built {
    pidfd: OwnedFd,
    link: OwnedFd,
    layers: Vec<Layer>,
    pids: (u32, u32),
}

/// How far a place's end has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    NotYet,
    Unproven,
    Proven,
}

/// A waiting or running place. Dropping it kills it without proof; [`Place::destroy`] proves.
#[derive(Debug)]
pub struct Place {
    remains: Remains,
    pidfd: OwnedFd,
    link: Option<OwnedFd>,
    layers: Vec<Layer>,
    pids: (u32, u32),
    end: End,
    /// Keeps the launcher alive: its death is its places'.
    _launcher: Arc<Shared>,
}

impl Place {
    pub(super) fn new(built: Built, remains: Remains, launcher: Arc<Shared>) -> Self {
        let Built { pidfd, link, layers, pids } = built;
        Self { remains, pidfd, link: Some(link), layers, pids, end: End::NotYet, _launcher: launcher }
    }

    /// Unique on this host since boot; names its record.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.remains.id
    }

    /// The stream to the agent, nonblocking. It can be taken once; when it is closed, the place
    /// ends.
    #[must_use]
    pub fn take_link(&mut self) -> Option<OwnedFd> {
        self.link.take()
    }

    /// Writes the limits. The program's starter is in the groups already.
    ///
    /// # Errors
    /// A limit could not be written; the place must not be used.
    pub fn bind(&self, limits: &GroupLimits) -> Result<(), Error> {
        self.groups()
            .map_or(Ok(()), |groups| groups.bind(limits))
            .map_err(Error::host("write the place's limits"))
    }

    /// Reads a phase's group: a handful of system calls.
    #[must_use]
    pub fn sample(&self, phase: Phase) -> Sample {
        self.leaf(phase).map(Leaf::sample).unwrap_or_default()
    }

    /// Tells when memory ran out in a phase; `None` where no group holds memory.
    ///
    /// # Errors
    /// The kernel refused the watch.
    pub fn oom_watch(&self, phase: Phase) -> Result<Option<OomWatch>, Error> {
        let watch = self.leaf(phase).map(Leaf::oom_watch).transpose();
        Ok(watch.map_err(Error::host("watch for memory running out"))?.flatten())
    }

    /// Kills what a phase runs and what that started, and leaves the agent to report their end. Where
    /// no group holds them, it kills the place.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn kill_program(&self, phase: Phase) -> Result<(), Error> {
        let step = Error::host("kill the program");
        match (self.groups(), self.leaf(phase)) {
            (Some(groups), Some(leaf)) if !groups.is_bare() => leaf.kill(KILL_PATIENCE).map_err(step),
            _ => self.kill(),
        }
    }

    /// Kills whatever a build left running, and returns with the proof that nothing of it is. Where no
    /// group holds it, the agent looks, and ends the place rather than go on.
    ///
    /// # Errors
    /// There is no proof; the place must not be used any further.
    pub fn end_build(&self) -> Result<(), Error> {
        let step = Error::host("end what the build left running");
        self.leaf(Phase::Build).map_or(Ok(()), |leaf| leaf.clear(DEATH_PATIENCE)).map_err(step)
    }

    /// Kills everything in the place, the agent first.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn kill(&self) -> Result<(), Error> {
        self.remains.kill().map_err(Error::host("kill the place"))
    }

    /// Becomes readable when the place's first process, and so the whole place, has ended.
    #[must_use]
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Host pids of agent and program's starter (which becomes the program), for diagnostics.
    #[must_use]
    pub fn pids(&self) -> (u32, u32) {
        self.pids
    }

    /// Host uids of agent and program.
    #[must_use]
    pub fn uids(&self) -> (u32, u32) {
        (self.remains.ids.agent.0, self.remains.ids.program.0)
    }

    /// Every mechanism, proven or with the reason why not.
    #[must_use]
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// Kills what is alive, proves that the pid namespace and the groups are empty, removes them
    /// and frees the ids. Blocks for milliseconds; keep it off the hot path.
    ///
    /// # Errors
    /// There is no proof yet; the error holds the place, to try again.
    pub fn destroy(mut self) -> Result<Gone, NotProvenDead> {
        match self.remains.bury() {
            Ok(()) => {
                self.end = End::Proven;
                Ok(Gone(()))
            }
            Err(source) => {
                self.end = End::Unproven;
                Err(NotProvenDead { place: Box::new(self), source })
            }
        }
    }

    fn groups(&self) -> Option<&Groups> {
        self.remains.groups.as_ref()
    }

    fn leaf(&self, phase: Phase) -> Option<&Leaf> {
        self.groups()?.leaf(phase)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.end == End::Proven {
            return;
        }
        let _ = self.remains.kill();
        if self.end == End::Unproven {
            // Leaks the lock on purpose: ids of a place that may live are never given again.
            std::mem::forget(self.remains.ids.take_lock());
        }
    }
}

pub(super) fn build(
    shared: &Shared,
    spec: &PlaceSpec,
    image: BorrowedFd<'_>,
    remains: &mut Remains,
) -> Result<Built, Error> {
    let groups = Groups::create(&shared.layout, &remains.id, spec.builds)
        .map_err(Error::host("make the place's cgroups"))?;
    let groups = remains.groups.insert(groups);
    let pair = Error::host("make the place's channels");
    let (link, their_link) = packets::stream_pair().map_err(pair)?;
    let (setup, their_setup) = packets::packet_pair().map_err(Error::host("make the place's channels"))?;
    rustix::net::sockopt::set_socket_passcred(&setup, true)
        .map_err(|source| Error::host("ask for credentials")(source.into()))?;
    let cgroup = groups.birthplace().map_err(Error::host("open the agent's cgroup"))?;
    let birth = Descriptors {
        setup: their_setup.as_fd(),
        link: their_link.as_fd(),
        image,
        cgroup: cgroup.as_ref().map(AsFd::as_fd),
    };
    let (pid, pidfd) = shared.clone_place(&remains.ids, &birth)?;
    // Our copies must go: end of file on them is how each side sees the other's death.
    drop((their_link, their_setup));
    let pidfd = remains.pidfd.insert(pidfd).try_clone().map_err(Error::host("copy the place's pidfd"))?;
    remains.record.born(pid).map_err(Error::host("complete the place's record"))?;
    maps::write(pid, &shared.ids.source, &remains.ids)?;
    let go = if shared.ids.is_single() { protocol::GO_KEEPING_GROUPS } else { protocol::GO };
    let blueprint = Blueprint {
        disk_bytes: spec.disk_bytes,
        disk_inodes: spec.disk_inodes,
        single_id: shared.ids.is_single(),
        core_piped: shared.core_piped,
        calls: spec.calls,
        builds: spec.builds,
        foreign: shared.foreign.clone(),
    };
    let silent = |_| Error::Silent("handing over the blueprint");
    packets::send(&setup, &[go], &[]).map_err(silent)?;
    packets::send(&setup, &blueprint.encode(), &[]).map_err(silent)?;
    let (pids, inside) = attend(&setup, groups, pid, Phase::of(spec.builds))?;
    rustix::io::ioctl_fionbio(&link, true)
        .map_err(|source| Error::host("unblock the link")(source.into()))?;
    let mut layers = group_layers(shared);
    layers.extend(inside.into_iter().map(|(name, lacking)| Layer {
        name,
        proven: lacking.is_none(),
        reason: lacking.unwrap_or_default(),
    }));
    Ok(Built { pidfd, link, layers, pids })
}

type Findings = Vec<(String, Option<String>)>;

/// Listens until the place is ready, and puts its processes into their groups meanwhile.
fn attend(
    setup: &OwnedFd,
    groups: &Groups,
    agent: u32,
    mut phases: &[Phase],
) -> Result<((u32, u32), Findings), Error> {
    let deadline = Instant::now() + BUILD_PATIENCE;
    let mut at = "executing the agent";
    let mut program = None;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if !await_readable(setup, left).map_err(|_| Error::Silent(at))? {
            return Err(Error::Silent(at));
        }
        let packet = packets::receive(setup).map_err(|_| Error::Silent(at))?;
        let Some((kind, rest)) = packet.bytes.split_first() else { return Err(Error::Silent(at)) };
        match *kind {
            protocol::AGENT_HERE if packet.pid == Some(agent) => {
                groups.place_agent(agent).map_err(Error::host("put the agent into its cgroups"))?;
                at = "building the root";
            }
            protocol::PROGRAM_HERE if !phases.is_empty() => {
                let pid = packet.pid.ok_or(Error::Silent(at))?;
                let Some((phase, later)) = phases.split_first() else { return Err(Error::Silent(at)) };
                phases = later;
                program = Some(pid);
                groups.place(*phase, pid).map_err(Error::host("put the program into its cgroups"))?;
                packets::send(setup, &[protocol::PLACED], &[]).map_err(|_| Error::Silent(at))?;
                at = "dropping privileges";
            }
            protocol::READY if phases.is_empty() => {
                let program = program.ok_or(Error::Silent(at))?;
                return Ok(((agent, program), protocol::decode_findings(rest)));
            }
            protocol::FAILED => {
                let Failure { step, errno } = Failure::decode(rest);
                let fix = inside_fix(&step);
                return Err(Error::Inside { step, fix, source: io::Error::from_raw_os_error(errno) });
            }
            protocol::BIRTH_FAILED => {
                let (step, errno) = (rest.first().copied(), rest.get(1).copied());
                return Err(Error::Inside {
                    step: sys::birth_step(step.unwrap_or_default()).to_owned(),
                    fix: None,
                    source: io::Error::from_raw_os_error(errno.unwrap_or_default().into()),
                });
            }
            _ => return Err(Error::Silent(at)),
        }
    }
}

fn inside_fix(step: &str) -> Option<&'static str> {
    match step {
        "mount the root overlay" => Some("the kernel needs overlayfs in user namespaces (5.11 or later)"),
        "mount proc" => Some(
            "another mount hides parts of /proc here, as in a container; run where /proc is whole, \
             for Docker with --security-opt systempaths=unconfined",
        ),
        "install the seccomp filter" => Some("the kernel needs CONFIG_SECCOMP_FILTER"),
        _ => None,
    }
}

fn group_layers(shared: &Shared) -> Vec<Layer> {
    let layout = &shared.layout;
    [("memory_limit", &layout.memory), ("process_limit", &layout.pids), ("cpu_accounting", &layout.cpuacct)]
        .map(|(name, seat)| {
            let reason = match seat {
                Seat::Missing(reason) => reason.clone(),
                Seat::V1(_) | Seat::V2 => String::new(),
            };
            Layer { name: name.to_owned(), proven: reason.is_empty(), reason }
        })
        .to_vec()
}
