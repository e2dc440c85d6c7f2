//! What the API allows, each bound with a name and the reason for its size.

use std::net::SocketAddr;
use std::time::Duration;

use hood_core::plan::PolicyMode;

use super::guard::HostPolicy;
use crate::config::{Builds, Config};
use crate::webhook::Rules;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

#[derive(Clone, Debug)]
pub struct ApiConfig {
    pub policy: PolicyMode,
    /// Which `Host` a request may name.
    pub hosts: HostPolicy,
    /// The store's bound on queued evaluations, shown by `GET /v1/queue`.
    pub queue_max: u64,
    /// The longest request that is kept in the database, in bytes; what is longer is kept as a blob.
    pub request_bytes_in_rows_max: usize,
    /// Whether an environment may be built because a submission names it.
    pub builds: Builds,
    /// Where webhooks may go.
    pub webhooks: Rules,
    pub limits: ApiLimits,
}

impl ApiConfig {
    /// What the operator chose, for a server that listens on `address`.
    pub fn of(config: &Config, address: SocketAddr) -> Self {
        let (api, defaults) = (&config.api, ApiLimits::default());
        let grace_ms_max = u64::try_from(config.limits.grace_max.as_millis()).unwrap_or(u64::MAX);
        let limits = ApiLimits {
            submission: SubmissionLimits {
                files_max: api.files_max,
                arguments_max: api.arguments_max,
                labels_max: api.labels_max,
                label_bytes_max: api.label_bytes_max,
                batch_max: api.batch_evaluations_max,
                grace_ms_max,
                ..defaults.submission
            },
            body: BodyLimits {
                bytes_max: api.body_bytes_max,
                // One body of the largest size must always find room.
                all_bytes_max: defaults.body.all_bytes_max.max(api.body_bytes_max),
                timeout: api.body_time_max,
                json_depth_max: api.json_depth_max,
                ..defaults.body
            },
            connection: ConnectionLimits {
                connections_max: api.connections_max,
                head_bytes_max: api.header_bytes_max,
                head_timeout: api.header_time_max,
                ..defaults.connection
            },
            stream: StreamLimits { wait_max: api.wait_max, streams_max: api.streams_max, ..defaults.stream },
            page: PageLimits {
                default: defaults.page.default.min(api.page_items_max),
                max: api.page_items_max,
                preview_bytes: api.preview_bytes_max,
            },
            rate: RateLimits { requests_per_second: api.rate_per_second, burst: api.rate_burst },
        };
        Self {
            policy: config.sandbox.policy.into(),
            hosts: HostPolicy::new(address, &config.server.allowed_hosts),
            queue_max: config.store.queue_max,
            request_bytes_in_rows_max: config.blobs.inputs_above(),
            builds: config.environments.build,
            webhooks: config.webhooks.rules(),
            limits,
        }
    }
}

/// Every bound of the API. A request past one is refused by name, never cut short.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiLimits {
    pub submission: SubmissionLimits,
    pub body: BodyLimits,
    pub connection: ConnectionLimits,
    pub stream: StreamLimits,
    pub page: PageLimits,
    pub rate: RateLimits,
}

/// What one submission may hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubmissionLimits {
    pub files_max: usize,
    /// Elements of `command` and `args` together, and of `env`.
    pub arguments_max: usize,
    /// `command`, `args` and `env` together: execve takes 2 MiB with the usual stack limit, and the
    /// base environment and the kernel's pointers want their share.
    pub args_bytes_max: usize,
    /// One argument or variable: the kernel's MAX_ARG_STRLEN, its NUL byte included.
    pub arg_bytes_max: usize,
    pub labels_max: usize,
    /// A label's name, and its value.
    pub label_bytes_max: usize,
    /// The operator's bound on `grace_ms`.
    pub grace_ms_max: u64,
    /// Evaluations in one batch: one transaction of the store's only writer.
    pub batch_max: usize,
    /// Field errors named in one answer; the rest is counted.
    pub errors_max: usize,
    pub idempotency_key_bytes_max: usize,
}

/// What a request's body may cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BodyLimits {
    pub bytes_max: usize,
    /// All bodies in memory at once, with what is made of them until it is stored; a request waits for
    /// its share.
    pub all_bytes_max: usize,
    /// How long a request waits for that share before it is told to come again.
    pub share_timeout: Duration,
    /// From the head's end to the body's: a body that trickles holds memory.
    pub timeout: Duration,
    /// Levels that JSON may nest.
    pub json_depth_max: usize,
    /// Bodies larger than this are parsed off the threads that serve everybody.
    pub offload_bytes: usize,
}

/// What a connection may cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Open connections; those beyond wait in the kernel's backlog.
    pub connections_max: usize,
    pub head_bytes_max: usize,
    pub headers_max: usize,
    pub head_timeout: Duration,
    /// How long an answer may wait for its reader to take another byte of it.
    pub write_timeout: Duration,
    /// How long open requests get to finish at shutdown.
    pub drain: Duration,
}

/// What long answers may cost. The number of them is for each API key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamLimits {
    pub wait_max: Duration,
    /// Requests that wait, follow output or listen to events, all together.
    pub streams_max: usize,
    /// Output read from the store at a time: what a slow reader makes us hold.
    pub chunk_bytes: usize,
    /// Events read from the store at a time.
    pub events_chunk: u32,
    /// A wake-up is a hint and may be lost: the store is asked this often besides.
    pub poll_every: Duration,
    /// A comment keeps proxies from closing a quiet event stream.
    pub keep_alive: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageLimits {
    pub default: u32,
    pub max: u32,
    /// Output shown in the resource, per stream, before it is made safe.
    pub preview_bytes: usize,
}

/// A token bucket for each API key; a rate of 0 is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimits {
    pub requests_per_second: u32,
    pub burst: u32,
}

impl Default for ApiLimits {
    fn default() -> Self {
        Self {
            submission: SubmissionLimits {
                files_max: 1000,
                arguments_max: 1000,
                args_bytes_max: MIB,
                arg_bytes_max: 128 * KIB - 1,
                labels_max: 32,
                label_bytes_max: 256,
                grace_ms_max: 60_000,
                batch_max: 1000,
                errors_max: 100,
                idempotency_key_bytes_max: 255,
            },
            body: BodyLimits {
                bytes_max: 32 * MIB,
                all_bytes_max: 256 * MIB,
                share_timeout: Duration::from_secs(5),
                timeout: Duration::from_secs(60),
                json_depth_max: 32,
                offload_bytes: 256 * KIB,
            },
            connection: ConnectionLimits {
                connections_max: 1024,
                head_bytes_max: 16 * KIB,
                headers_max: 64,
                head_timeout: Duration::from_secs(10),
                write_timeout: Duration::from_secs(20),
                drain: Duration::from_secs(10),
            },
            stream: StreamLimits {
                wait_max: Duration::from_secs(60),
                streams_max: 512,
                chunk_bytes: 64 * KIB,
                events_chunk: 64,
                poll_every: Duration::from_secs(1),
                keep_alive: Duration::from_secs(15),
            },
            page: PageLimits { default: 50, max: 500, preview_bytes: 4 * KIB },
            rate: RateLimits { requests_per_second: 2000, burst: 4000 },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_default_file_gives_the_defaults_above() {
        let config = Config::at(Path::new("/nowhere")).expect("the default file is sound");
        let api = ApiConfig::of(&config, config.server.listen);
        assert_eq!(api.limits, ApiLimits::default());
    }
}
