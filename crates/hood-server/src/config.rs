//! Configuration: read once at the start, complete and checked before anything else begins. Flags
//! win over environment variables, those over the file, the file over the defaults, which are the
//! committed file `config/default.toml`; each value remembers where it came from.

mod blobs;
mod check;
mod host;
mod layers;
pub mod reference;
mod schema;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hood_core::plan::PolicyMode;
use serde::{Deserialize, Deserializer};

pub use blobs::Blobs;
pub use check::Finding;
pub use host::Host;
pub use layers::{Entry, Origin, Sources};
pub use schema::{KEYS, Key, Kind};

use crate::webhook::{Network, Rules};

/// The one commented default file.
pub const DEFAULT_FILE: &str = include_str!("config/default.toml");

const UNREACHABLE_BY_NAME: &str = "server.listen is not a loopback address, and server.allowed_hosts is empty: \
     requests that come from elsewhere will be answered with 421 until the name or address they use is listed there";

/// Everything that an operator may choose, resolved: nothing is left to find out.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub data_dir: PathBuf,
    pub server: Server,
    pub api: Api,
    pub limits: Limits,
    pub store: Store,
    pub blobs: Blobs,
    pub bus: Bus,
    pub retention: Retention,
    pub worker: Worker,
    pub dispatcher: Dispatcher,
    pub metrics: Metrics,
    pub sandbox: Sandbox,
    pub environments: Environments,
    pub log: Log,
    pub tls: Tls,
    pub webhooks: Webhooks,
    pub telemetry: Telemetry,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    pub listen: SocketAddr,
    pub allowed_hosts: Vec<String>,
    #[serde(rename = "drain_ms", deserialize_with = "millis")]
    pub drain: Duration,
    #[serde(rename = "leave_ms", deserialize_with = "millis")]
    pub leave: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Api {
    pub body_bytes_max: usize,
    pub batch_evaluations_max: usize,
    #[serde(rename = "wait_ms_max", deserialize_with = "millis")]
    pub wait_max: Duration,
    pub connections_max: usize,
    pub streams_max: usize,
    pub header_bytes_max: usize,
    #[serde(rename = "header_ms_max", deserialize_with = "millis")]
    pub header_time_max: Duration,
    #[serde(rename = "body_ms_max", deserialize_with = "millis")]
    pub body_time_max: Duration,
    pub json_depth_max: usize,
    pub page_items_max: u32,
    pub files_max: usize,
    pub arguments_max: usize,
    pub labels_max: usize,
    pub label_bytes_max: usize,
    pub preview_bytes_max: usize,
    pub rate_per_second: u32,
    pub rate_burst: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    #[serde(rename = "grace_max_ms", deserialize_with = "millis")]
    pub grace_max: Duration,
    #[serde(deserialize_with = "limits")]
    pub default: hood_core::Limits,
    #[serde(deserialize_with = "limits")]
    pub maximum: hood_core::Limits,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Store {
    pub url: Url,
    pub storage_bytes: u64,
    pub storage_reserve_bytes: u64,
    pub queue_max: u64,
    pub readers: u32,
}

impl Config {
    /// The store as it is configured, without the bus, which differs by role. On SQLite whoever opens it brings the schema up to date; on a
    /// server that is `duty`'s to say.
    pub fn store(&self, duty: hood_store::Duty) -> Result<hood_store::StoreConfig, hood_store::UrlError> {
        let url = self.store.url.expose();
        let url = (!url.is_empty()).then(|| hood_store::DatabaseUrl::parse(url)).transpose()?;
        let duty = if url.is_some() { duty } else { hood_store::Duty::Migrate };
        Ok(hood_store::StoreConfig {
            dir: self.data_dir.clone(),
            storage_bytes: self.store.storage_bytes,
            storage_reserve_bytes: self.store.storage_reserve_bytes,
            queue_max: self.store.queue_max,
            readers: self.store.readers,
            blobs: self.blobs.place(),
            bus: None,
            url,
            duty,
        })
    }
}

/// How long what has ended is kept, and where; 0 is for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retention {
    pub archive_after_days: u32,
    pub delete_after_days: u32,
}

impl From<Retention> for hood_store::Retention {
    fn from(retention: Retention) -> Self {
        const DAY: Duration = Duration::from_secs(24 * 3600);
        let after = |days: u32| (days > 0).then(|| DAY * days);
        Self {
            archive_after: after(retention.archive_after_days),
            delete_after: after(retention.delete_after_days),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bus {
    /// Empty for memory.
    pub url: Url,
    /// `None` leaves it to the host's certificates.
    #[serde(deserialize_with = "optional_path")]
    pub ca: Option<PathBuf>,
    pub prefix: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Worker {
    pub dispatchers: Vec<String>,
    pub places: u32,
    #[serde(rename = "lease_ttl_ms", deserialize_with = "millis")]
    pub lease_ttl: Duration,
    #[serde(rename = "queue_ttl_ms", deserialize_with = "millis")]
    pub queue_ttl: Duration,
    pub stock: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dispatcher {
    pub listen: SocketAddr,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    /// `None` serves none.
    #[serde(deserialize_with = "optional_address")]
    pub listen: Option<SocketAddr>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sandbox {
    pub policy: Policy,
    /// `None` leaves it to the sandbox: this user's ranges in `/etc/subuid` and `/etc/subgid`.
    #[serde(deserialize_with = "id_range")]
    pub id_range: Option<IdRange>,
    /// `None` leaves it to the sandbox: the group that this process runs in.
    #[serde(deserialize_with = "path_or_auto")]
    pub cgroup_parent: Option<PathBuf>,
    pub memory_bytes_max: u64,
    #[serde(rename = "orphan_after_ms", deserialize_with = "millis")]
    pub orphan_after: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    Strict,
    Development,
}

impl From<Policy> for PolicyMode {
    fn from(policy: Policy) -> Self {
        match policy {
            Policy::Strict => Self::Strict,
            Policy::Development => Self::Development,
        }
    }
}

/// Host ids from `first` on, `count` of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdRange {
    pub first: u32,
    pub count: u32,
}

impl IdRange {
    /// `FIRST:COUNT`, neither id 0 nor past the last id in it.
    pub fn parse(text: &str) -> Option<Self> {
        let (first, count) = text.split_once(':')?;
        let (first, count) = (first.parse().ok()?, count.parse().ok()?);
        // u32::MAX is the kernel's "no id".
        let fits = u32::checked_add(first, count).is_some_and(|end| end < u32::MAX);
        (first > 0 && count >= schema::IDS_MIN && fits).then_some(Self { first, count })
    }
}

impl fmt::Display for IdRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.first, self.count)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Environments {
    pub dir: PathBuf,
    pub images_dir: PathBuf,
    pub default: String,
    pub build: Builds,
    pub debian_repositories: Vec<String>,
}

/// When an environment is built that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Builds {
    /// As soon as a submission names it.
    OnDemand,
    /// Only by `fumehood env build`.
    Never,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    pub filter: String,
    pub format: LogFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    Text,
    Json,
}

/// Of connections between roles.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    cert: PathBuf,
    key: PathBuf,
    ca: PathBuf,
}

impl Tls {
    /// All three, or none: the check lets nothing else through.
    pub fn files(&self) -> Option<TlsFiles> {
        let Self { cert, key, ca } = self.clone();
        (!cert.as_os_str().is_empty()).then_some(TlsFiles { cert, key, ca })
    }
}

/// A role's certificate, its key, and the CA that the others' certificates are of; each in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
    pub ca: PathBuf,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Webhooks {
    /// Empty for the data directory's own.
    pub secret: Secret,
    #[serde(deserialize_with = "networks")]
    pub allow: Vec<Network>,
    #[serde(deserialize_with = "networks")]
    pub refuse: Vec<Network>,
    #[serde(deserialize_with = "optional_path")]
    pub ca: Option<PathBuf>,
    #[serde(rename = "claim_ms", deserialize_with = "millis")]
    pub claim_time: Duration,
}

impl Webhooks {
    pub fn rules(&self) -> Rules {
        Rules { allow: self.allow.clone(), refuse: self.refuse.clone() }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Telemetry {
    pub otlp_endpoint: Url,
}

/// Empty where none is configured. It may hold a password: what is printed of it does not.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Url(String);

impl From<String> for Url {
    fn from(url: String) -> Self {
        Self(url)
    }
}

impl Url {
    /// With its password: for connecting, never for showing.
    pub fn expose(&self) -> &str {
        &self.0
    }

    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() { Ok(()) } else { f.write_str(&schema::without_password(&self.0)) }
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// Empty where none is configured; nothing that is printed holds it.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    pub fn expose(&self) -> &str {
        &self.0
    }

    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_empty() { "\"\"" } else { "\"***\"" })
    }
}

/// A configuration, and where each of its values came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub config: Config,
    /// Every key, in the order of the default file.
    pub entries: Vec<Entry>,
    /// The file that was read, if there was one.
    pub file: Option<PathBuf>,
    /// What is odd and yet no error.
    pub warnings: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read the configuration file {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{}", check::list(.0))]
    Findings(Vec<Finding>),
    /// The tables of this module contradict each other: a fault of ours.
    #[error("the checked configuration cannot be read")]
    Inconsistent(#[source] toml::de::Error),
}

impl Loaded {
    /// Every key with its value as people may see it.
    pub fn shown(&self) -> BTreeMap<String, String> {
        self.entries.iter().map(|entry| (entry.key.name.to_owned(), entry.shown())).collect()
    }
}

impl Config {
    /// Reads every source, checks the whole, and says everything that is wrong at once.
    pub fn load(sources: &Sources, host: &Host) -> Result<Loaded, ConfigError> {
        let (mut merged, mut findings) = sources.merge(host)?;
        findings.extend(check::values(&merged.entries));
        if findings.is_empty() {
            host.settle(&mut merged.entries);
            findings.extend(check::relations(&merged.entries));
        }
        if !findings.is_empty() {
            return Err(ConfigError::Findings(findings));
        }
        let table = layers::nested(&merged.entries);
        let config: Self = table.try_into().map_err(ConfigError::Inconsistent)?;
        let layers::Merged { entries, file, mut warnings } = merged;
        if !config.server.listen.ip().is_loopback() && config.server.allowed_hosts.is_empty() {
            warnings.push(UNREACHABLE_BY_NAME.to_owned());
        }
        Ok(Loaded { config, entries, file, warnings })
    }

    /// The defaults of this host with everything kept under `data_dir`: what tests begin from.
    pub fn at(data_dir: &Path) -> Result<Self, ConfigError> {
        let mut sources = Sources::default();
        sources.set("data_dir", &data_dir.to_string_lossy(), "data_dir");
        Ok(Self::load(&sources, &Host::detect())?.config)
    }
}

fn millis<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    u64::deserialize(deserializer).map(Duration::from_millis)
}

fn id_range<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<IdRange>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text == schema::AUTO {
        return Ok(None);
    }
    IdRange::parse(&text).map(Some).ok_or_else(|| serde::de::Error::custom("not FIRST:COUNT"))
}

fn path_or_auto<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
    let path = PathBuf::deserialize(deserializer)?;
    Ok((path != Path::new(schema::AUTO)).then_some(path))
}

fn optional_address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SocketAddr>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(serde::de::Error::custom)
}

fn networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Network>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    let networks = texts.iter().map(|text| text.parse::<Network>());
    networks.collect::<Result<_, _>>().map_err(|()| serde::de::Error::custom("not a network"))
}

fn optional_path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
    let path = PathBuf::deserialize(deserializer)?;
    Ok((!path.as_os_str().is_empty()).then_some(path))
}

/// The nine by name. The core's own type has no serde, so that nothing outside can shape it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LimitsTable {
    wall_ms: u64,
    cpu_ms: u64,
    memory_bytes: u64,
    processes: u64,
    file_bytes: u64,
    disk_bytes: u64,
    disk_inodes: u64,
    output_bytes: u64,
    open_files: u64,
}

fn limits<'de, D: Deserializer<'de>>(deserializer: D) -> Result<hood_core::Limits, D::Error> {
    let table = LimitsTable::deserialize(deserializer)?;
    Ok(hood_core::Limits {
        wall_ms: table.wall_ms,
        cpu_ms: table.cpu_ms,
        memory_bytes: table.memory_bytes,
        processes: table.processes,
        file_bytes: table.file_bytes,
        disk_bytes: table.disk_bytes,
        disk_inodes: table.disk_inodes,
        output_bytes: table.output_bytes,
        open_files: table.open_files,
    })
}
