//! The root that a place sees, built from an image that is the current directory.

use std::io;

use rustix::fs::{Gid, Mode, Uid};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change, mount_remount,
};

use super::{Step, StepFailed};
use crate::protocol::{Blueprint, PROGRAM_ID};

/// Where things are put together, in a mount namespace of our own. Every host has it, if not every
/// container, and nothing of it is touched: a tmpfs covers it first.
const WORKSHOP: &str = "/tmp";
const ROOT: &str = "/tmp/root";
/// The upper half of the root overlay: mount points, so that images need none.
const SKELETON: &str = "/tmp/skeleton";
/// Files and directories of the workshop itself, which the program must not pay for: its own root,
/// the three writable directories, root and skeleton, and in that five directories, the devices and
/// four links. Exact, so that `disk_inodes` is.
const WORKSHOP_INODES: u64 = 1 + 3 + 2 + 5 + DEVICES.len() as u64 + 4;

const DEVICES: [&str; 5] = ["null", "zero", "full", "random", "urandom"];
/// Files beneath /proc that tell of or reach the host.
const MASKED_FILES: [&str; 7] =
    ["kcore", "keys", "key-users", "timer_list", "kmsg", "kallsyms", "kpagecount"];
const MASKED_DIRS: [&str; 5] = ["acpi", "asound", "scsi", "driver", "sysvipc"];
const READ_ONLY: [&str; 5] = ["sys", "sysrq-trigger", "bus", "fs", "irq"];

/// Builds the root and moves into it. Everything of the host's file systems is out of reach after.
pub(super) fn build(blueprint: &Blueprint) -> Result<(), StepFailed> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .step("cut mounts off from the host's")?;
    disk(blueprint).step("mount the place's tmpfs over /tmp")?;
    skeleton().step("lay out the root's mount points")?;
    // Two lower layers and no upper one: an instance of its own over shared files, so that neither
    // inotify nor flock meets a neighbour, and nothing can be written. The mount points lie over the
    // image: a link in their place would lead what is mounted elsewhere.
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    mount("overlay", ROOT, "overlay", flags, Some(c"lowerdir=/tmp/skeleton:."))
        .step("mount the root overlay")?;
    mount_proc(&in_root("proc")).step("mount proc")?;
    for device in DEVICES {
        mount_bind(format!("/dev/{device}"), in_root(&format!("dev/{device}"))).step("bind devices")?;
    }
    for (from, to) in [("eval", "eval"), ("tmp", "tmp"), ("shm", "dev/shm")] {
        mount_bind(format!("{WORKSHOP}/{from}"), in_root(to)).step("bind the writable directories")?;
    }
    enter().step("enter the root")
}

/// Shows a process nothing of those that it may not trace; the agent's group is exempt.
pub(super) fn mount_proc(at: &str) -> io::Result<()> {
    Ok(mount("proc", at, "proc", quiet(), Some(c"hidepid=2,gid=0"))?)
}

fn in_root(path: &str) -> String {
    format!("{ROOT}/{path}")
}

fn quiet() -> MountFlags {
    MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC
}

fn disk(blueprint: &Blueprint) -> io::Result<()> {
    let inodes = blueprint.disk_inodes.saturating_add(WORKSHOP_INODES);
    let options = format!("size={},nr_inodes={inodes},mode=0755", blueprint.disk_bytes);
    let options = std::ffi::CString::new(options)?;
    mount("tmpfs", WORKSHOP, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, Some(options.as_c_str()))?;
    let owner = if blueprint.single_id { 0 } else { PROGRAM_ID };
    for (name, mode) in [("eval", 0o755), ("tmp", 0o1777), ("shm", 0o1777)] {
        let path = format!("{WORKSHOP}/{name}");
        rustix::fs::mkdir(&path, Mode::RWXU)?;
        rustix::fs::chown(&path, Some(Uid::from_raw(owner)), Some(Gid::from_raw(owner)))?;
        // After chown, which may clear mode bits, and free of the umask.
        rustix::fs::chmod(&path, Mode::from_raw_mode(mode))?;
    }
    Ok(())
}

fn skeleton() -> io::Result<()> {
    let directory = Mode::from_raw_mode(0o755);
    rustix::fs::mkdir(ROOT, directory)?;
    rustix::fs::mkdir(SKELETON, directory)?;
    for name in ["eval", "tmp", "proc", "dev", "dev/shm"] {
        rustix::fs::mkdir(format!("{SKELETON}/{name}"), directory)?;
    }
    for device in DEVICES {
        std::fs::File::create(format!("{SKELETON}/dev/{device}"))?;
    }
    for (name, target) in [("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")]
    {
        rustix::fs::symlink(target, format!("{SKELETON}/dev/{name}"))?;
    }
    Ok(())
}

fn enter() -> io::Result<()> {
    rustix::process::chdir(ROOT)?;
    // The old root ends up mounted over the new one, from where it is taken off.
    rustix::process::pivot_root(".", ".")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    Ok(rustix::process::chdir("/")?)
}

/// Covers what of /proc is not the place's own. What a kernel does not have needs no cover.
pub(super) fn mask_proc() -> Result<(), StepFailed> {
    for name in MASKED_FILES {
        let path = format!("/proc/{name}");
        if std::fs::symlink_metadata(&path).is_ok() {
            mount_bind("/dev/null", &path).step("mask files of proc")?;
        }
    }
    for name in MASKED_DIRS {
        let path = format!("/proc/{name}");
        if std::fs::symlink_metadata(&path).is_ok() {
            let flags = quiet() | MountFlags::RDONLY;
            mount("tmpfs", &path, "tmpfs", flags, Some(c"size=4k,nr_inodes=2,mode=0555"))
                .step("mask directories of proc")?;
        }
    }
    for name in READ_ONLY {
        let path = format!("/proc/{name}");
        if std::fs::symlink_metadata(&path).is_ok() {
            mount_bind(&path, &path).step("make parts of proc read-only")?;
            mount_remount(&path, MountFlags::BIND | MountFlags::RDONLY | quiet(), c"")
                .step("make parts of proc read-only")?;
        }
    }
    Ok(())
}
