//! Trees from elsewhere on their way to become images.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use super::files::{children, clear, lock_file, remove, unique};
use super::{Image, Known, Library};
use crate::environment::declaration::is_name;
use crate::environment::error::EnvironmentError;
use crate::environment::image;
use crate::environment::imported::Imported;
use crate::environment::progress::{Meter, Progress, Stage};
use crate::environment::record::{Built, Origin, Record};

/// A directory of a library's own in which a tree is put together. What is not handed over with
/// [`Library::add_imported`] goes when this is dropped, or with the next import after a kill.
#[derive(Debug)]
pub struct Staging {
    dir: PathBuf,
    lock_path: PathBuf,
    _lock: File,
}

impl Staging {
    /// Where the tree is to be written: an empty directory.
    pub fn root(&self) -> PathBuf {
        self.dir.join("root")
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // What cannot be removed now is found by the next import.
        let _ = clear(&self.dir).and_then(|()| clear(&self.lock_path));
    }
}

impl Library {
    /// An empty directory to put a tree together in.
    pub fn staging(&self) -> Result<Staging, EnvironmentError> {
        let parent = self.dir.join("staging");
        sweep(&parent)?;
        let name = unique();
        let (dir, lock_path) = (parent.join(&name), parent.join(format!("{name}.lock")));
        let lock = lock_file(&lock_path)?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|error| EnvironmentError::io("lock", &lock_path)(error.into()))?;
        let staging = Staging { dir, lock_path, _lock: lock };
        fs::create_dir_all(staging.root()).map_err(EnvironmentError::io("make", staging.root()))?;
        Ok(staging)
    }

    /// Whether an import may have that name: worth to know before there is a tree.
    pub fn may_import(&self, name: &str) -> Result<(), EnvironmentError> {
        if !is_name(name) {
            return Err(EnvironmentError::Name { name: name.to_owned() });
        }
        if self.declarations.iter().any(|declaration| declaration.name == name) {
            return Err(EnvironmentError::Declared { name: name.to_owned() });
        }
        Ok(())
    }

    /// Makes the tree an environment of that name, in place of an earlier import of the name. It
    /// becomes an image like any other: of one owner, readable by all, writable by none, without
    /// devices, set-id bits or extended attributes, within the library's bounds.
    pub fn add_imported(
        &self,
        staging: Staging,
        name: &str,
        imported: &Imported,
        progress: &dyn Fn(Progress),
    ) -> Result<Image, EnvironmentError> {
        self.may_import(name)?;
        let _lock = self.lock(name, progress)?;
        let owner = self.owner(&staging.dir)?;
        let chown = rustix::process::geteuid().is_root().then_some(owner);
        let meter = Meter::start(Progress::at(Stage::Checking, 0, 0), progress);
        let manifest = image::adopt(&staging.root(), chown, self.options.imported, &meter)
            .map_err(|what| EnvironmentError::Tree { what })?;
        let path = staging.dir.join("manifest");
        fs::write(&path, manifest.text()).map_err(EnvironmentError::io("write", &path))?;
        let built = Built {
            digest: manifest.digest().to_hex().to_string(),
            files: manifest.files(),
            size_bytes: manifest.bytes(),
            // Whatever it runs is its own, and of no version that we know.
            interpreter: String::new(),
            owner,
            origin: Origin::default(),
        };
        let record = Record::new(&imported.declaration(name), built);
        self.publish(&staging.dir, &record)?;
        // Before the name is known, so that whoever knows the name finds the image.
        self.remember(name, &record)?;
        imported.write(&self.dir, name)?;
        let image = self.image(name, &record);
        self.known().insert(name.to_owned(), Known::Checked(record));
        Ok(image)
    }
}

/// Removes what was left by those who hold no lock any more.
fn sweep(parent: &Path) -> Result<(), EnvironmentError> {
    for path in children(parent)?.iter().filter(|path| path.extension().is_some_and(|e| e == "lock")) {
        let lock = lock_file(path)?;
        if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            clear(&path.with_extension(""))?;
            remove(path)?;
        }
    }
    Ok(())
}
