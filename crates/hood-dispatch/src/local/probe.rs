//! What this machine offers, found by making a real place and looking.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use hood_core::Timestamp;
use hood_core::limits::Limits;
use hood_core::plan::{Capacity, EnvironmentFacts, ExecutorClass, Layer, Offer, PlaceKind};
use hood_sandbox::{Launcher, PlaceSpec, SystemCalls};

use super::place::chain;
use super::{LOCAL, LocalConfig};
use crate::catalogue::{Catalogue, EnvironmentEntry, EnvironmentStatus};
use crate::environment::{Library, Status};

/// Directories that a root image must have, for mounts.
const MOUNT_POINTS: [&str; 4] = ["dev", "eval", "proc", "tmp"];

/// Makes a place from an empty image, takes down what it proved, and buries it.
pub(super) fn look(launcher: &Launcher, config: &LocalConfig, version: u64) -> Capacity {
    let root = rustix::process::geteuid().is_root();
    let mut capacity = Capacity {
        version,
        taken_at: now(),
        kind: if root { PlaceKind::LocalRoot } else { PlaceKind::LocalUser },
        classes: vec![ExecutorClass::Cpu],
        proven: Vec::new(),
        unproven: Vec::new(),
        memory_bytes_max: config.memory_bytes_max,
        places: config.places,
    };
    match probe(launcher, config) {
        Ok(layers) => {
            for layer in layers {
                let Some(known) = Layer::parse(&layer.name) else { continue };
                if layer.proven {
                    capacity.proven.push(known);
                } else {
                    capacity.unproven.push((known, layer.reason));
                }
            }
        }
        Err(reason) => {
            tracing::error!(reason = %reason, "no place can be made here");
            capacity.places = 0;
            capacity.unproven = Layer::ALL.map(|layer| (layer, reason.clone())).to_vec();
        }
    }
    capacity
}

fn probe(launcher: &Launcher, config: &LocalConfig) -> Result<Vec<hood_sandbox::Layer>, String> {
    let image =
        empty_image(&config.state_dir).map_err(|error| format!("cannot make the probe's image: {error}"))?;
    let limits = Limits::DEFAULT;
    let spec = PlaceSpec {
        image,
        disk_bytes: limits.disk_bytes,
        disk_inodes: limits.disk_inodes,
        calls: SystemCalls::Ordinary,
        builds: false,
    };
    let place = launcher.prepare(&spec).map_err(|error| chain(&error))?;
    let layers = place.layers().to_vec();
    place.destroy().map_err(|error| chain(&error))?;
    Ok(layers)
}

fn empty_image(state_dir: &Path) -> io::Result<PathBuf> {
    let image = state_dir.join("probe-image");
    for name in MOUNT_POINTS {
        fs::create_dir_all(image.join(name))?;
    }
    // Whatever this process's umask is: a place's ids are nobody's.
    for dir in MOUNT_POINTS.map(|name| image.join(name)).iter().chain([&image]) {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?;
    }
    Ok(image)
}

/// Everything on offer. A place is counted as free whether or not something runs in it: nobody
/// chooses between executors where there is one.
pub(super) fn catalogue(capacity: Capacity, library: &Library) -> Catalogue {
    let version = capacity.version;
    let offer =
        Offer { executor: LOCAL.to_owned(), free: capacity.places, open: true, environments: None, capacity };
    Catalogue { version, offers: vec![offer], environments: environments(library), silent: Vec::new() }
}

pub(super) fn environments(library: &Library) -> Vec<EnvironmentEntry> {
    library.declarations().iter().map(|declaration| entry(library, declaration)).collect()
}

fn entry(library: &Library, declaration: &crate::environment::Declaration) -> EnvironmentEntry {
    let status = match library.status(&declaration.name) {
        Status::NotBuilt => EnvironmentStatus::NotBuilt,
        Status::Building(progress) => EnvironmentStatus::Building(progress),
        Status::Ready(image) => EnvironmentStatus::Ready {
            digest: image.digest,
            size_bytes: image.size_bytes,
            interpreter: image.interpreter,
        },
        Status::Failed { reason, lasting } => EnvironmentStatus::Failed { reason, lasting },
    };
    EnvironmentEntry {
        facts: EnvironmentFacts {
            name: declaration.name.clone(),
            allowed_classes: declaration.allowed_classes.clone(),
            isolation: declaration.isolation,
            system_calls: declaration.system_calls,
        },
        description: declaration.description.clone(),
        security: declaration.security.clone(),
        base: declaration.base,
        packages: declaration.lock.as_ref().map(|lock| lock.packages()).unwrap_or_default(),
        code: declaration.code.clone(),
        imported: library.imported(&declaration.name),
        default_limits: declaration.default_limits,
        maximum_limits: declaration.maximum_limits,
        status,
    }
}

/// Versions go on rising over restarts, because each start begins at the time.
pub(super) fn first_version() -> u64 {
    now().as_unix_millis()
}

fn now() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_micros(i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX))
}
