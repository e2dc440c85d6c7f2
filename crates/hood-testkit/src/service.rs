//! What both services have in common.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

/// How long a start or a stop may take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

const POLL: Duration = Duration::from_millis(10);

/// Where a service runs, as its clients see it.
#[derive(Clone, Debug)]
pub struct Location {
    /// The address that it listens on.
    pub host: Ipv4Addr,
    /// What its command begins with: nothing, or what enters another network namespace first.
    pub prefix: Vec<String>,
}

impl Default for Location {
    fn default() -> Self {
        Self { host: Ipv4Addr::LOCALHOST, prefix: Vec::new() }
    }
}

impl Location {
    /// `program` there.
    pub fn command(&self, program: &Path) -> Command {
        let mut words = self.prefix.iter();
        match words.next() {
            None => Command::new(program),
            Some(first) => {
                let mut command = Command::new(first);
                command.args(words).arg(program);
                command
            }
        }
    }
}

/// Why a test that needs these services cannot run here, and what would help.
pub fn missing() -> Option<String> {
    let lacking =
        [("postgresql", crate::postgres::program("postgres")), ("redis-server", program("redis-server"))];
    let lacking: Vec<&str> =
        lacking.iter().filter(|(_, found)| found.is_none()).map(|(package, _)| *package).collect();
    (!lacking.is_empty()).then(|| format!("not installed: apt-get install {}", lacking.join(" ")))
}

pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|at| at.is_file())
}

/// A directory that another user can reach, which `tempfile`'s own mode does not allow. A guard
/// removes it.
pub(crate) fn directory(prefix: &str) -> io::Result<PathBuf> {
    let dir = tempfile::Builder::new().prefix(prefix).tempdir()?.keep();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755))?;
    Ok(dir)
}

/// Free now; whoever is quicker may take it, so that a start is tried more than once.
pub(crate) fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

pub(crate) fn read_pid(file: &Path) -> Option<Pid> {
    let text = fs::read_to_string(file).ok()?;
    text.lines().next()?.trim().parse().ok().and_then(Pid::from_raw)
}

pub(crate) fn signal(pid: Pid, signal: Signal) -> io::Result<()> {
    match kill_process(pid, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

pub(crate) fn is_gone(pid: Pid) -> bool {
    if test_kill_process(pid).is_err() {
        return true;
    }
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    stat.is_ok_and(|stat| has_ended(&stat))
}

/// Whether a process with such a `/proc/PID/stat` is dead and only not yet waited for. That its
/// first thread is a zombie does not say so: until its last thread is gone it holds its ports.
fn has_ended(stat: &str) -> bool {
    // From the third field on: the second is a name, in which anything may stand.
    let Some((_, fields)) = stat.rsplit_once(')') else { return false };
    let mut fields = fields.split_ascii_whitespace();
    let (state, threads) = (fields.next(), fields.nth(16));
    state == Some("Z") && matches!(threads, Some("0" | "1"))
}

/// Looks again and again until it is so.
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        if Instant::now() >= deadline {
            return Err(io::Error::other(format!("{what}: not within {} s", PATIENCE.as_secs())));
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::has_ended;

    #[test]
    fn a_process_has_ended_when_its_last_thread_has() {
        let stat = |state: &str, threads: u32| {
            format!("7 (a) Z (b) {state} 1 7 7 0 -1 4194304 1 0 0 0 1 2 0 0 20 0 {threads} 0 99 0 0\n")
        };
        assert!(has_ended(&stat("Z", 1)));
        assert!(!has_ended(&stat("Z", 2)), "another thread still holds the port");
        assert!(!has_ended(&stat("S", 1)));
        assert!(!has_ended("7 (cut"));
    }
}
