//! What this host offers and lacks.

use std::fs;

/// One fact about the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Its stable name.
    pub name: &'static str,
    /// It is as it should be.
    pub good: bool,
    /// What was found.
    pub detail: String,
    /// What to do about it; empty if nothing.
    pub fix: String,
}

/// Everything that places depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostReport {
    /// The facts, in a fixed order.
    pub findings: Vec<Finding>,
}

/// Looks at the host. Reads only.
#[must_use]
pub fn host_report(places: u32) -> HostReport {
    let _ = places;
    HostReport { findings: Vec::new() }
}

/// Whether crashes are handed to a program of the host's.
pub(super) fn core_is_piped() -> bool {
    fs::read_to_string("/proc/sys/kernel/core_pattern").is_ok_and(|pattern| pattern.starts_with('|'))
}
