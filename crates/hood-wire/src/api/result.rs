use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How an evaluation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The main process ended with exit code 0; it says no more than that.
    Succeeded,
    /// The build before the program did not end with exit code 0; the program never ran.
    BuildFailed,
    /// Another exit code, or a signal, or no such command.
    Failed,
    /// `wall_ms` or `cpu_ms` was used up.
    TimedOut,
    /// The kernel's OOM killer struck in the program's group.
    OutOfMemory,
    /// A stream passed `output_bytes` with `on_output_limit: fail`.
    OutputLimit,
    /// The program entered the kernel in a way that the sandbox kills for.
    PolicyViolation,
    Cancelled,
    /// We failed, not the program.
    InfrastructureError,
}

/// What proves the verdict. A field that does not apply is null.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Evidence {
    /// The row of the precedence table that decided: `build`, `first_kill`, `oom_kill`, `violation`,
    /// `exec_error`, `wait_status`, `lost`, `cancelled_in_queue` or `refusal`.
    pub decided_by: String,
    /// The first cause that made us end the program.
    pub kill: Option<Kill>,
    /// The limit that was met.
    pub limit: Option<LimitHit>,
    /// OOM kills counted by the kernel in the program's group.
    pub oom_kills: u64,
    /// Forks that the process limit refused.
    pub forks_refused: u64,
    /// Why the program could not be started.
    pub exec_error: Option<ExecError>,
    /// Our record of the entry that was killed for.
    pub violation: Option<String>,
    /// Why no place could take it.
    pub refusal: Option<Refusal>,
    /// Why the last attempt was lost.
    pub lost: Option<Lost>,
    /// An attempt was lost after the program's first instruction: the program may be why.
    pub suspect: bool,
    /// Layers of isolation that it ran without (policy `development` only).
    pub degraded: Vec<Degraded>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Kill {
    /// `cancel`, `wall_time`, `cpu_time`, `stdout_limit`, `stderr_limit` or `sampled_memory`.
    pub cause: String,
    /// `agent`, or `supervisor` where the agent did not do it in time.
    pub by: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LimitHit {
    /// The limit's name, as in `limits`.
    pub name: String,
    pub allowed: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExecError {
    pub errno: i32,
    pub message: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Refusal {
    pub code: String,
    pub reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Lost {
    /// `infrastructure`, `own_death` or `suspect`; or `refused`, where no place could take it just now and
    /// nothing was tried.
    pub kind: String,
    pub reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Degraded {
    pub layer: String,
    pub reason: String,
}

/// The beginning of a stream, made safe to show, and how much there is of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Preview {
    /// Invalid UTF-8, control and bidirectional characters are replaced. The exact bytes are at
    /// `/stdout` and `/stderr`.
    pub preview: String,
    /// The preview leaves some of the kept bytes out.
    pub preview_truncated: bool,
    /// Bytes that the program wrote.
    pub bytes: u64,
    /// Bytes that were kept, from the first on.
    pub kept_bytes: u64,
    /// More was written than kept.
    pub truncated: bool,
    /// False where the last word of the place is missing: more may have been written.
    pub complete: bool,
}

/// What was used. A figure that nothing on this host could measure is null.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Usage {
    pub wall_ms: Option<f64>,
    pub cpu_user_ms: Option<f64>,
    pub cpu_system_ms: Option<f64>,
    pub memory_peak_bytes: Option<u64>,
    pub throttled_ms: Option<f64>,
    pub processes_peak: Option<u64>,
    /// Time in which the program stood still because its output was not read.
    pub blocked_ms: Option<f64>,
}
