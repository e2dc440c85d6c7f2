//! What a library does with its directory.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::environment::error::EnvironmentError;

pub(in crate::environment) fn lock_file(path: &Path) -> Result<File, EnvironmentError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    options.open(path).map_err(EnvironmentError::io("open", path))
}

/// Two names from one process never meet, nor do those of two that live.
pub(in crate::environment) fn unique() -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let elapsed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    format!("{:x}-{:x}-{}", elapsed.as_nanos(), std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Writes a whole file or nothing of it; what was there before stays until then.
pub(in crate::environment) fn replace(path: &Path, content: &[u8]) -> Result<(), EnvironmentError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let fresh = path.with_file_name(format!(".{name}.{}", unique()));
    let written = File::create_new(&fresh)
        .and_then(|mut file| file.write_all(content))
        .and_then(|()| fs::rename(&fresh, path));
    written.map_err(|error| {
        // It may not even have been made.
        let _ = fs::remove_file(&fresh);
        EnvironmentError::io("write", path)(error)
    })
}

pub(in crate::environment) fn empty(dir: &Path) -> Result<(), EnvironmentError> {
    children(dir)?.iter().try_for_each(|path| remove(path))
}

pub(in crate::environment) fn children(dir: &Path) -> Result<Vec<PathBuf>, EnvironmentError> {
    let entries = fs::read_dir(dir).and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
    entries.map_err(EnvironmentError::io("read the directory", dir))
}

pub(in crate::environment) fn remove(path: &Path) -> Result<(), EnvironmentError> {
    let dir = fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir());
    let removed = if dir { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    removed.map_err(EnvironmentError::io("remove", path))
}

/// Removes what may not be there.
pub(in crate::environment) fn clear(path: &Path) -> Result<(), EnvironmentError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        _ => remove(path),
    }
}
