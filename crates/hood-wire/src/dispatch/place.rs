use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A place exists for the attempt: made by this call, or by an earlier one like it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Opened {
    pub version: u32,
    /// The dispatcher's name, as in its certificate.
    pub executor: String,
    /// The place lives on without this dispatcher, and another may have it then.
    #[serde(default)]
    pub outlives: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StatusRequest {
    /// Where the place is not here, this is a promise: no order or stream of this token or a lower one
    /// will be taken afterwards, however late it arrives.
    pub token: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Status {
    pub state: PlaceState,
    /// The place lives on without this dispatcher, and another may have it then.
    #[serde(default)]
    pub outlives: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PlaceState {
    Here,
    /// Proven dead, or never made.
    Gone,
}

/// Asks for the frames after `after`. Everything up to `acknowledged` is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Listen {
    pub token: u64,
    #[serde(default)]
    pub after: u64,
    #[serde(default)]
    pub acknowledged: u64,
}

/// Everything up to `number` is durable, and may be forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Acknowledge {
    pub token: u64,
    pub number: u64,
}

/// SIGTERM now, the kill after the grace; 0 kills at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Cancel {
    pub token: u64,
    pub grace_ms: u64,
}

/// Why a call was refused, as `application/problem+json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    #[serde(default)]
    pub title: String,
    pub status: u16,
    pub code: ProblemCode,
    #[serde(default)]
    pub detail: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProblemCode {
    /// No place of this attempt is here: it is proven dead, or was never made.
    Gone,
    /// A higher token was seen.
    Stale,
    /// The environment cannot be had, and trying again will not change that.
    Environment,
    /// No place can be made.
    Place,
    /// The place is still being made; the same call again waits on.
    Pending,
    /// What was sent is not understood.
    Malformed,
    TooLarge,
    /// The caller speaks a version that is too old or too new.
    Version,
    /// The caller's certificate does not give it this right.
    Forbidden,
    /// It is about to end, and takes nothing new.
    Draining,
    NotFound,
    /// One that this reader does not know.
    #[serde(other)]
    Unknown,
}

impl ProblemCode {
    pub const fn status(self) -> u16 {
        match self {
            Self::Gone => 410,
            Self::Stale => 409,
            Self::Environment => 422,
            Self::Place | Self::Pending | Self::Draining => 503,
            Self::Malformed => 400,
            Self::TooLarge => 413,
            Self::Version => 426,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::Unknown => 500,
        }
    }

    pub const fn title(self) -> &'static str {
        match self {
            Self::Gone => "no place of this attempt is here",
            Self::Stale => "a higher token was seen",
            Self::Environment => "the environment cannot be had",
            Self::Place => "no place can be made",
            Self::Pending => "the place is still being made",
            Self::Malformed => "what was sent is not understood",
            Self::TooLarge => "what was sent is too large",
            Self::Version => "this version is not spoken here",
            Self::Forbidden => "this role may not call a dispatcher",
            Self::Draining => "the dispatcher is about to end",
            Self::NotFound => "nothing is served here",
            Self::Unknown => "unknown",
        }
    }
}
