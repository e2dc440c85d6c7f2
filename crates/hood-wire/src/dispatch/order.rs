use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Everything that a place needs, with the bytes of its files and of stdin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    pub head: OrderHead,
    /// The files' contents in the order of the head, then stdin.
    pub payload: Vec<u8>,
}

/// What stands before the bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OrderHead {
    pub version: u32,
    /// The lease's token: a place obeys the highest that it has seen. Never logged.
    pub token: u64,
    /// The life of the dispatcher that it is for, as its catalogue names it; another one does not take
    /// it, so that no order makes two places. Empty from a worker that does not know of lives.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub life: String,
    pub assignment: Assignment,
    pub program: Program,
    pub conduct: Conduct,
    /// W3C trace context of the attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
}

/// The decision that a place carries out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Assignment {
    /// Kind of place: `local_root` or `local_user`.
    pub place: String,
    pub class: String,
    pub environment: String,
    pub limits: Limits,
    #[serde(default)]
    pub unenforced: Vec<String>,
    #[serde(default)]
    pub degraded: Vec<Degraded>,
    pub capacity_version: u64,
    pub capacity_taken_at_us: i64,
    #[serde(default)]
    pub reasons: Vec<String>,
}

/// A layer that may be missing, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Degraded {
    pub layer: String,
    pub reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Limits {
    pub wall_ms: u64,
    pub cpu_ms: u64,
    pub memory_bytes: u64,
    pub processes: u64,
    pub file_bytes: u64,
    pub disk_bytes: u64,
    pub disk_inodes: u64,
    pub output_bytes: u64,
    pub open_files: u64,
}

/// What is started. Its files lie beneath `/eval`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Program {
    /// What runs before it, if something does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<Build>,
    /// Left out where a build comes first: it stands there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub argv: Vec<String>,
    pub env: Vec<(String, String)>,
    /// Where it runs.
    #[serde(default = "work_dir")]
    pub cwd: String,
    pub files: Vec<File>,
    /// How many of the bytes after the files are stdin.
    pub stdin_bytes: u64,
}

/// What runs before a program, over the same files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Build {
    pub argv: Vec<String>,
    pub limits: Limits,
    /// The program's own. A dispatcher that knows of no builds misses it where it looks for it, and
    /// refuses the order, rather than run the program without one.
    pub then: Vec<String>,
}

/// Of a worker that knows of no other.
fn work_dir() -> String {
    "/eval".to_owned()
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct File {
    pub path: String,
    #[serde(default)]
    pub executable: bool,
    pub bytes: u64,
}

/// How the program is treated at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Conduct {
    /// Between SIGTERM and the kill.
    pub grace_ms: u64,
    /// Past `output_bytes` the program is ended; otherwise the rest is dropped.
    #[serde(default)]
    pub fail_on_output_limit: bool,
}
