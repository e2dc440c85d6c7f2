//! Which keys there are and what each may hold. Their defaults and meanings are in the default file;
//! a test holds the two together.

use std::fmt;

use hood_core::limits::Limit;

use super::IdRange;
use crate::webhook::Network;

/// For keys that have it: worked out at the start from what this host is.
pub(super) const AUTO: &str = "auto";

/// One id for the agent and one for the program, at the least.
pub(super) const IDS_MIN: u32 = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// Dotted: `section.key`.
    pub name: &'static str,
    pub kind: Kind,
    /// Whether `"auto"` is allowed besides.
    pub auto: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Count {
        least: u64,
        most: u64,
    },
    /// Any text that is not empty.
    Text,
    /// An absolute path.
    Path,
    /// An absolute path, or empty for none.
    OptionalPath,
    /// IP address and port, or empty for none.
    OptionalAddress,
    /// IP address and port.
    Address,
    List,
    IdRange,
    Filter,
    OneOf(&'static [&'static str]),
    /// A list of addresses, or of networks as `ADDRESS/BITS`.
    Networks,
    /// With one of these schemes, or empty for none. Its password is not shown.
    Url(&'static [&'static str]),
    /// Empty for none. Never shown.
    Secret,
}

/// TOML has no larger integer.
const LARGEST: u64 = i64::MAX as u64;
/// Periods beyond this are a slip of units.
const YEAR_MS: u64 = 366 * 24 * 3600 * 1000;
const CENTURY_DAYS: u64 = 36_525;
const MIB: u64 = 1024 * 1024;

const fn key(name: &'static str, kind: Kind) -> Key {
    Key { name, kind, auto: false }
}

const fn auto(name: &'static str, kind: Kind) -> Key {
    Key { name, kind, auto: true }
}

const fn count(name: &'static str, least: u64, most: u64) -> Key {
    key(name, Kind::Count { least, most })
}

const fn limit(name: &'static str, limit: Limit) -> Key {
    let most = if matches!(limit, Limit::WallMs | Limit::CpuMs) { YEAR_MS } else { LARGEST };
    count(name, limit.minimum(), most)
}

/// Every key, in the order of the default file.
pub const KEYS: &[Key] = &[
    auto("data_dir", Kind::Path),
    key("server.listen", Kind::Address),
    key("server.allowed_hosts", Kind::List),
    count("server.drain_ms", 0, YEAR_MS),
    count("server.leave_ms", 0, 600_000),
    count("api.body_bytes_max", 1024, 1024 * MIB),
    count("api.batch_evaluations_max", 1, 100_000),
    count("api.wait_ms_max", 0, 3_600_000),
    count("api.connections_max", 1, 1_000_000),
    count("api.streams_max", 1, 1_000_000),
    count("api.header_bytes_max", 8192, MIB),
    count("api.header_ms_max", 100, 3_600_000),
    count("api.body_ms_max", 100, 3_600_000),
    // Six is what a submission's own shape needs; 128 is where the JSON reader itself stops.
    count("api.json_depth_max", 6, 127),
    count("api.page_items_max", 1, 10_000),
    count("api.files_max", 1, 100_000),
    count("api.arguments_max", 1, 100_000),
    count("api.labels_max", 0, 1000),
    count("api.label_bytes_max", 1, 65_536),
    count("api.preview_bytes_max", 0, MIB),
    count("api.rate_per_second", 0, 1_000_000),
    count("api.rate_burst", 1, 1_000_000),
    count("limits.grace_max_ms", 0, 3_600_000),
    limit("limits.default.wall_ms", Limit::WallMs),
    limit("limits.default.cpu_ms", Limit::CpuMs),
    limit("limits.default.memory_bytes", Limit::MemoryBytes),
    limit("limits.default.processes", Limit::Processes),
    limit("limits.default.file_bytes", Limit::FileBytes),
    limit("limits.default.disk_bytes", Limit::DiskBytes),
    limit("limits.default.disk_inodes", Limit::DiskInodes),
    limit("limits.default.output_bytes", Limit::OutputBytes),
    limit("limits.default.open_files", Limit::OpenFiles),
    limit("limits.maximum.wall_ms", Limit::WallMs),
    limit("limits.maximum.cpu_ms", Limit::CpuMs),
    limit("limits.maximum.memory_bytes", Limit::MemoryBytes),
    limit("limits.maximum.processes", Limit::Processes),
    limit("limits.maximum.file_bytes", Limit::FileBytes),
    limit("limits.maximum.disk_bytes", Limit::DiskBytes),
    limit("limits.maximum.disk_inodes", Limit::DiskInodes),
    limit("limits.maximum.output_bytes", Limit::OutputBytes),
    limit("limits.maximum.open_files", Limit::OpenFiles),
    key("store.url", Kind::Url(&["postgres", "postgresql"])),
    count("store.storage_bytes", 16 * MIB, LARGEST),
    count("store.storage_reserve_bytes", 4 * MIB, LARGEST),
    count("store.queue_max", 1, 100_000_000),
    count("store.readers", 1, 64),
    key("blobs.url", Kind::Url(&["s3"])),
    auto("blobs.dir", Kind::Path),
    key("blobs.endpoint", Kind::Url(&["http", "https"])),
    key("blobs.region", Kind::Text),
    key("blobs.access_key_id", Kind::Secret),
    key("blobs.secret_access_key", Kind::Secret),
    count("blobs.inputs_above_bytes", 0, LARGEST),
    key("bus.url", Kind::Url(&["redis", "rediss"])),
    key("bus.ca", Kind::OptionalPath),
    key("bus.prefix", Kind::Text),
    count("retention.archive_after_days", 0, CENTURY_DAYS),
    count("retention.delete_after_days", 0, CENTURY_DAYS),
    key("worker.dispatchers", Kind::List),
    auto("worker.places", Kind::Count { least: 1, most: 10_000 }),
    // Below a second a busy machine would lose leases that it still works on.
    count("worker.lease_ttl_ms", 1000, 3_600_000),
    count("worker.queue_ttl_ms", 1000, YEAR_MS),
    auto("worker.stock", Kind::Count { least: 0, most: 10_000 }),
    key("dispatcher.listen", Kind::Address),
    key("metrics.listen", Kind::OptionalAddress),
    auto("sandbox.policy", Kind::OneOf(&["strict", "development"])),
    auto("sandbox.id_range", Kind::IdRange),
    auto("sandbox.cgroup_parent", Kind::Path),
    auto("sandbox.memory_bytes_max", Kind::Count { least: 8 * MIB, most: LARGEST }),
    count("sandbox.orphan_after_ms", 1000, YEAR_MS),
    auto("environments.dir", Kind::Path),
    auto("environments.images_dir", Kind::Path),
    key("environments.default", Kind::Text),
    key("environments.build", Kind::OneOf(&["on-demand", "never"])),
    key("environments.debian_repositories", Kind::List),
    key("log.filter", Kind::Filter),
    key("log.format", Kind::OneOf(&["text", "json"])),
    key("tls.cert", Kind::OptionalPath),
    key("tls.key", Kind::OptionalPath),
    key("tls.ca", Kind::OptionalPath),
    key("webhooks.secret", Kind::Secret),
    key("webhooks.allow", Kind::Networks),
    key("webhooks.refuse", Kind::Networks),
    key("webhooks.ca", Kind::OptionalPath),
    // Half again as long as one may be on its way.
    count("webhooks.claim_ms", 15_000, 3_600_000),
    key("telemetry.otlp_endpoint", Kind::Url(&["http", "https"])),
];

impl Key {
    pub fn find(name: &str) -> Option<&'static Self> {
        KEYS.iter().find(|key| key.name == name)
    }

    /// The environment variable that sets it.
    pub fn variable(&self) -> String {
        format!("FUMEHOOD_{}", self.name.replace('.', "_").to_uppercase())
    }

    /// What text from a flag or the environment means for this key. Text that does not fit stays
    /// text, which the check then refuses with its origin.
    pub(super) fn read(&self, text: &str) -> toml::Value {
        let as_text = || toml::Value::String(text.to_owned());
        match self.kind {
            Kind::Count { .. } => text.parse().map_or_else(|_| as_text(), toml::Value::Integer),
            Kind::List | Kind::Networks => {
                let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
                toml::Value::Array(items.map(|item| toml::Value::String(item.to_owned())).collect())
            }
            _ => as_text(),
        }
    }

    /// Whether the key may hold this value.
    pub(super) fn takes(&self, value: &toml::Value) -> bool {
        if self.auto && value.as_str() == Some(AUTO) {
            return true;
        }
        let text = value.as_str();
        match self.kind {
            Kind::Count { least, most } => value
                .as_integer()
                .and_then(|value| u64::try_from(value).ok())
                .is_some_and(|value| (least..=most).contains(&value)),
            Kind::Text => text.is_some_and(|text| !text.trim().is_empty()),
            Kind::Path => text.is_some_and(is_path),
            Kind::OptionalAddress => {
                text.is_some_and(|text| text.is_empty() || text.parse::<std::net::SocketAddr>().is_ok())
            }
            Kind::Networks => value.as_array().is_some_and(|items| {
                items.iter().all(|item| item.as_str().is_some_and(|item| item.parse::<Network>().is_ok()))
            }),
            Kind::OptionalPath => text.is_some_and(|text| text.is_empty() || is_path(text)),
            Kind::Address => text.is_some_and(|text| text.parse::<std::net::SocketAddr>().is_ok()),
            Kind::List => value.as_array().is_some_and(|items| {
                items.iter().all(|item| item.as_str().is_some_and(|item| !item.trim().is_empty()))
            }),
            Kind::IdRange => text.is_some_and(|text| IdRange::parse(text).is_some()),
            Kind::Filter => {
                text.is_some_and(|text| tracing_subscriber::EnvFilter::builder().parse(text).is_ok())
            }
            Kind::OneOf(choices) => text.is_some_and(|text| choices.contains(&text)),
            Kind::Url(schemes) => text.is_some_and(|text| text.is_empty() || is_url(text, schemes)),
            Kind::Secret => text.is_some(),
        }
    }

    /// The value as people and logs may see it.
    pub fn shown(&self, value: &toml::Value) -> toml::Value {
        let as_text = |text: String| toml::Value::String(text);
        match (self.kind, value.as_str()) {
            (Kind::Url(_), Some(text)) => as_text(without_password(text)),
            (Kind::Secret, Some(text)) if !text.is_empty() => as_text(HIDDEN.to_owned()),
            _ => value.clone(),
        }
    }

    /// What it may hold, in words.
    pub fn allowed(&self) -> String {
        let auto = if self.auto { ", or \"auto\"" } else { "" };
        format!("{}{auto}", self.kind)
    }
}

fn is_path(text: &str) -> bool {
    text.starts_with('/') && !text.contains('\0')
}

/// In place of what nobody is shown.
const HIDDEN: &str = "***";

fn is_url(text: &str, schemes: &[&str]) -> bool {
    let named = |(scheme, rest): (&str, &str)| {
        schemes.contains(&scheme) && !rest.is_empty() && !rest.starts_with('/')
    };
    !text.contains(|c: char| c.is_whitespace() || c.is_control()) && text.split_once("://").is_some_and(named)
}

/// The URL with what stands between `:` and `@` hidden, and what its query may hold as well.
pub(super) fn without_password(url: &str) -> String {
    let (url, query) = match url.split_once('?') {
        Some((url, _)) => (url, format!("?{HIDDEN}")),
        None => (url, String::new()),
    };
    let Some((scheme, rest)) = url.split_once("://") else { return HIDDEN.to_owned() };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let authority = match authority.rsplit_once('@') {
        Some((user, host)) => match user.split_once(':') {
            Some((user, _)) => format!("{user}:{HIDDEN}@{host}"),
            None => authority.to_owned(),
        },
        None => authority.to_owned(),
    };
    format!("{scheme}://{authority}{path}{query}")
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count { least, most: LARGEST } => write!(f, "a whole number from {least} up"),
            Self::Count { least, most } => write!(f, "a whole number from {least} to {most}"),
            Self::Text => f.write_str("a text that is not empty"),
            Self::Path => f.write_str("an absolute path"),
            Self::OptionalAddress => f.write_str("an IP address and a port, or \"\" for none"),
            Self::OptionalPath => f.write_str("an absolute path, or \"\" for none"),
            Self::Address => {
                f.write_str("an IP address and a port, as in \"127.0.0.1:7470\" or \"[::1]:7470\"")
            }
            Self::List => f.write_str("a list of texts"),
            Self::Networks => f.write_str("a list of addresses or networks, as in \"10.0.0.0/8\""),
            Self::IdRange => f.write_str("\"FIRST:COUNT\" with FIRST above 0 and COUNT at least 2"),
            Self::Filter => {
                f.write_str("a level (error, warn, info, debug, trace) or TARGET=LEVEL, with commas")
            }
            Self::OneOf(choices) => {
                let quoted: Vec<String> = choices.iter().map(|choice| format!("\"{choice}\"")).collect();
                f.write_str(&quoted.join(" or "))
            }
            Self::Url(schemes) => {
                let forms: Vec<String> = schemes.iter().map(|scheme| format!("{scheme}://…")).collect();
                write!(f, "{}, or \"\" for none", forms.join(" or "))
            }
            Self::Secret => f.write_str("a text, or \"\" for none"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{is_url, without_password};

    #[test]
    fn a_url_is_shown_without_what_is_secret_in_it() {
        for (url, shown) in [
            ("postgres://hood:se@cr:et@db.example:5432/hood", "postgres://hood:***@db.example:5432/hood"),
            ("postgres://hood@db/hood?password=x", "postgres://hood@db/hood?***"),
            ("redis://:secret@cache/0", "redis://:***@cache/0"),
            ("http://collector:4318", "http://collector:4318"),
            ("nonsense", "***"),
        ] {
            assert_eq!(without_password(url), shown);
        }
    }

    #[test]
    fn a_url_has_one_of_the_schemes_and_a_host() {
        assert!(is_url("http://a", &["http"]));
        for wrong in ["", "a", "http://", "http:///x", "https://a", "http://a b", "HTTP://a"] {
            assert!(!is_url(wrong, &["http"]), "{wrong}");
        }
    }
}
