//! What is looked at. Nothing is changed, and nothing waits longer than a moment.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use hood_sandbox::host_report;
use rustix::fs::{Access, access, statvfs};

use super::super::global::Global;
use super::super::units;
use super::{Check, Status};
use crate::config::{Config, Host};
use crate::roles::{Endpoint, declarations};

/// A shim that looks for an interpreter may take a moment, but not for ever.
const PYTHON_TIME: Duration = Duration::from_secs(10);
const PYTHON_POLL: Duration = Duration::from_millis(10);

/// Free space below which images and a few evaluations no longer fit.
const DISK_BYTES_MIN: u64 = 1024 * 1024 * 1024;

/// The oldest Python whose standard library `minimal` copies.
const PYTHON: &str = "Python 3 (Debian: apt-get install python3), on this user's PATH";

pub(super) fn all(global: &Global) -> Vec<Check> {
    let (config, mut checks) = match configuration(global) {
        Ok((config, check)) => (Some(config), vec![check]),
        Err(check) => (None, vec![check]),
    };
    let places = config.as_ref().map_or(1, |config| config.worker.places);
    checks.extend(host_report(places).findings.into_iter().map(|finding| Check {
        name: finding.name.to_owned(),
        status: if finding.good { Status::Ok } else { Status::Lacking },
        detail: finding.detail,
        fix: finding.fix,
    }));
    checks.push(python());
    if let Some(config) = &config {
        checks.extend([data_dir(config), disk(config), declarations(config), server(config)]);
    }
    checks.push(runsc());
    checks
}

fn check(name: &str, status: Status, detail: impl Into<String>, fix: impl Into<String>) -> Check {
    Check { name: name.to_owned(), status, detail: detail.into(), fix: fix.into() }
}

fn configuration(global: &Global) -> Result<(Config, Check), Check> {
    let lacking = |detail: String| {
        check("configuration", Status::Lacking, detail, "`fumehood config check` names every mistake")
    };
    let sources = global.sources().map_err(|failure| lacking(failure.to_string()))?;
    let loaded = Config::load(&sources, &Host::detect()).map_err(|error| lacking(error.to_string()))?;
    let file = loaded.file.map_or_else(|| "defaults".to_owned(), |file| file.display().to_string());
    Ok((loaded.config, check("configuration", Status::Ok, file, "")))
}

fn python() -> Check {
    match python_version() {
        Ok(version) if version.starts_with('3') => {
            check("python", Status::Ok, format!("Python {version}"), "")
        }
        Ok(version) => {
            check("python", Status::Lacking, format!("`python3` says that it is {version}"), PYTHON)
        }
        Err(why) => check("python", Status::Lacking, why, PYTHON),
    }
}

/// As the environment is built: nothing of the user's own is loaded.
fn python_version() -> Result<String, String> {
    let mut child = Command::new("python3")
        .args(["-I", "-S", "-c", "import sys; print('.'.join(map(str, sys.version_info[:3])))"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("`python3` cannot be run: {error}"))?;
    let deadline = Instant::now() + PYTHON_TIME;
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => break,
            Ok(Some(status)) => return Err(format!("`python3` failed: {status}")),
            Ok(None) if Instant::now() < deadline => std::thread::sleep(PYTHON_POLL),
            Ok(None) | Err(_) => {
                // Gone already, or past helping.
                let _ = child.kill();
                let _ = child.wait();
                return Err("`python3` does not answer".to_owned());
            }
        }
    }
    let mut version = String::new();
    if let Some(mut stdout) = child.stdout.take() {
        stdout.read_to_string(&mut version).map_err(|error| format!("`python3` says nothing: {error}"))?;
    }
    Ok(version.trim().to_owned())
}

/// The directory, or the nearest one above it that is there.
fn existing(path: &Path) -> Option<&Path> {
    path.ancestors().find(|path| path.exists())
}

fn data_dir(config: &Config) -> Check {
    let path = &config.data_dir;
    let (shown, fix) = (path.display(), "name a directory that this user may write with --data-dir");
    let Some(nearest) = existing(path) else {
        return check("data_dir", Status::Lacking, format!("{shown} has no parent"), fix);
    };
    let writable = nearest.is_dir() && access(nearest, Access::WRITE_OK | Access::EXEC_OK).is_ok();
    match writable {
        true if nearest == path => check("data_dir", Status::Ok, format!("{shown} can be written"), ""),
        true => check("data_dir", Status::Ok, format!("{shown} can be made"), ""),
        false => check("data_dir", Status::Lacking, format!("{} cannot be written", nearest.display()), fix),
    }
}

fn disk(config: &Config) -> Check {
    let free = existing(&config.data_dir)
        .and_then(|path| statvfs(path).ok())
        .map(|stat| stat.f_bavail.saturating_mul(stat.f_frsize));
    let Some(free) = free else {
        return check("disk", Status::Lacking, "the file system does not say what is free", "see `df`");
    };
    let shown = units::show_bytes(free);
    let allowed = config.store.storage_bytes;
    if free < DISK_BYTES_MIN {
        let fix = "make room, or put the data directory elsewhere with --data-dir";
        check("disk", Status::Lacking, format!("{shown} free"), fix)
    } else if free < allowed {
        let detail = format!("{shown} free, less than store.storage_bytes ({})", units::show_bytes(allowed));
        check("disk", Status::Optional, detail, format!("set store.storage_bytes below {free}"))
    } else {
        check("disk", Status::Ok, format!("{shown} free"), "")
    }
}

fn declarations(config: &Config) -> Check {
    let problems = declarations::problems(config);
    let dir = config.environments.dir.display();
    let Some(first) = problems.first() else {
        return check("declarations", Status::Ok, format!("nothing is wrong in {dir}"), "");
    };
    let detail: Vec<String> =
        problems.iter().map(|problem| problem.to_string().replace('\n', "; ")).collect();
    check("declarations", Status::Lacking, detail.join("; "), first.next_step())
}

fn server(config: &Config) -> Check {
    let detail = match Endpoint::read(&config.data_dir) {
        Some(endpoint) => format!("process {} announced http://{}", endpoint.pid, endpoint.address),
        None => "none runs over this data directory; commands start their own".to_owned(),
    };
    check("server", Status::Ok, detail, "")
}

/// The gVisor tier is not there yet: having it is of no use so far.
fn runsc() -> Check {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let found: Option<PathBuf> =
        std::env::split_paths(&paths).map(|dir| dir.join("runsc")).find(|path| path.is_file());
    match found {
        Some(path) => check("runsc", Status::Ok, path.display().to_string(), ""),
        None => check("runsc", Status::Optional, "not found; only the gVisor tier will need it", ""),
    }
}
