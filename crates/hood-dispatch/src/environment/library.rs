//! The images of this machine: built on first use, checked before they are used again.
//!
//! ```text
//! <dir>/images/<digest>/root        an image
//! <dir>/images/<digest>/manifest    what its digest vouches for
//! <dir>/names/<name>.json           which image an environment has, and what it was made from
//! <dir>/imported/<name>.json        what is known of an image that came from elsewhere
//! <dir>/downloads/<sha256>          packages, as they came
//! <dir>/building/<name>             half made; empty when nobody builds
//! <dir>/staging/                    trees that are being imported, each with its owner's lock
//! <dir>/retired/                    replaced while somebody may use it
//! <dir>/locks/<name>                held by whoever builds or checks this one
//! <dir>/in-use.lock                 held by every open library
//! ```

pub(super) mod files;
mod locked;
mod staging;
mod upkeep;

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use hood_core::plan::SystemCalls;
use rustix::fs::FlockOperation;

use super::compile::Workshop;
use super::contents::{Bounds, Contents};
use super::declaration::{Base, Declaration};
use super::error::EnvironmentError;
use super::fetch::Sources;
use super::host;
use super::image::{self, Owner};
use super::imported::Imported;
use super::progress::{Meter, Progress, Stage};
use super::record::{Built, Origin, Record, Witness};
use files::{clear, lock_file, remove, unique};

pub use staging::Staging;
pub use upkeep::{Collected, Removed};

/// The host id that images belong to where we are root: just below the ids that places get, so that
/// no place maps it, and nobody's on the host.
pub const IMAGE_OWNER: u32 = 1_899_999_999;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Owner of what root builds, user and group. An ordinary user's images are the user's own.
    pub owner: u32,
    pub bounds: Bounds,
    pub sources: Sources,
    /// Of imported images.
    pub imported: Bounds,
    /// How long [`Library::status`] tells of a build that failed. Who decides by it is then let through to
    /// the next try, which nobody would make otherwise.
    pub failure_told: Duration,
}

/// Long enough to be read by whoever looks, short enough for a host that was mended to be of use soon.
const FAILURE_TOLD: Duration = Duration::from_secs(30);

impl Default for Options {
    fn default() -> Self {
        Self {
            owner: IMAGE_OWNER,
            bounds: Bounds::DEFAULT,
            imported: Bounds::IMPORTED,
            sources: Sources::default(),
            failure_told: FAILURE_TOLD,
        }
    }
}

/// A root image that is ready to be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// The environment's name.
    pub name: String,
    /// `blake3:` and 64 hexadecimal digits.
    pub digest: String,
    /// The directory to use as the lowest layer of a root; nothing may be written there.
    pub root: PathBuf,
    pub size_bytes: u64,
    pub files: u64,
    /// Version of the interpreter: `3.11.2`.
    pub interpreter: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    NotBuilt,
    Building(Progress),
    /// Built from what this host has now. Its content is checked before its first use.
    Ready(Image),
    /// `lasting` where trying again gives the same: somebody must mend the declaration first.
    Failed {
        reason: String,
        lasting: bool,
    },
}

/// Environments with their images, in one directory. Several processes may share it.
#[derive(Debug)]
pub struct Library {
    dir: PathBuf,
    declarations: Vec<Declaration>,
    options: Options,
    known: Mutex<HashMap<String, Known>>,
    /// Of each environment, held by the one thread of this process that builds or checks it.
    turns: Mutex<HashMap<String, Arc<Mutex<()>>>>,
    /// Shared as long as this lives: who gets it alone may clear up.
    in_use: File,
    /// What opening it removed.
    cleared: Collected,
    /// Runs what a build must not run itself.
    workshop: OnceLock<Arc<dyn Workshop>>,
}

/// What this process knows of one environment.
#[derive(Debug)]
enum Known {
    Building(Progress),
    Checked(Record),
    Failed { reason: String, lasting: bool, at: Instant },
}

impl Library {
    /// Opens or makes the directory, and clears up what was left half made or is used no more, if
    /// nobody else has it open.
    pub fn open(dir: &Path, declarations: Vec<Declaration>) -> Result<Self, EnvironmentError> {
        Self::open_with(dir, declarations, Options::default())
    }

    pub fn open_with(
        dir: &Path,
        declarations: Vec<Declaration>,
        options: Options,
    ) -> Result<Self, EnvironmentError> {
        for part in ["images", "names", "imported", "downloads", "building", "staging", "retired", "locks"] {
            let path = dir.join(part);
            fs::create_dir_all(&path).map_err(EnvironmentError::io("make", &path))?;
        }
        let mut cleared = Collected::default();
        let in_use = lock_file(&dir.join("in-use.lock"))?;
        let path = dir.join("in-use.lock");
        if rustix::fs::flock(&in_use, FlockOperation::NonBlockingLockExclusive).is_ok() {
            cleared = upkeep::clear_up(dir, &declarations)?;
        }
        rustix::fs::flock(&in_use, FlockOperation::LockShared)
            .map_err(|error| EnvironmentError::io("lock", path)(error.into()))?;
        let known = Mutex::new(HashMap::new());
        Ok(Self {
            dir: dir.to_owned(),
            declarations,
            options,
            known,
            turns: Mutex::default(),
            in_use,
            cleared,
            workshop: OnceLock::new(),
        })
    }

    /// Every environment: those that files declare, and those that were imported, which may have
    /// become more or fewer since the last look.
    pub fn declarations(&self) -> Vec<Declaration> {
        let mut all = self.declarations.clone();
        let declared = |name: &str| self.declarations.iter().any(|declaration| declaration.name == name);
        all.extend(Imported::all(&self.dir).into_iter().filter(|found| !declared(&found.name)));
        all
    }

    /// What an imported image says of itself; `None` for any other environment.
    pub fn imported(&self, name: &str) -> Option<Imported> {
        Imported::read(&self.dir, name)
    }

    /// Gives builds a place to run an image's own interpreter in. The first one stays.
    pub fn set_workshop(&self, workshop: Arc<dyn Workshop>) {
        // A library that two dispatchers share has one from either, and they are alike.
        let _ = self.workshop.set(workshop);
    }

    /// Whether [`Library::ensure`] has the image at hand, without building or reading it.
    pub fn is_ready(&self, name: &str) -> bool {
        self.declaration(name).is_ok_and(|declaration| self.checked(&declaration).is_some())
    }

    /// Which system calls an environment's programs may make. The least, where nobody knows it.
    pub fn system_calls(&self, name: &str) -> SystemCalls {
        self.declaration(name).map_or(SystemCalls::Least, |declaration| declaration.system_calls)
    }

    /// What is known without work. An environment that nobody declared is not built.
    pub fn status(&self, name: &str) -> Status {
        let Ok(declaration) = self.declaration(name) else { return Status::NotBuilt };
        if let Some(refusal) = declaration.refusal() {
            return Status::Failed { reason: refusal.reason(), lasting: true };
        }
        match self.known().get(name) {
            Some(Known::Building(progress)) => return Status::Building(*progress),
            Some(Known::Failed { reason, lasting, at }) if at.elapsed() < self.options.failure_told => {
                return Status::Failed { reason: reason.clone(), lasting: *lasting };
            }
            Some(Known::Checked(record)) => return Status::Ready(self.image(name, record)),
            Some(Known::Failed { .. }) | None => {}
        }
        match Record::read(&self.record_path(name)) {
            Some(record) if record.is_current(&declaration) && self.image_dir(&record).is_dir() => {
                Status::Ready(self.image(name, &record))
            }
            _ => Status::NotBuilt,
        }
    }

    /// The image of an environment: at once when it is at hand, else checked or built first. Blocks;
    /// of two that need it built, in this process or another, one builds and the other waits.
    ///
    /// A build reads this host's Python; when that has changed since, it is built anew. One whose
    /// content is not what it was is put aside and built anew, too.
    pub fn ensure(&self, name: &str, progress: &dyn Fn(Progress)) -> Result<Image, EnvironmentError> {
        let declaration = self.declaration(name)?;
        if let Some(refusal) = declaration.refusal() {
            return Err(refusal);
        }
        if let Some(image) = self.checked(&declaration) {
            return Ok(image);
        }
        let turn = self.turn(name);
        let _turn = match turn.try_lock() {
            Ok(turn) => turn,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => {
                progress(Progress::at(Stage::Waiting, 0, 0));
                turn.lock().unwrap_or_else(PoisonError::into_inner)
            }
        };
        if let Some(image) = self.checked(&declaration) {
            return Ok(image);
        }
        let tell = |step: Progress| {
            self.known().insert(name.to_owned(), Known::Building(step));
            progress(step);
        };
        let outcome = self.obtain(&declaration, &tell);
        let (known, outcome) = match outcome {
            Ok(record) => {
                let image = self.image(name, &record);
                (Known::Checked(record), Ok(image))
            }
            Err(error) => {
                let (reason, lasting) = (error.reason(), error.lasts());
                (Known::Failed { reason, lasting, at: Instant::now() }, Err(error))
            }
        };
        self.known().insert(name.to_owned(), known);
        outcome
    }

    /// Reads the whole image again and compares it with its digest: page caches and disks can be
    /// written to behind the file system's back. Where it differs, nobody gets it from
    /// [`Library::ensure`] any more, which builds another.
    pub fn verify(&self, name: &str) -> Result<Image, EnvironmentError> {
        let declaration = self.declaration(name)?;
        let record = match self.known().get(name) {
            Some(Known::Checked(record)) => Some(record.clone()),
            _ => None,
        };
        let Some(record) = record else { return self.ensure(name, &|_| ()) };
        match self.check(&record, &|_| ()) {
            Ok(()) => Ok(self.image(&declaration.name, &record)),
            Err(error) => {
                self.known().remove(name);
                Err(error)
            }
        }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turn(&self, name: &str) -> Arc<Mutex<()>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(turns.entry(name.to_owned()).or_default())
    }

    fn declaration(&self, name: &str) -> Result<Declaration, EnvironmentError> {
        let declared = self.declarations.iter().find(|declaration| declaration.name == name).cloned();
        let imported = || Imported::read(&self.dir, name).map(|imported| imported.declaration(name));
        declared.or_else(imported).ok_or_else(|| {
            let known = self.declarations().into_iter().map(|declaration| declaration.name);
            EnvironmentError::Unknown { name: name.to_owned(), known: known.collect() }
        })
    }

    /// The image, if this process has checked it and the host has not changed since.
    fn checked(&self, declaration: &Declaration) -> Option<Image> {
        let known = self.known();
        let Some(Known::Checked(record)) = known.get(&declaration.name) else { return None };
        let record = record.clone();
        drop(known);
        // Its record goes when it is removed, by whichever process.
        let kept = record.is_current(declaration) && self.record_path(&declaration.name).exists();
        kept.then(|| self.image(&declaration.name, &record))
    }

    fn image(&self, name: &str, record: &Record) -> Image {
        Image {
            name: name.to_owned(),
            digest: format!("blake3:{}", record.digest),
            root: self.image_dir(record).join("root"),
            size_bytes: record.size_bytes,
            files: record.files,
            interpreter: record.interpreter.clone(),
        }
    }

    fn image_dir(&self, record: &Record) -> PathBuf {
        self.dir.join("images").join(&record.digest)
    }

    fn record_path(&self, name: &str) -> PathBuf {
        self.dir.join("names").join(format!("{name}.json"))
    }

    fn obtain(&self, declaration: &Declaration, tell: &dyn Fn(Progress)) -> Result<Record, EnvironmentError> {
        let _lock = self.lock(&declaration.name, tell)?;
        let record = Record::read(&self.record_path(&declaration.name));
        if let Some(record) = record.filter(|record| record.is_current(declaration)) {
            match self.check(&record, tell) {
                Ok(()) => return Ok(record),
                Err(error) => {
                    let reason = error.reason();
                    tracing::warn!(environment = %declaration.name, reason = %reason, "an image is built anew");
                }
            }
        }
        match declaration.base {
            Base::HostPython => self.build_from_host(declaration, tell),
            Base::Locked => self.build_from_packages(declaration, tell),
            Base::Imported => Err(EnvironmentError::ImportAgain { name: declaration.name.clone() }),
        }
    }

    /// Waits for the turn among processes, which ends with whoever holds it, however that ends.
    fn lock(&self, name: &str, tell: &dyn Fn(Progress)) -> Result<File, EnvironmentError> {
        let path = self.dir.join("locks").join(name);
        let lock = lock_file(&path)?;
        if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            tell(Progress::at(Stage::Waiting, 0, 0));
            rustix::fs::flock(&lock, FlockOperation::LockExclusive)
                .map_err(|error| EnvironmentError::io("lock", &path)(error.into()))?;
        }
        Ok(lock)
    }

    fn check(&self, record: &Record, tell: &dyn Fn(Progress)) -> Result<(), EnvironmentError> {
        let dir = self.image_dir(record);
        let corrupt = |what| EnvironmentError::Corrupt { digest: format!("blake3:{}", record.digest), what };
        let meter = Meter::start(Progress::at(Stage::Checking, record.files, record.size_bytes), tell);
        let found = image::read(&dir.join("root"), record.owner(), &meter).map_err(corrupt)?;
        if found.digest().to_hex().as_str() == record.digest {
            return Ok(());
        }
        let written = fs::read_to_string(dir.join("manifest")).unwrap_or_default();
        Err(corrupt(image::difference(&written, &found)))
    }

    /// Builds, holding the lock.
    fn build_from_host(
        &self,
        declaration: &Declaration,
        tell: &dyn Fn(Progress),
    ) -> Result<Record, EnvironmentError> {
        tell(Progress::at(Stage::Looking, 0, 0));
        let found = host::find(&declaration.interpreter)?;
        let python = host::ask(&found)?;
        let contents = Contents::plan(&found, &python, self.options.bounds)?;
        let witnesses = take_witnesses(&contents)?;
        let work = self.dir.join("building").join(&declaration.name);
        // Whoever built it before and holds no lock now was killed.
        clear(&work)?;
        fs::create_dir(&work).map_err(EnvironmentError::io("make", &work))?;
        let owner = self.owner(&work)?;
        let files = contents.files();
        let meter = Meter::start(Progress::at(Stage::Copying, files, contents.bytes), tell);
        let chown = rustix::process::geteuid().is_root().then_some(owner);
        let manifest = image::write(&work.join("root"), &contents, chown, &meter)?;
        let manifest_path = work.join("manifest");
        fs::write(&manifest_path, manifest.text()).map_err(EnvironmentError::io("write", &manifest_path))?;
        if let Some(changed) = witnesses.iter().find(|witness| !witness.still_there()) {
            return Err(EnvironmentError::HostChanged { path: changed.path().to_owned() });
        }
        let built = Built {
            digest: manifest.digest().to_hex().to_string(),
            files: manifest.files(),
            size_bytes: manifest.bytes(),
            interpreter: python.version,
            owner,
            origin: Origin { found, witnesses },
        };
        let record = Record::new(declaration, built);
        self.publish(&work, &record)?;
        self.remember(&declaration.name, &record)?;
        Ok(record)
    }

    /// Moves a finished image to its place. Nothing is forced to disk: what a power cut tears is
    /// found by the check before the first use.
    fn publish(&self, work: &Path, record: &Record) -> Result<(), EnvironmentError> {
        let to = self.image_dir(record);
        if fs::symlink_metadata(&to).is_ok() {
            if self.check(record, &|_| ()).is_ok() {
                // Another name has it, or the host's files were touched and not changed.
                return remove(work);
            }
            // Places may still run from what is no longer the image, so it stays until nobody has
            // the library open.
            let retired = self.dir.join("retired").join(format!("{}-{}", record.digest, unique()));
            fs::rename(&to, &retired).map_err(EnvironmentError::io("put aside", &to))?;
        }
        match fs::rename(work, &to) {
            // Under another name somebody has built the same in this moment.
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                self.check(record, &|_| ())?;
                remove(work)
            }
            moved => moved.map_err(EnvironmentError::io("move", work)),
        }
    }

    fn remember(&self, name: &str, record: &Record) -> Result<(), EnvironmentError> {
        let path = self.record_path(name);
        let step = "write";
        let text = serde_json::to_vec_pretty(record)
            .map_err(|error| EnvironmentError::io(step, &path)(io::Error::other(error)))?;
        files::replace(&path, &text)
    }

    /// Who files will belong to; tried on the directory that holds them, because inside a user
    /// namespace root may not have the id. Its own is then as good: no place maps that of root.
    fn owner(&self, work: &Path) -> Result<Owner, EnvironmentError> {
        let own =
            Owner { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() };
        if own.uid != 0 {
            return Ok(own);
        }
        let wanted = self.options.owner;
        match std::os::unix::fs::chown(work, Some(wanted), Some(wanted)) {
            Ok(()) => Ok(Owner { uid: wanted, gid: wanted }),
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(own),
            Err(error) => Err(EnvironmentError::io("give away", work)(error)),
        }
    }
}

fn take_witnesses(contents: &Contents) -> Result<Vec<Witness>, EnvironmentError> {
    let witnesses = contents.witnesses.iter();
    witnesses.map(|path| Witness::take(path).map_err(EnvironmentError::io("look at", path))).collect()
}
