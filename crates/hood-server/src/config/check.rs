//! What is wrong with a configuration: where, what, and what would be right.

use std::fmt;

use hood_core::limits::Limit;

use super::layers::{Entry, Origin};
use super::schema::KEYS;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub origin: Origin,
    /// Empty where the file cannot be read as TOML.
    pub key: String,
    pub problem: String,
    pub allowed: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let separator = if self.key.is_empty() { "" } else { " " };
        write!(f, "{}: {}{separator}{}; {}", self.origin, self.key, self.problem, self.allowed)
    }
}

impl Finding {
    pub(super) fn unknown(key: &str, origin: Origin) -> Self {
        let section = |name: &'static str| name.rsplit_once('.').map_or("", |(section, _)| section);
        let around = key.rsplit_once('.').map_or("", |(section, _)| section);
        let mut known: Vec<String> = match around {
            // At the top are the one key that has no section, and the sections.
            "" => KEYS
                .iter()
                .map(|known| match known.name.split_once('.') {
                    Some((section, _)) => format!("[{section}]"),
                    None => known.name.to_owned(),
                })
                .collect(),
            _ => KEYS
                .iter()
                .filter(|known| section(known.name) == around)
                .map(|known| known.name.to_owned())
                .collect(),
        };
        if known.is_empty() {
            known = KEYS
                .iter()
                .filter_map(|known| Some(format!("[{}]", known.name.split_once('.')?.0)))
                .collect();
        }
        known.dedup();
        let allowed = match nearest(key, KEYS.iter().map(|known| known.name)) {
            Some(near) => format!("is `{near}` meant?"),
            None => format!("known are {}", known.join(", ")),
        };
        Self { origin, key: key.to_owned(), problem: "is no known key".to_owned(), allowed }
    }

    pub(super) fn not_a_section(key: &str, origin: Origin) -> Self {
        let allowed = format!("write its keys below a line [{key}]");
        Self { origin, key: key.to_owned(), problem: "is a section, not a value".to_owned(), allowed }
    }

    pub(super) fn syntax(message: &str, origin: Origin) -> Self {
        let problem = format!("not TOML: {}", message.trim().replace('\n', ", "));
        Self { origin, key: String::new(), problem, allowed: "see https://toml.io".to_owned() }
    }

    fn of(entry: &Entry, problem: String, allowed: String) -> Self {
        Self { origin: entry.origin.clone(), key: entry.key.name.to_owned(), problem, allowed }
    }
}

pub(super) fn list(findings: &[Finding]) -> String {
    let lines: Vec<String> = findings.iter().map(|finding| format!("\n  {finding}")).collect();
    format!("the configuration cannot be used:{}", lines.concat())
}

/// How alike a name must be to one of ours to be taken for a slip of it.
const ALIKE: f64 = 0.85;

pub(super) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|known| (strsim::normalized_damerau_levenshtein(name, known), known))
        .filter(|(score, _)| *score >= ALIKE)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, known)| known)
}

/// Each value by itself.
pub(super) fn values(entries: &[Entry]) -> Vec<Finding> {
    let wrong = entries.iter().filter(|entry| !entry.key.takes(&entry.value));
    wrong
        .map(|entry| {
            let problem = format!("is {}", entry.key.shown(&entry.value));
            Finding::of(entry, problem, format!("allowed is {}", entry.key.allowed()))
        })
        .collect()
}

/// What values mean to each other, once each of them is sound.
pub(super) fn relations(entries: &[Entry]) -> Vec<Finding> {
    let find = |name: &str| entries.iter().find(|entry| entry.key.name == name);
    let mut pairs = vec![("store.storage_reserve_bytes".to_owned(), "store.storage_bytes".to_owned())];
    for limit in Limit::ALL.map(Limit::as_str) {
        pairs.push((format!("limits.default.{limit}"), format!("limits.maximum.{limit}")));
    }
    let mut findings = lone_tls_files(entries);
    for (lower, upper) in pairs {
        let (Some(lower), Some(upper)) = (find(&lower), find(&upper)) else { continue };
        if lower.value.as_integer() > upper.value.as_integer() {
            // Whichever was set by hand is where the slip is.
            let (at, other) = if lower.origin == Origin::Default { (upper, lower) } else { (lower, upper) };
            let relation = if at.key.name == lower.key.name { "above" } else { "below" };
            let problem = format!("is {}, {relation} {} ({})", at.value, other.key.name, other.value);
            let allowed = format!("{} may not be above {}", lower.key.name, upper.key.name);
            findings.push(Finding::of(at, problem, allowed));
        }
    }
    findings.extend(find("store.url").and_then(no_database));
    findings.extend(deleted_before_archived(
        find("retention.archive_after_days"),
        find("retention.delete_after_days"),
    ));
    findings.extend(half_a_key(find("blobs.access_key_id"), find("blobs.secret_access_key")));
    findings
}

/// An address that the schema takes for one, and that leads nowhere.
fn no_database(url: &Entry) -> Option<Finding> {
    let text = url.value.as_str().filter(|text| !text.is_empty())?;
    let wrong = hood_store::DatabaseUrl::parse(text).err()?;
    let allowed = "as in \"postgres://USER@HOST:5432/DATABASE\"".to_owned();
    Some(Finding::of(url, format!("cannot be used: {wrong}"), allowed))
}

/// Nothing would ever be archived.
fn deleted_before_archived(archive: Option<&Entry>, delete: Option<&Entry>) -> Option<Finding> {
    let (archive, delete) = (archive?, delete?);
    let (first, then) = (archive.value.as_integer()?, delete.value.as_integer()?);
    if first == 0 || then == 0 || first < then {
        return None;
    }
    let problem = format!("is {then}, no later than {} ({first})", archive.key.name);
    Some(Finding::of(delete, problem, "what is archived is deleted later than that, or never (0)".to_owned()))
}

/// One of two that only help together.
fn half_a_key(id: Option<&Entry>, secret: Option<&Entry>) -> Option<Finding> {
    let (id, secret) = (id?, secret?);
    let is_set = |entry: &Entry| entry.value.as_str().is_some_and(|text| !text.is_empty());
    let (set, other) = match (is_set(id), is_set(secret)) {
        (true, false) => (id, secret),
        (false, true) => (secret, id),
        _ => return None,
    };
    let problem = format!("is set, and {} is not", other.key.name);
    Some(Finding::of(set, problem, "set both or neither".to_owned()))
}

/// A certificate without its key, or without a CA to believe, proves nothing to anybody.
fn lone_tls_files(entries: &[Entry]) -> Vec<Finding> {
    let of_tls = entries.iter().filter(|entry| entry.key.name.starts_with("tls."));
    let (empty, named): (Vec<_>, Vec<_>) = of_tls.partition(|entry| entry.value.as_str() == Some(""));
    if named.is_empty() {
        return Vec::new();
    }
    let missing = |entry: &&Entry| {
        let problem = "is empty, and others of [tls] are not".to_owned();
        Finding::of(entry, problem, "name all of tls.cert, tls.key and tls.ca, or none".to_owned())
    };
    empty.iter().map(missing).collect()
}
