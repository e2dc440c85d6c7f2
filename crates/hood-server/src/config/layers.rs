//! From where values come, and which of them counts.

use std::fmt;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::check::{Finding, nearest};
use super::schema::{KEYS, Key};
use super::{ConfigError, DEFAULT_FILE, Host};

/// Variables that are no configuration keys: they say which server the commands talk to, and which
/// file is read.
const CLIENT_VARIABLES: [&str; 4] =
    ["FUMEHOOD_CONFIG", "FUMEHOOD_SERVER", "FUMEHOOD_TOKEN", "FUMEHOOD_TOKEN_FILE"];

const PREFIX: &str = "FUMEHOOD_";

/// Variables that other programs know too, and the keys that they set unless ours does.
const SHARED_VARIABLES: [(&str, &str); 1] = [("OTEL_EXPORTER_OTLP_ENDPOINT", "telemetry.otlp_endpoint")];

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Default,
    File { path: PathBuf, line: usize },
    Environment(String),
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag(flag) => write!(f, "flag {flag}"),
        }
    }
}

/// One key's value.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub key: &'static Key,
    pub value: toml::Value,
    pub origin: Origin,
    /// Why "auto" became this value.
    pub note: Option<String>,
}

impl Entry {
    /// The value as people may see it, written as in a file.
    pub fn shown(&self) -> String {
        self.key.shown(&self.value).to_string()
    }

    /// Whether what is shown is all of it.
    pub fn is_shown_whole(&self) -> bool {
        self.key.shown(&self.value) == self.value
    }
}

/// Where configuration is read from, besides the defaults.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// A file that was named and must be there; without one, the usual file if it is there.
    file: Option<PathBuf>,
    /// Whether the usual file counts where none is named.
    usual_file: bool,
    environment: Vec<(String, String)>,
    flags: Vec<Flag>,
}

#[derive(Clone, Debug)]
struct Flag {
    key: String,
    value: String,
    flag: String,
}

pub(super) struct Merged {
    pub(super) entries: Vec<Entry>,
    pub(super) file: Option<PathBuf>,
    pub(super) warnings: Vec<String>,
}

impl Sources {
    /// What this process was started with: `file` or `FUMEHOOD_CONFIG`, and the environment.
    pub fn of_process(file: Option<PathBuf>) -> Self {
        let file = file.or_else(|| std::env::var_os("FUMEHOOD_CONFIG").map(PathBuf::from));
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))
        };
        let ours = |name: &str| {
            name.starts_with(PREFIX) || SHARED_VARIABLES.iter().any(|(shared, _)| *shared == name)
        };
        let environment = std::env::vars_os().filter_map(text).filter(|(name, _)| ours(name));
        Self { file, usual_file: true, environment: environment.collect(), flags: Vec::new() }
    }

    #[must_use]
    pub fn with_file(mut self, path: PathBuf) -> Self {
        self.file = Some(path);
        self
    }

    #[must_use]
    pub fn with_usual_file(mut self) -> Self {
        self.usual_file = true;
        self
    }

    #[must_use]
    pub fn with_environment(mut self, variables: &[(&str, &str)]) -> Self {
        self.environment
            .extend(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        self
    }

    /// A value that a flag gave.
    pub fn set(&mut self, key: &str, value: &str, flag: &str) {
        self.flags.push(Flag { key: key.to_owned(), value: value.to_owned(), flag: flag.to_owned() });
    }

    pub(super) fn merge(&self, host: &Host) -> Result<(Merged, Vec<Finding>), ConfigError> {
        let mut findings = Vec::new();
        let defaults = read_toml(DEFAULT_FILE, Path::new("default.toml"), &mut findings);
        let mut entries: Vec<Entry> = defaults
            .into_iter()
            .map(|read| Entry { key: read.key, value: read.value, origin: Origin::Default, note: None })
            .collect();
        entries.sort_by_key(|entry| KEYS.iter().position(|key| key.name == entry.key.name));
        let mut put = |key: &'static Key, value, origin| {
            if let Some(entry) = entries.iter_mut().find(|entry| entry.key.name == key.name) {
                entry.value = value;
                entry.origin = origin;
            }
        };
        let file = self.read_file(host)?;
        if let Some((path, text)) = &file {
            for read in read_toml(text, path, &mut findings) {
                put(read.key, read.value, Origin::File { path: path.clone(), line: read.line });
            }
        }
        let mut warnings = Vec::new();
        for (shared, key) in SHARED_VARIABLES {
            let value = self.environment.iter().find(|(name, _)| name == shared);
            if let (Some((name, value)), Some(key)) = (value, Key::find(key)) {
                put(key, key.read(value), Origin::Environment(name.clone()));
            }
        }
        for (name, value) in self.environment.iter().filter(|(name, _)| name.starts_with(PREFIX)) {
            if let Some(key) = KEYS.iter().find(|key| key.variable() == *name) {
                put(key, key.read(value), Origin::Environment(name.clone()));
            } else if !CLIENT_VARIABLES.contains(&name.as_str()) && !is_service_link(name) {
                warnings.push(unknown_variable(name));
            }
        }
        for Flag { key: name, value, flag } in &self.flags {
            match Key::find(name) {
                Some(key) => put(key, key.read(value), Origin::Flag(flag.clone())),
                None => findings.push(Finding::unknown(name, Origin::Flag(flag.clone()))),
            }
        }
        Ok((Merged { entries, file: file.map(|(path, _)| path), warnings }, findings))
    }

    fn read_file(&self, host: &Host) -> Result<Option<(PathBuf, String)>, ConfigError> {
        let usual = || self.usual_file.then(|| host.config_file()).flatten();
        let Some(path) = self.file.clone().or_else(usual) else { return Ok(None) };
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(Some((path, text))),
            Err(source) if source.kind() == std::io::ErrorKind::NotFound && self.file.is_none() => Ok(None),
            Err(source) => Err(ConfigError::Read { path, source }),
        }
    }
}

/// Kubernetes gives every pod such variables for every service of its namespace, so a service named
/// `fumehood` would otherwise look like a slip in ours.
fn is_service_link(name: &str) -> bool {
    name.contains("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.contains("_PORT_")
        || name.ends_with("_PORT")
}

fn unknown_variable(name: &str) -> String {
    let variables: Vec<String> = KEYS.iter().map(Key::variable).collect();
    let known = variables.iter().map(String::as_str).chain(CLIENT_VARIABLES);
    match nearest(name, known) {
        Some(near) => format!("the environment variable {name} sets nothing; is {near} meant?"),
        None => format!("the environment variable {name} sets nothing"),
    }
}

struct Read {
    key: &'static Key,
    value: toml::Value,
    line: usize,
}

/// Every known key of a TOML text with its line; what is wrong with the rest goes to `findings`.
fn read_toml(text: &str, path: &Path, findings: &mut Vec<Finding>) -> Vec<Read> {
    let at = |line| Origin::File { path: path.to_owned(), line };
    let parsed = DeTable::parse(text).and_then(|spans| Ok((spans, text.parse::<toml::Table>()?)));
    match parsed {
        Ok((spans, values)) => {
            let mut walk = Walk { text, path, found: Vec::new(), findings };
            walk.table(&mut String::new(), spans.get_ref(), &values);
            walk.found
        }
        Err(error) => {
            let line = error.span().map_or(1, |span| line_of(text, span.start));
            findings.push(Finding::syntax(error.message(), at(line)));
            Vec::new()
        }
    }
}

struct Walk<'a> {
    text: &'a str,
    path: &'a Path,
    found: Vec<Read>,
    findings: &'a mut Vec<Finding>,
}

impl Walk<'_> {
    fn table(&mut self, prefix: &mut String, spans: &DeTable<'_>, values: &toml::Table) {
        for (name, span) in spans {
            let Some(value) = values.get(name.get_ref().as_ref()) else { continue };
            let outer = prefix.len();
            if outer > 0 {
                prefix.push('.');
            }
            prefix.push_str(name.get_ref());
            self.item(prefix, (name.span().start, span), value);
            prefix.truncate(outer);
        }
    }

    fn item(
        &mut self,
        name: &mut String,
        (start, span): (usize, &Spanned<DeValue<'_>>),
        value: &toml::Value,
    ) {
        let line = line_of(self.text, start);
        let origin = || Origin::File { path: self.path.to_owned(), line };
        let is_section = KEYS
            .iter()
            .any(|key| key.name.strip_prefix(name.as_str()).is_some_and(|rest| rest.starts_with('.')));
        match (Key::find(name), span.get_ref(), value) {
            (Some(key), ..) => self.found.push(Read { key, value: value.clone(), line }),
            (None, DeValue::Table(spans), toml::Value::Table(values)) if is_section => {
                self.table(name, spans, values);
            }
            (None, ..) if is_section => self.findings.push(Finding::not_a_section(name, origin())),
            (None, ..) => self.findings.push(Finding::unknown(name, origin())),
        }
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

/// The entries as the nested table that they came from.
pub(super) fn nested(entries: &[Entry]) -> toml::Table {
    let mut root = toml::Table::new();
    for entry in entries {
        let mut names = entry.key.name.split('.').collect::<Vec<_>>();
        let Some(last) = names.pop() else { continue };
        let mut table = &mut root;
        for name in names {
            let section = table.entry(name).or_insert_with(|| toml::Value::Table(toml::Table::new()));
            let toml::Value::Table(section) = section else { return root };
            table = section;
        }
        table.insert(last.to_owned(), entry.value.clone());
    }
    root
}
