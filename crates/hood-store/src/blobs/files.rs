//! What a directory of blobs needs that the object store on it does not give: how much it takes of the
//! disk, and an end for files that a writer left half made when it died.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hood_core::Timestamp;

use super::BlobError;

/// In the names of files that are being written, and never in a blob's.
const UNFINISHED: char = '#';

#[derive(Debug)]
pub(crate) struct Files {
    dir: PathBuf,
}

/// A file beneath the directory.
struct Entry {
    path: PathBuf,
    bytes: u64,
    written_at: Timestamp,
}

impl Files {
    pub(crate) fn prepare(dir: &Path) -> Result<Self, BlobError> {
        const OTHERS: u32 = 0o077;
        let made = || {
            if !dir.is_dir() {
                fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
                if let Some(parent) = fs::canonicalize(dir)?.parent() {
                    fs::File::open(parent)?.sync_all()?;
                }
            }
            if fs::metadata(dir)?.permissions().mode() & OTHERS != 0 {
                fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
            }
            Ok(())
        };
        made().map_err(|source| failed(dir, source))?;
        Ok(Self { dir: dir.to_owned() })
    }

    pub(crate) async fn measure(&self) -> Result<u64, BlobError> {
        let entries = self.walk().await?;
        Ok(entries.iter().map(|entry| entry.bytes).sum())
    }

    /// How many, and their bytes.
    pub(crate) async fn remove_unfinished(&self, older_than: Timestamp) -> Result<(u64, u64), BlobError> {
        let (mut removed, mut bytes) = (0, 0);
        for entry in self.walk().await? {
            let name = entry.path.file_name().unwrap_or_default().to_string_lossy();
            if !name.contains(UNFINISHED) || entry.written_at >= older_than {
                continue;
            }
            match fs::remove_file(&entry.path) {
                Ok(()) => (removed, bytes) = (removed + 1, bytes + entry.bytes),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(failed(&entry.path, error)),
            }
        }
        Ok((removed, bytes))
    }

    async fn walk(&self) -> Result<Vec<Entry>, BlobError> {
        let dir = self.dir.clone();
        let walked = tokio::task::spawn_blocking(move || {
            let mut found = Vec::new();
            walk(&dir, &mut found).map(|()| found)
        });
        let walked = walked.await.unwrap_or_else(|panic| Err(io::Error::other(panic)));
        walked.map_err(|source| failed(&self.dir, source))
    }
}

fn failed(path: &Path, source: io::Error) -> BlobError {
    BlobError::Directory { path: path.to_owned(), source: Arc::new(source) }
}

/// What goes while we look was not there.
fn walk(dir: &Path, found: &mut Vec<Entry>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let metadata = match entry.metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            metadata => metadata?,
        };
        if metadata.is_dir() {
            walk(&entry.path(), found)?;
        } else if metadata.is_file() {
            let since = metadata.modified()?.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            let written_at = Timestamp::from_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX));
            found.push(Entry { path: entry.path(), bytes: metadata.len(), written_at });
        }
    }
    Ok(())
}
