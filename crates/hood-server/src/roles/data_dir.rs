//! The directory in which one server keeps everything, and the lock that makes it one.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::seal::Seal;

const ROOT: u32 = 0;

const LOCK: &str = "lock";
const TOKEN: &str = "token";
const WEBHOOK_SECRET: &str = "webhook_secret";
const ENDPOINT: &str = "server.json";

#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    #[error("cannot {action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "another fumehood holds the data directory {}{}: stop it, or name another directory with --data-dir",
        path.display(),
        address.map(|address| format!(" and answers at http://{address}")).unwrap_or_default()
    )]
    Held { path: PathBuf, address: Option<SocketAddr> },
}

/// Where the server that holds the lock answers, for commands that find it by its directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    pub address: SocketAddr,
    pub pid: u32,
    /// What it was started with, by key, as it may be shown: what a command is given besides has no
    /// effect there. Empty where the server does not say.
    #[serde(default)]
    pub settings: BTreeMap<String, String>,
    pub seal: Seal,
}

/// A data directory that this process alone uses. Dropping it, and dying, lets it go.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    seal: Seal,
    _lock: File,
}

impl DataDir {
    /// Makes the directory, private to this user, and takes its lock.
    pub fn lock(path: &Path) -> Result<Self, DataDirError> {
        make_private(path)?;
        let at = path.join(LOCK);
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&at)
            .map_err(|source| failed("open", &at, source))?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let address = Endpoint::read(path).map(|endpoint| endpoint.address);
                return Err(DataDirError::Held { path: path.to_owned(), address });
            }
            Err(error) => return Err(failed("lock", &at, error.into())),
        }
        // Left by a predecessor that was killed.
        let _ = fs::remove_file(path.join(ENDPOINT));
        Ok(Self { path: path.to_owned(), seal: Seal::draw(), _lock: lock })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// By which the server that holds this can be told from any other.
    pub const fn seal(&self) -> &Seal {
        &self.seal
    }

    /// The token that is kept for commands of this user, if there is one.
    pub fn token(&self) -> Result<Option<String>, DataDirError> {
        self.secret(TOKEN)
    }

    /// What webhooks are signed with.
    pub fn webhook_secret(&self) -> Result<Option<String>, DataDirError> {
        self.secret(WEBHOOK_SECRET)
    }

    pub fn keep_webhook_secret(&self, secret: &str) -> Result<(), DataDirError> {
        self.replace(WEBHOOK_SECRET, secret.as_bytes())
    }

    fn secret(&self, name: &str) -> Result<Option<String>, DataDirError> {
        let at = self.path.join(name);
        let mut text = String::new();
        let read = |mut file: File| {
            // Whatever somebody made of its mode.
            file.set_permissions(fs::Permissions::from_mode(0o600))?;
            file.read_to_string(&mut text)
        };
        match File::open(&at).and_then(read) {
            Ok(_) => Ok(Some(text.trim().to_owned()).filter(|token| !token.is_empty())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(failed("read", &at, source)),
        }
    }

    pub fn keep_token(&self, token: &str) -> Result<(), DataDirError> {
        self.replace(TOKEN, token.as_bytes())
    }

    /// The same from outside the process that holds the directory, which may be running.
    pub fn keep_token_in(path: &Path, token: &str) -> Result<(), DataDirError> {
        make_private(path)?;
        replace(path, TOKEN, token.as_bytes())
    }

    /// The key that is kept in a directory which another process may hold.
    pub fn kept_token_in(path: &Path) -> Option<String> {
        read_own(path, TOKEN)
    }

    /// Says where this server answers. Withdrawn by [`DataDir::withdraw`], or by the next to lock.
    pub fn announce(
        &self,
        address: SocketAddr,
        settings: BTreeMap<String, String>,
    ) -> Result<(), DataDirError> {
        let endpoint = Endpoint { address, pid: std::process::id(), settings, seal: self.seal.clone() };
        self.replace(ENDPOINT, crate::document::to_json(&endpoint).as_bytes())
    }

    pub fn withdraw(&self) {
        // Already gone is what we want.
        let _ = fs::remove_file(self.path.join(ENDPOINT));
    }

    fn replace(&self, name: &str, content: &[u8]) -> Result<(), DataDirError> {
        replace(&self.path, name, content)
    }
}

impl Endpoint {
    /// What the server of that directory announced; it may have died since, and somebody else may have its
    /// address by now.
    pub fn read(data_dir: &Path) -> Option<Self> {
        serde_json::from_str(&read_own(data_dir, ENDPOINT)?).ok()
    }
}

/// Written aside, made durable, then renamed: a reader sees the old file or the new one.
fn replace(dir: &Path, name: &str, content: &[u8]) -> Result<(), DataDirError> {
    let (aside, at) = (dir.join(format!("{name}.new")), dir.join(name));
    let write = || {
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&aside)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&aside, &at)
    };
    write().map_err(|source| failed("write", &at, source))
}

pub(super) fn make_private(path: &Path) -> Result<(), DataDirError> {
    let make = || {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        match fs::DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {
                check_owners(path)?;
                fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
                // Once more, now that nobody else can add to it.
                check_owners(path)
            }
            other => other,
        }
    };
    make().map_err(|source| failed("use the data directory", path, source))
}

/// What is kept in a directory of this user, from a process that does not hold it.
fn read_own(dir: &Path, name: &str) -> Option<String> {
    check_owners(dir).ok()?;
    fs::read_to_string(dir.join(name)).ok()
}

/// Whoever owns the directory, or laid something into it, could read what is kept there, or lead what is
/// written elsewhere: root's commands are nobody else's to use. Root itself can do all of that anyway.
fn check_owners(dir: &Path) -> io::Result<()> {
    let ours = rustix::process::geteuid().as_raw();
    let check = |path: &Path, uid: u32| {
        if uid == ours || uid == ROOT {
            return Ok(());
        }
        let why = format!("{} belongs to the user {uid}, and this is run by {ours}", path.display());
        Err(io::Error::new(io::ErrorKind::PermissionDenied, why))
    };
    check(dir, fs::symlink_metadata(dir)?.uid())?;
    check(dir, fs::metadata(dir)?.uid())?;
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        match fs::symlink_metadata(&path) {
            Ok(found) => check(&path, found.uid())?,
            // Written aside just now, and renamed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> DataDirError {
    DataDirError::Io { action, path: path.to_owned(), source }
}
