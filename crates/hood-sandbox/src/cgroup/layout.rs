//! Where on this host our groups may live.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// The controllers that a place wants.
const CGROUP_CONTROLLERS: [&str; 4] = ["memory", "pids", "cpu", "cpuacct"];

/// The leaf that we step down into.
const SUPERVISOR: &str = "fumehood-supervisor";

/// Launchers of one process look for their parent one after the other: the first may move the process.
static LOOKING: Mutex<()> = Mutex::new(());

/// Where one controller's groups are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Seat {
    /// In the v2 hierarchy.
    V2,
    /// In this directory of a v1 hierarchy.
    V1(PathBuf),
    /// Nowhere, and why.
    Missing(String),
}

/// The directories of one launcher, made beneath the group that we are in ourselves.
#[derive(Debug)]
pub(crate) struct Layout {
    /// Ours in the v2 hierarchy, whether or not it holds controllers.
    pub(crate) v2: Option<PathBuf>,
    pub(crate) memory: Seat,
    pub(crate) pids: Seat,
    pub(crate) cpu: Seat,
    pub(crate) cpuacct: Seat,
}

impl Layout {
    /// Finds the hierarchies and makes our directory in each.
    pub(crate) fn make(instance: &str, parent: Option<&Path>) -> io::Result<Self> {
        let _looking = LOOKING.lock().unwrap_or_else(PoisonError::into_inner);
        let mounts = mounts(&fs::read_to_string("/proc/self/mountinfo")?);
        let own = own_groups(&fs::read_to_string("/proc/self/cgroup")?);
        let v2 = make_v2(instance, parent, &mounts, &own);
        let seat = |controller: &str| {
            if let Ok((_, controllers)) = &v2 {
                // v2 measures CPU time without a controller of its own.
                let name = if controller == "cpuacct" { "cpu" } else { controller };
                if controllers.iter().any(|held| held == name) {
                    return Seat::V2;
                }
            }
            let Some(mount) = mounts.iter().find(|mount| mount.has_v1(controller)) else {
                return Seat::Missing(match &v2 {
                    Ok(_) => format!("no cgroup hierarchy offers {controller} to us"),
                    Err(reason) => reason.clone(),
                });
            };
            let beneath = own.iter().find(|(name, _)| name == controller).map_or("/", |(_, path)| path);
            let dir = mount.resolve(beneath).join(instance);
            match create(&dir) {
                Ok(()) => Seat::V1(dir),
                Err(error) => Seat::Missing(format!("cannot make {}: {error}", dir.display())),
            }
        };
        let [memory, pids, cpu, cpuacct] = CGROUP_CONTROLLERS.map(seat);
        Ok(Self { v2: v2.ok().map(|(dir, _)| dir), memory, pids, cpu, cpuacct })
    }

    /// Every directory of ours, each once.
    pub(crate) fn instance_dirs(&self) -> Vec<PathBuf> {
        let mut dirs: Vec<PathBuf> = self.v2.iter().cloned().collect();
        for seat in [&self.memory, &self.pids, &self.cpu, &self.cpuacct] {
            if let Seat::V1(dir) = seat
                && !dirs.contains(dir)
            {
                dirs.push(dir.clone());
            }
        }
        dirs
    }
}

/// For each controller, where its groups would be made, or why they cannot be. Changes nothing.
pub(crate) fn prospects() -> Vec<(&'static str, Result<String, String>)> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let mounts = mounts(&read("/proc/self/mountinfo"));
    let own = own_groups(&read("/proc/self/cgroup"));
    let path_of =
        |name: &str| own.iter().find(|(controller, _)| controller == name).map_or("/", |(_, path)| path);
    let writable = |dir: &Path| rustix::fs::access(dir, rustix::fs::Access::WRITE_OK).is_ok();
    let in_v2 = |controller: &str| {
        let mount = mounts.iter().find(|mount| mount.v2)?;
        let ours = mount.resolve(path_of(""));
        let name = if controller == "cpuacct" { "cpu" } else { controller };
        let holds = |file: &str, dir: &Path| words(&dir.join(file)).iter().any(|held| held == name);
        let alone = words(&ours.join("cgroup.procs")) == [std::process::id().to_string()];
        if alone && writable(&ours) && holds("cgroup.controllers", &ours) {
            return Some(ours);
        }
        let hands_on = |dir: &&Path| holds("cgroup.subtree_control", dir) && writable(dir);
        let mut above = ours.ancestors().take_while(|dir| dir.starts_with(&mount.point));
        above.find(hands_on).map(Path::to_path_buf)
    };
    let look = |controller: &'static str| {
        if let Some(dir) = in_v2(controller) {
            return Ok(format!("v2, beneath {}", dir.display()));
        }
        let mount = mounts.iter().find(|mount| mount.has_v1(controller));
        let Some(mount) = mount else { return Err("no cgroup hands it to a group of ours".to_owned()) };
        let dir = mount.resolve(path_of(controller));
        if writable(&dir) {
            Ok(format!("v1, beneath {}", dir.display()))
        } else {
            Err(format!("{} cannot be written by this user", dir.display()))
        }
    };
    CGROUP_CONTROLLERS.into_iter().map(|controller| (controller, look(controller))).collect()
}

fn create(dir: &Path) -> io::Result<()> {
    match fs::create_dir(dir) {
        // Co-mounted controllers share a directory.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Mount {
    root: String,
    point: PathBuf,
    v2: bool,
    options: Vec<String>,
}

impl Mount {
    fn has_v1(&self, controller: &str) -> bool {
        !self.v2 && self.options.iter().any(|option| option == controller)
    }

    /// The directory of a group that /proc names by a path from the hierarchy's root.
    fn resolve(&self, group: &str) -> PathBuf {
        let beneath = match self.root.as_str() {
            "/" => group,
            root => group.strip_prefix(root).unwrap_or("/"),
        };
        self.point.join(beneath.trim_start_matches('/'))
    }
}

fn mounts(mountinfo: &str) -> Vec<Mount> {
    let parse = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        let left: Vec<&str> = left.split(' ').collect();
        let right: Vec<&str> = right.split(' ').collect();
        let v2 = match *right.first()? {
            "cgroup2" => true,
            "cgroup" => false,
            _ => return None,
        };
        Some(Mount {
            root: (*left.get(3)?).to_owned(),
            point: PathBuf::from(*left.get(4)?),
            v2,
            options: right.get(2)?.split(',').map(str::to_owned).collect(),
        })
    };
    mountinfo.lines().filter_map(parse).collect()
}

/// `(controller, path)`; the v2 group has an empty controller.
fn own_groups(text: &str) -> Vec<(String, String)> {
    let mut groups = Vec::new();
    for line in text.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        for controller in controllers.split(',') {
            groups.push((controller.to_owned(), path.to_owned()));
        }
    }
    groups
}

fn words(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().map(str::to_owned).collect()
}

/// Our directory in the v2 hierarchy and the controllers that it hands to its leaves.
fn make_v2(
    instance: &str,
    parent: Option<&Path>,
    mounts: &[Mount],
    own: &[(String, String)],
) -> Result<(PathBuf, Vec<String>), String> {
    let mount = mounts.iter().find(|mount| mount.v2).ok_or("no cgroup v2 hierarchy is mounted")?;
    let ours = own.iter().find(|(controller, _)| controller.is_empty()).map_or("/", |(_, path)| path);
    let ours = mount.resolve(ours);
    let above = match parent {
        Some(parent) => parent.to_path_buf(),
        None => find_parent(&mount.point, &ours)?,
    };
    let dir = above.join(instance);
    create(&dir).map_err(|error| format!("cannot make {}: {error}", dir.display()))?;
    let offered = words(&dir.join("cgroup.controllers"));
    let wanted = offered.iter().filter(|name| CGROUP_CONTROLLERS.contains(&name.as_str()));
    let mut held = Vec::new();
    for controller in wanted {
        // One at a time: a controller that cannot be handed on does not take the others along.
        if fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}")).is_ok() {
            held.push(controller.clone());
        }
    }
    Ok((dir, held))
}

/// The nearest group, from our own upwards, that hands memory and pids to its children. Groups that
/// others made are left as they are; only our own is changed, and only if we are alone in it.
fn find_parent(root: &Path, ours: &Path) -> Result<PathBuf, String> {
    let hands_on = |dir: &Path| {
        let controllers = words(&dir.join("cgroup.subtree_control"));
        ["memory", "pids"].iter().all(|wanted| controllers.iter().any(|held| held == wanted))
    };
    let offers = |dir: &Path| words(&dir.join("cgroup.controllers")).iter().any(|held| held == "memory");
    if !offers(root) && !offers(ours) {
        // A hybrid host: v2 holds no limits, but births, kills and proofs of death.
        return Ok(ours.to_path_buf());
    }
    // An earlier launcher of this process may have stepped down already.
    let ours = match ours.parent() {
        Some(above) if ours.ends_with(SUPERVISOR) => above,
        _ => ours,
    };
    if !hands_on(ours) && offers(ours) {
        take_over(ours);
    }
    let mut candidate = ours;
    loop {
        let writable = rustix::fs::access(candidate, rustix::fs::Access::WRITE_OK).is_ok();
        if hands_on(candidate) && writable {
            return Ok(candidate.to_path_buf());
        }
        match candidate.parent() {
            Some(above) if candidate != root => candidate = above,
            _ => break,
        }
    }
    Err(format!(
        "{} and the groups above it hand memory and pids to no group of ours; run as a service with \
         Delegate=yes, or under: systemd-run --user --scope -p Delegate=yes",
        ours.display()
    ))
}

/// A group with processes of its own cannot hand controllers on. If the group was delegated to us
/// and holds nobody else, we step down into a leaf of it.
fn take_over(ours: &Path) {
    let me = std::process::id().to_string();
    if words(&ours.join("cgroup.procs")) != [me.clone()] {
        return;
    }
    let seat = ours.join(SUPERVISOR);
    if create(&seat).is_err() || fs::write(seat.join("cgroup.procs"), me).is_err() {
        return;
    }
    for controller in ["memory", "pids", "cpu"] {
        // What is not handed on is found missing by `find_parent`, with a reason.
        let _ = fs::write(ours.join("cgroup.subtree_control"), format!("+{controller}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_a_group_through_a_partial_mount() {
        let info = "40 30 0:3 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n\
                    41 30 0:4 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate";
        let found = mounts(info);
        assert!(found[0].has_v1("memory") && !found[1].has_v1("memory"));
        assert_eq!(found[0].resolve("/docker/abc/x"), Path::new("/sys/fs/cgroup/memory/x"));
        assert_eq!(found[0].resolve("/"), Path::new("/sys/fs/cgroup/memory/"));
        assert_eq!(found[1].resolve("/user.slice"), Path::new("/sys/fs/cgroup/unified/user.slice"));
    }

    #[test]
    fn names_co_mounted_controllers_apart() {
        let own = own_groups("3:cpu,cpuacct:/a\n0::/b\n");
        assert_eq!(own[1], ("cpuacct".to_owned(), "/a".to_owned()));
        assert_eq!(own[2], (String::new(), "/b".to_owned()));
    }
}
