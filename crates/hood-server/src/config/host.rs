//! What of this host and user the configuration depends on, gathered once, so that the rest is a
//! function of its arguments.

use std::path::{Path, PathBuf};

use super::layers::Entry;
use super::schema::AUTO;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    pub root: bool,
    pub cpus: u32,
    pub memory_bytes: u64,
    pub home: Option<PathBuf>,
    pub xdg_data_home: Option<PathBuf>,
    pub xdg_config_home: Option<PathBuf>,
}

/// Ids that nothing assigns by itself: above what distributions, containers and directories use,
/// below the half of the space that some tools read as negative.
const ROOT_ID_RANGE: &str = "1879048192:65536";

/// More than this many idle sandboxes help no burst that a single machine could run.
const STOCK_AUTO_MAX: u32 = 16;

/// Used where the kernel does not say how much memory there is.
const MEMORY_UNKNOWN_BYTES: u64 = 1024 * 1024 * 1024;

impl Host {
    pub fn detect() -> Self {
        // The specification has relative paths ignored.
        let dir = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            root: rustix::process::geteuid().is_root(),
            cpus: u32::try_from(cpus).unwrap_or(u32::MAX),
            memory_bytes: memory_bytes().unwrap_or(MEMORY_UNKNOWN_BYTES),
            home: dir("HOME"),
            xdg_data_home: dir("XDG_DATA_HOME"),
            xdg_config_home: dir("XDG_CONFIG_HOME"),
        }
    }

    /// Where the configuration file is looked for if none is named.
    pub fn config_file(&self) -> Option<PathBuf> {
        if self.root {
            return Some(PathBuf::from("/etc/fumehood/config.toml"));
        }
        let config = self.xdg_config_home.clone().or_else(|| Some(self.home.as_ref()?.join(".config")))?;
        Some(config.join("fumehood/config.toml"))
    }

    fn data_dir(&self) -> PathBuf {
        if self.root {
            return PathBuf::from("/var/lib/fumehood");
        }
        let home = || Some(self.home.as_ref()?.join(".local/share"));
        // A user without a home is a service: the place for those.
        self.xdg_data_home.clone().or_else(home).unwrap_or_else(|| PathBuf::from("/var/lib")).join("fumehood")
    }

    /// Puts a value in the place of each "auto" that is decided here.
    pub(super) fn settle(&self, entries: &mut [Entry]) {
        let mut data_dir = PathBuf::new();
        for i in 0..entries.len() {
            let name = entries[i].key.name;
            if entries[i].value.as_str() == Some(AUTO) {
                let settled = self.value_of(name, &data_dir, entries);
                if let Some((value, why)) = settled {
                    entries[i].value = value;
                    entries[i].note = Some(why);
                }
            }
            if name == "data_dir" {
                data_dir = PathBuf::from(entries[i].value.as_str().unwrap_or_default());
            }
        }
    }

    /// What "auto" means for a key, and why; `None` for keys that the sandbox decides.
    fn value_of(&self, name: &str, data_dir: &Path, entries: &[Entry]) -> Option<(toml::Value, String)> {
        let (value, why) = match name {
            "data_dir" => (path(&self.data_dir()), if self.root { "root" } else { "this user" }),
            "blobs.dir" => (path(&data_dir.join(hood_store::BLOBS_DIR)), "in the data directory"),
            "environments.dir" => (path(&data_dir.join("environments")), "in the data directory"),
            "environments.images_dir" => (path(&data_dir.join("images")), "in the data directory"),
            "worker.places" => (toml::Value::Integer(self.cpus.into()), "number of CPUs"),
            "worker.stock" => {
                let places = entries.iter().find(|entry| entry.key.name == "worker.places");
                let places = places.and_then(|entry| entry.value.as_integer()).unwrap_or(1);
                (toml::Value::Integer(places.min(STOCK_AUTO_MAX.into())), "as many as places")
            }
            "sandbox.policy" if self.root => (text("strict"), "root"),
            "sandbox.policy" => (text("development"), "not root"),
            "sandbox.id_range" if self.root => (text(ROOT_ID_RANGE), "root"),
            "sandbox.memory_bytes_max" => {
                let bytes = self.memory_bytes - self.memory_bytes / 8;
                (toml::Value::Integer(i64::try_from(bytes).unwrap_or(i64::MAX)), "the host's less an eighth")
            }
            _ => return None,
        };
        Some((value, why.to_owned()))
    }
}

fn text(text: &str) -> toml::Value {
    toml::Value::String(text.to_owned())
}

fn path(path: &Path) -> toml::Value {
    toml::Value::String(path.to_string_lossy().into_owned())
}

fn memory_bytes() -> Option<u64> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}
