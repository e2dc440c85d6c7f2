//! What goes, and when it may.

use std::collections::HashSet;
use std::path::Path;

use rustix::fs::FlockOperation;

use super::files::{children, clear, empty, remove};
use super::{Library, Record};
use crate::environment::declaration::Declaration;
use crate::environment::error::EnvironmentError;
use crate::environment::imported::Imported;

/// What became of an environment's image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removed {
    /// It is gone.
    Image { bytes: u64 },
    /// Another environment has the same, or somebody may run from it: it goes when nobody does.
    NameOnly,
    /// There was none.
    Nothing,
}

/// What a clear-up removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    pub images: u64,
    /// Packages that no environment is locked to, or that were not whole.
    pub downloads: u64,
    pub bytes: u64,
}

impl Library {
    /// Forgets an environment's image, and an imported environment altogether. A declared one stays
    /// declared, and is built anew when it is next needed.
    pub fn remove(&self, name: &str) -> Result<Removed, EnvironmentError> {
        self.declaration(name)?;
        let _lock = self.lock(name, &|_| ())?;
        let record = Record::read(&self.record_path(name));
        clear(&Imported::path(&self.dir, name))?;
        clear(&self.record_path(name))?;
        self.known().remove(name);
        let Some(record) = record else { return Ok(Removed::Nothing) };
        let shared = wanted(&self.dir, &self.declarations)?.contains(&record.digest);
        if shared {
            return Ok(Removed::NameOnly);
        }
        let dir = self.image_dir(&record);
        let removed = self.alone(|| clear(&dir))?;
        Ok(if removed.is_some() { Removed::Image { bytes: record.size_bytes } } else { Removed::NameOnly })
    }

    /// Removes every image that no environment has, downloads that none is locked to, and what was
    /// left half made; what opening the library removed counts too. `None`: somebody has it open and may run from them.
    pub fn collect(self) -> Result<Option<Collected>, EnvironmentError> {
        let now = self.alone(|| {
            let mut now = clear_up(&self.dir, &self.declarations)?;
            clear_downloads(&self.dir, &self.declarations, &mut now)?;
            Ok(now)
        })?;
        Ok(now.map(|now| Collected {
            images: now.images + self.cleared.images,
            downloads: now.downloads + self.cleared.downloads,
            bytes: now.bytes + self.cleared.bytes,
        }))
    }

    /// Does what only the one process may do that has the library to itself.
    fn alone<T>(
        &self,
        work: impl FnOnce() -> Result<T, EnvironmentError>,
    ) -> Result<Option<T>, EnvironmentError> {
        let alone = rustix::fs::flock(&self.in_use, FlockOperation::NonBlockingLockExclusive).is_ok();
        let done = if alone { work().map(Some) } else { Ok(None) };
        let path = self.dir.join("in-use.lock");
        rustix::fs::flock(&self.in_use, FlockOperation::LockShared)
            .map_err(|error| EnvironmentError::io("lock", path)(error.into()))?;
        done
    }
}

/// Called with the library to ourselves: nobody builds, and no place of ours is alive.
pub(super) fn clear_up(dir: &Path, declarations: &[Declaration]) -> Result<Collected, EnvironmentError> {
    for part in ["building", "staging", "retired"] {
        empty(&dir.join(part))?;
    }
    let wanted = wanted(dir, declarations)?;
    let mut collected = Collected::default();
    for path in children(&dir.join("images"))? {
        let name = path.file_name().unwrap_or_default();
        if !wanted.iter().any(|digest| name == digest.as_str()) {
            collected.images += 1;
            collected.bytes += size(&path);
            remove(&path)?;
        }
    }
    Ok(collected)
}

/// Not done by opening a library: what one version has no lock for, another may.
fn clear_downloads(
    dir: &Path,
    declarations: &[Declaration],
    collected: &mut Collected,
) -> Result<(), EnvironmentError> {
    let locks = declarations.iter().filter_map(|declaration| declaration.lock.as_deref());
    let wanted: HashSet<&str> = locks
        .flat_map(|lock| {
            let debs = lock.debs.iter().map(|deb| deb.sha256.as_str());
            debs.chain(lock.wheels.iter().map(|wheel| wheel.sha256.as_str()))
        })
        .collect();
    for path in children(&dir.join("downloads"))? {
        if path.file_name().and_then(|name| name.to_str()).is_some_and(|name| wanted.contains(name)) {
            continue;
        }
        collected.downloads += 1;
        collected.bytes += std::fs::metadata(&path).map_or(0, |meta| meta.len());
        remove(&path)?;
    }
    let is_download = |path: &&std::path::PathBuf| {
        path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"download-"))
    };
    children(&dir.join("locks"))?.iter().filter(is_download).try_for_each(|path| remove(path))
}

/// Digests of the images that environments have.
fn wanted(dir: &Path, declarations: &[Declaration]) -> Result<Vec<String>, EnvironmentError> {
    let imported = Imported::all(dir);
    let names = declarations.iter().chain(&imported).map(|declaration| &declaration.name);
    let records = names.filter_map(|name| Record::read(&dir.join("names").join(format!("{name}.json"))));
    Ok(records.map(|record| record.digest).collect())
}

/// As the manifest has it; 0 where there is none to ask.
fn size(image: &Path) -> u64 {
    let manifest = std::fs::read_to_string(image.join("manifest")).unwrap_or_default();
    let sizes =
        manifest.lines().filter_map(|line| line.strip_prefix("f\t")?.split('\t').nth(1)?.parse().ok());
    sizes.fold(0, u64::saturating_add)
}
