//! The machine that figures come from: without it they say nothing.

use std::fmt;
use std::path::Path;

use serde::Serialize;

use crate::python::Python;

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Host {
    cpus: usize,
    cpu_model: String,
    memory_mib: u64,
    kernel: String,
    python: String,
    /// Of the server's data directory.
    filesystem: String,
    store: String,
    /// Of the last minute, before the run: figures of a busy machine mean little.
    load: String,
}

impl Host {
    /// `store` is what the databases of the run say of themselves.
    pub(crate) fn look(data_dir: &Path, python: &Python, store: impl Into<String>) -> Self {
        let uname = rustix::system::uname();
        let memory = rustix::system::sysinfo();
        Self {
            cpus: std::thread::available_parallelism().map_or(0, usize::from),
            cpu_model: field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".to_owned()),
            memory_mib: (memory.totalram * u64::from(memory.mem_unit)) >> 20,
            kernel: uname.release().to_string_lossy().into_owned(),
            python: python.version.clone(),
            filesystem: filesystem(data_dir),
            store: store.into(),
            load: std::fs::read_to_string("/proc/loadavg")
                .ok()
                .and_then(|text| text.split(' ').next().map(str::to_owned))
                .unwrap_or_default(),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cpus, cpu_model, memory_mib, kernel, python, filesystem, store, load } = self;
        writeln!(f, "host: {cpus} CPUs ({cpu_model}), {memory_mib} MiB, Linux {kernel}, load {load}")?;
        write!(f, "Python {python}; data on {filesystem}, {store}")
    }
}

/// The value after `name` and a colon in a file of the kernel's.
pub(crate) fn field(path: &str, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    line.split_once(':').map(|(_, value)| value.trim().to_owned())
}

fn filesystem(path: &Path) -> String {
    const KNOWN: [(u32, &str); 6] = [
        (0x0102_1994, "tmpfs (nothing is durable)"),
        (0xef53, "ext4"),
        (0x5846_5342, "xfs"),
        (0x9123_683e, "btrfs"),
        (0x794c_7630, "overlayfs"),
        (0x2fc1_2fc1, "zfs"),
    ];
    match rustix::fs::statfs(path) {
        // The kernel's numbers have 32 bits, whatever the field has.
        Ok(stat) => {
            let magic = stat.f_type as u32;
            let known = KNOWN.iter().find(|(number, _)| *number == magic);
            known.map_or_else(|| format!("{magic:#x}"), |(_, name)| (*name).to_owned())
        }
        Err(error) => format!("unknown ({error})"),
    }
}
