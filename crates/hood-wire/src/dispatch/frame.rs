use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Limits;

/// One thing that a place says, or that the dispatcher says of the stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Frame {
    /// From 1 without gaps for what the place says; 0 for what is said of the stream itself.
    pub number: u64,
    #[serde(flatten)]
    pub body: FrameBody,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "frame", rename_all = "snake_case")]
pub enum FrameBody {
    /// Inputs are written and limits set. The acknowledgement of this releases the program.
    Ready { environment_digest: String },
    /// The bytes follow the frame's head.
    Output {
        /// `stdout`, `stderr`, or `build`: both of a build's.
        stream: String,
        offset: u64,
        #[serde(skip)]
        #[schema(ignore)]
        bytes: Vec<u8>,
    },
    /// The place's last word.
    Ended { seen: Box<Observation> },
    /// Nothing to say; the stream lives.
    Alive,
    /// Somebody with a higher token listens now. The stream ends.
    Stale,
    /// Another stream of the same token took this one's place. The stream ends.
    Replaced,
    /// Everything was said and acknowledged, or the place is proven dead. The stream ends.
    Closed,
}

/// Everything that was seen of the end. Facts only: the worker weighs them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Observation {
    #[serde(default)]
    pub wait: Option<WaitStatus>,
    #[serde(default)]
    pub exec_error: Option<ExecError>,
    #[serde(default)]
    pub kill: Option<Kill>,
    #[serde(default)]
    pub oom_kills: u64,
    #[serde(default)]
    pub forks_refused: u64,
    #[serde(default)]
    pub violation: Option<String>,
    /// Why the place's own last word is missing, where it is; the place is then proven dead.
    #[serde(default)]
    pub lost: Option<String>,
    #[serde(default)]
    pub usage: Usage,
    #[serde(default)]
    pub stdout: StreamEnd,
    #[serde(default)]
    pub stderr: StreamEnd,
    /// The build before it, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<Box<BuildSeen>>,
}

/// A build's end, and the limits that it ran under.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BuildSeen {
    pub limits: Limits,
    #[schema(no_recursion)]
    pub seen: Observation,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WaitStatus {
    Exited(u8),
    Signaled(u8),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExecError {
    pub errno: i32,
    pub message: String,
}

/// Why the program was ended, and whether the agent or the supervisor did it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Kill {
    pub cause: String,
    /// `agent` or `supervisor`.
    pub by: String,
}

/// Null where nothing could measure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Usage {
    #[serde(default)]
    pub wall_us: Option<u64>,
    #[serde(default)]
    pub cpu_user_us: Option<u64>,
    #[serde(default)]
    pub cpu_system_us: Option<u64>,
    #[serde(default)]
    pub memory_peak_bytes: Option<u64>,
    #[serde(default)]
    pub throttled_us: Option<u64>,
    #[serde(default)]
    pub processes_peak: Option<u64>,
    #[serde(default)]
    pub blocked_us: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StreamEnd {
    #[serde(default)]
    pub written: u64,
    #[serde(default)]
    pub kept: u64,
    #[serde(default)]
    pub complete: bool,
}
