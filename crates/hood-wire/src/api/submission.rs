use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::names::distinct;

/// What to run, and under which limits. Give `code`, or `files` with a `command`, or both.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"code": "print(6 * 7)"}))]
pub struct Submission {
    /// Source text. In an environment with Python it becomes `/eval/main.py` and is run as `python3
    /// main.py ARGS…`; each environment says in `code` how it is called, built and run. Not run where
    /// `command` says otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Files written beneath `/eval` before the program starts. None may have the path that `code` is
    /// written to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<InputFile>,
    /// What runs before the program, in the same place and over the same files, under limits of its
    /// own. One that does not end with exit code 0 is the verdict `build_failed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub build: Option<Build>,
    /// The program and its first arguments; any executable, looked up on `PATH` if it has no `/`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// Arguments after `main.py`, or after `command`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Standard input as text. At most one of `stdin` and `stdin_base64`; none means empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stdin: Option<String>,
    /// Standard input as standard base64, for bytes that are not text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stdin_base64: Option<String>,
    /// Environment variables added to the base environment.
    #[serde(default, deserialize_with = "distinct", skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Name of the environment; the server's default if none is named. `GET /v1/environments` lists those that the
    /// server has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub environment: Option<String>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub limits: LimitsRequest,
    #[serde(default, skip_serializing_if = "is_default")]
    pub network: Network,
    /// 0 to 9; higher goes first. Default 5.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 9)]
    pub priority: Option<u8>,
    /// Free text to find evaluations by.
    #[serde(default, deserialize_with = "distinct", skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Sets the grace between SIGTERM and the kill at a deadline or cancel: 30, 10, 5 and 2 s.
    #[serde(default, skip_serializing_if = "is_default")]
    pub risk_level: RiskLevel,
    /// Overrides the grace of `risk_level`, milliseconds, within the operator's bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub on_output_limit: OnOutputLimit,
    /// An `http://` or `https://` URL that is told, by a signed POST, when the evaluation has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub callback_url: Option<String>,
}

/// A build before the program.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Build {
    /// The program that builds and its arguments. Left out, the environment's own way to build `code`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// Its own. `disk_bytes` and `disk_inodes` are the whole evaluation's, and named there.
    #[serde(default, skip_serializing_if = "is_default")]
    pub limits: LimitsRequest,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// One file beneath `/eval`: `content` or `content_base64`, exactly one of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InputFile {
    /// Relative, `/` between components, no `.` or `..`.
    pub path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_base64: Option<String>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub executable: bool,
}

/// Limits asked for. One left out is the environment's default; one above the maximum is refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LimitsRequest {
    /// Wall time from the program's start, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wall_ms: Option<u64>,
    /// CPU time of all processes together, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_ms: Option<u64>,
    /// Memory of all processes together and of what they write, bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Processes and threads at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub processes: Option<u64>,
    /// The largest single file, bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_bytes: Option<u64>,
    /// All files together, bytes; not more than `memory_bytes`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_bytes: Option<u64>,
    /// Files and directories.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_inodes: Option<u64>,
    /// Output kept of each of stdout and stderr, bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_bytes: Option<u64>,
    /// Open files of each process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub open_files: Option<u64>,
}

/// Which network the program sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    #[default]
    None,
}

/// How far the submitter trusts the code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RiskLevel {
    Low,
    Medium,
    #[default]
    High,
    Critical,
}

/// What happens once a stream passes `output_bytes`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnOutputLimit {
    /// The rest is read, counted and dropped; the verdict is the program's.
    #[default]
    Truncate,
    /// The program is killed; the verdict is `output_limit`.
    Fail,
}

/// How to cancel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CancelRequest {
    /// Time between SIGTERM and the kill, milliseconds; 0 kills at once. The evaluation's own grace
    /// if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace_ms: Option<u64>,
}
