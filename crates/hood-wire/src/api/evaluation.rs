use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Evidence, Preview, RiskLevel, Usage, Verdict};

/// Where an evaluation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Queued,
    Provisioning,
    Running,
    Succeeded,
    Failed,
    Cancelled,
}

impl State {
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

/// One evaluation: the same document in the API, the CLI's `-o json` and batch results.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Evaluation {
    /// `ev_` and 32 lowercase hexadecimal digits.
    pub id: String,
    pub state: State,
    /// Null until the state is terminal.
    pub verdict: Option<Verdict>,
    /// Null while there is none, and where a signal ended the program.
    pub exit_code: Option<u8>,
    /// The number of the signal that ended the program. With the verdict `build_failed` both are the
    /// build's, and so are `evidence` and its limit.
    pub signal: Option<u8>,
    /// Null until the state is terminal.
    pub evidence: Option<Evidence>,
    /// The build before the program; null where there is none.
    #[serde(default)]
    pub build: Option<BuildReport>,
    pub stdout: Preview,
    pub stderr: Preview,
    pub environment: EnvironmentRef,
    pub limits: Limits,
    pub risk_level: RiskLevel,
    pub grace_ms: u64,
    pub priority: u8,
    pub usage: Usage,
    pub timings: Timings,
    /// Every attempt that was begun, oldest first.
    pub attempts: Vec<AttemptSummary>,
    pub labels: BTreeMap<String, String>,
    pub batch: Option<String>,
    /// A cancel was asked for.
    pub cancel_requested: bool,
    /// RFC 3339, UTC, as all times are.
    pub created_at: String,
    /// When the current attempt was leased.
    pub leased_at: Option<String>,
    /// When the program of the current attempt was released.
    pub started_at: Option<String>,
    pub finished_at: Option<String>,
    /// It has left the database for the archive: it answers by its id, and is in no list.
    #[serde(default)]
    pub archived: bool,
}

/// What became of a build.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BuildReport {
    /// How the build itself ended, in the words of a program's verdict; null until the evaluation's
    /// state is terminal, and where nothing says.
    pub verdict: Option<Verdict>,
    pub exit_code: Option<u8>,
    pub signal: Option<u8>,
    pub evidence: Option<Evidence>,
    /// What it wrote to stdout and stderr, in the order in which that was read. The exact bytes are at
    /// `/build`.
    pub output: Preview,
    pub limits: Limits,
    pub usage: Usage,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EnvironmentRef {
    pub name: String,
    /// Content digest of the image that it ran in; null until a place was chosen.
    pub digest: Option<String>,
}

/// Limits as enforced. Null where the place could not hold one (policy `development` only).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Limits {
    pub wall_ms: Option<u64>,
    pub cpu_ms: Option<u64>,
    pub memory_bytes: Option<u64>,
    pub processes: Option<u64>,
    pub file_bytes: Option<u64>,
    pub disk_bytes: Option<u64>,
    pub disk_inodes: Option<u64>,
    pub output_bytes: Option<u64>,
    pub open_files: Option<u64>,
}

/// How long each stage took, milliseconds; null for one that was not reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Timings {
    /// From acceptance to the lease of the current attempt.
    pub queued_ms: Option<f64>,
    /// From that lease to the program's release.
    pub provisioning_ms: Option<f64>,
    /// From the release to the end.
    pub running_ms: Option<f64>,
    /// From acceptance to the end.
    pub total_ms: Option<f64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AttemptSummary {
    pub number: u32,
    pub leased_at: String,
    pub started_at: Option<String>,
    pub ended_at: Option<String>,
    /// Why it was lost; null for one that ended or is under way.
    pub lost: Option<super::Lost>,
    /// How its place was chosen.
    pub decision: Option<Decision>,
}

/// What the decision engine decided, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Decision {
    /// Kind of place: `local_root` or `local_user`.
    pub place: String,
    pub class: String,
    pub environment_digest: Option<String>,
    pub reasons: Vec<String>,
    /// Which capacity report it rests on, and that report's age.
    pub capacity_version: u64,
    pub capacity_age_ms: u64,
}

/// One page, newest first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EvaluationList {
    pub items: Vec<EvaluationSummary>,
    /// Pass it as `cursor` for the next page; null on the last.
    pub next_cursor: Option<String>,
}

/// One evaluation in a list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EvaluationSummary {
    pub id: String,
    pub state: State,
    pub verdict: Option<Verdict>,
    pub exit_code: Option<u8>,
    pub signal: Option<u8>,
    pub environment: String,
    pub priority: u8,
    pub attempts: u32,
    pub labels: BTreeMap<String, String>,
    pub batch: Option<String>,
    pub created_at: String,
    pub started_at: Option<String>,
    pub finished_at: Option<String>,
}
