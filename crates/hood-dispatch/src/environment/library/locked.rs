//! Images from locked packages.

use std::fs::{self, File};
use std::path::Path;

use super::files::clear;
use super::{Library, Owner};
use crate::environment::compile;
use crate::environment::contents::{Bounds, DIRS, LINKS, TEXTS};
use crate::environment::declaration::Declaration;
use crate::environment::error::EnvironmentError;
use crate::environment::fetch::Downloads;
use crate::environment::image::Manifest;
use crate::environment::lock::Lock;
use crate::environment::progress::{Meter, Progress, Stage};
use crate::environment::record::{Built, Origin, Record};
use crate::environment::resolve;
use crate::environment::tree::Tree;
use crate::environment::unpack::{Kind, unpack};

/// Debian's name for this machine.
#[cfg(target_arch = "x86_64")]
const ARCH: &str = "amd64";
#[cfg(target_arch = "aarch64")]
const ARCH: &str = "arm64";

/// A package that is here, with what it is called and where it goes.
struct Ready {
    name: String,
    wheel: bool,
    archive: File,
}

impl Library {
    /// Builds, holding the lock.
    pub(super) fn build_from_packages(
        &self,
        declaration: &Declaration,
        tell: &dyn Fn(Progress),
    ) -> Result<Record, EnvironmentError> {
        let name = declaration.name.clone();
        let lock = declaration.own_lock()?.clone();
        if lock.arch != ARCH {
            return Err(EnvironmentError::OtherMachine { name, arch: lock.arch.clone(), here: ARCH });
        }
        let packages = self.download(declaration, &lock, tell)?;
        let work = self.dir.join("building").join(&declaration.name);
        // Whoever built it before and holds no lock now was killed.
        clear(&work)?;
        fs::create_dir(&work).map_err(EnvironmentError::io("make", &work))?;
        let owner = self.owner(&work)?;
        let manifest = self.put_together(declaration, packages, (&work, owner), tell)?;
        let path = work.join("manifest");
        fs::write(&path, manifest.text()).map_err(EnvironmentError::io("write", &path))?;
        let built = Built {
            digest: manifest.digest().to_hex().to_string(),
            files: manifest.files(),
            size_bytes: manifest.bytes(),
            interpreter: version(&lock, &declaration.interpreter),
            owner,
            origin: Origin::default(),
        };
        let record = Record::new(declaration, built);
        self.publish(&work, &record)?;
        self.remember(&declaration.name, &record)?;
        Ok(record)
    }

    fn download(
        &self,
        declaration: &Declaration,
        lock: &Lock,
        tell: &dyn Fn(Progress),
    ) -> Result<Vec<Ready>, EnvironmentError> {
        let (dir, locks) = (self.dir.join("downloads"), self.dir.join("locks"));
        let downloads = Downloads { dir: &dir, locks: &locks, sources: &self.options.sources };
        let count = (lock.debs.len() + lock.wheels.len()) as u64;
        // Sizes of wheels are known when they are here.
        let bytes = if lock.wheels.is_empty() { lock.debs.iter().map(|deb| deb.size).sum() } else { 0 };
        let meter = Meter::start(Progress::at(Stage::Downloading, count, bytes), tell);
        let repositories = if lock.debs.is_empty() { Vec::new() } else { downloads.repositories()? };
        let mut ready = Vec::new();
        for deb in &lock.debs {
            let archive = downloads.deb(deb, &repositories)?;
            meter.file(deb.size);
            ready.push(Ready { name: format!("{} {}", deb.name, deb.version), wheel: false, archive });
        }
        let python = declaration.packages.python_version.as_deref().unwrap_or_default();
        for wheel in &lock.wheels {
            let archive = downloads.wheel(wheel, python)?;
            meter.file(archive.metadata().map_or(0, |meta| meta.len()));
            ready.push(Ready { name: format!("{} {}", wheel.name, wheel.version), wheel: true, archive });
        }
        Ok(ready)
    }

    fn put_together(
        &self,
        declaration: &Declaration,
        packages: Vec<Ready>,
        (work, owner): (&Path, Owner),
        tell: &dyn Fn(Progress),
    ) -> Result<Manifest, EnvironmentError> {
        // How much is in the archives is not known before they are read.
        let meter = Meter::start(Progress::at(Stage::Unpacking, 0, 0), tell);
        let chown = rustix::process::geteuid().is_root().then_some(owner);
        let mut tree = Tree::new(&work.join("root"), chown, Bounds::PACKAGES, &meter)?;
        for dir in DIRS {
            tree.dir(dir.as_bytes())?;
        }
        for (path, target) in LINKS {
            tree.link(path.as_bytes(), target.as_bytes())?;
        }
        let python = declaration.packages.python_version.as_deref().unwrap_or_default();
        // Where Debian's Python looks for what is not Debian's.
        let site = format!("usr/local/lib/python{python}/dist-packages");
        for Ready { name, wheel, archive } in packages {
            let kind = if wheel { Kind::Wheel(&site) } else { Kind::Deb };
            unpack(&name, kind, archive, &mut tree)?;
        }
        for (path, target) in &declaration.packages.links {
            tree.link(path.as_bytes(), target.as_bytes())?;
        }
        for (path, text) in TEXTS.iter().filter(|(path, _)| !tree.contains(path)).collect::<Vec<_>>() {
            tree.file(path.as_bytes(), false, text.len() as u64, &mut text.as_bytes())?;
        }
        let interpreter = format!("usr/bin/python{python}");
        if !python.is_empty() && !tree.contains(&interpreter) {
            let found = resolve::pythons(&declaration.own_lock()?.debs);
            return Err(EnvironmentError::OtherPython { declared: python.to_owned(), found });
        }
        if !python.is_empty() {
            let workshop = self.workshop.get().ok_or_else(|| {
                let name = &declaration.name;
                let why =
                    format!("there is no sandbox here to run it in; `fumehood env build {name}` makes one");
                EnvironmentError::Compile { why }
            })?;
            // Its sandbox's ids are nobody's, and see what everybody may.
            tree.settle()?;
            compile::compile(&**workshop, &format!("/{interpreter}"), &mut tree, tell)?;
        }
        tree.finish()
    }
}

/// The version of the package that an environment is known by, as its makers number it.
fn version(lock: &Lock, package: &str) -> String {
    let found = lock.packages().into_iter().find(|(name, _)| name == package);
    let version = found.map(|(_, version)| version).unwrap_or_default();
    let version = version.split_once(':').map_or(version.as_str(), |(_, rest)| rest);
    version.rsplit_once('-').map_or(version, |(upstream, _)| upstream).to_owned()
}
