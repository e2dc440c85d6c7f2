use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Limits;

/// What code runs in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Environment {
    pub name: String,
    /// What it is for.
    pub description: String,
    /// What holds its programs, in a line.
    #[serde(default)]
    pub security: Option<String>,
    pub state: EnvironmentState,
    /// How far the build has come, while it is `building`.
    #[serde(default)]
    pub progress: Option<BuildProgress>,
    /// Content digest of the built image; null until it is built.
    pub digest: Option<String>,
    pub size_bytes: Option<u64>,
    /// Where the image comes from: `host-python`, or `imported`.
    pub base: String,
    /// The isolation that it asks for: `namespace` or `gvisor`.
    #[serde(default = "namespace")]
    pub isolation: String,
    /// Which system calls its programs may make: `ordinary` or `least`.
    #[serde(default = "ordinary")]
    pub system_calls: String,
    /// Whether the image can be had on another machine with the same digest.
    #[serde(default)]
    pub portable: bool,
    /// The interpreter's version, once built.
    pub interpreter: Option<String>,
    pub packages: Vec<Package>,
    /// How `code` is run; null where it cannot be, without a `command`.
    #[serde(default)]
    pub code: Option<CodeStart>,
    /// Of an imported image: what it is, and how it wants its programs started.
    #[serde(default)]
    pub image: Option<ForeignImage>,
    pub default_limits: Limits,
    pub maximum_limits: Limits,
    pub allowed_classes: Vec<String>,
    /// The one that is used when a submission names none.
    pub default: bool,
    /// Why the build failed, where it did.
    pub error: Option<String>,
    /// Trying again gives the same error: its declaration must be mended first, and until then a submission
    /// that names it is refused for good.
    #[serde(default)]
    pub error_lasts: bool,
}

/// How source text becomes a program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CodeStart {
    /// What `code` is called beneath `/eval`.
    pub file: String,
    /// What builds it, where something must; null where it runs as it is.
    pub build: Option<Vec<String>>,
    /// What runs, with `args` behind it.
    pub run: Vec<String>,
}

/// An image that came from elsewhere, in its maker's words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ForeignImage {
    /// Where it came from: a reference in a registry, or a file's name.
    pub reference: String,
    /// The digest that names it there.
    pub source_digest: String,
    /// What runs where a submission has neither `code` nor `command`.
    pub entrypoint: Vec<String>,
    /// The entrypoint's arguments, where a submission has none.
    pub command: Vec<String>,
    /// Its variables; those of a submission are set over them.
    pub env: Vec<Variable>,
    /// Where the entrypoint runs.
    pub workdir: Option<String>,
    /// The user that it names. Programs run as the place's own, whatever it says.
    pub user: Option<String>,
    /// Whether `code` alone can run: `python3` is on its PATH.
    pub has_python: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Variable {
    pub name: String,
    pub value: String,
}

fn ordinary() -> String {
    "ordinary".to_owned()
}

fn namespace() -> String {
    "namespace".to_owned()
}

/// How far a build has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BuildProgress {
    /// What is being done, in words.
    pub stage: String,
    /// Of this stage; null while it is not known how much there is to do.
    pub percent: Option<u8>,
    pub files_done: u64,
    /// 0 while it is not known.
    pub files_total: u64,
    pub bytes_done: u64,
    /// 0 while it is not known.
    pub bytes_total: u64,
}

/// The build of an environment that an evaluation waits for: news of the moment, without a number,
/// which is sent beside events and kept by nobody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Building {
    pub environment: String,
    pub progress: BuildProgress,
}

impl Building {
    /// What such a message of an event stream is called.
    pub const EVENT: &str = "building";
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EnvironmentState {
    NotBuilt,
    Building,
    Ready,
    Failed,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Package {
    pub name: String,
    pub version: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EnvironmentList {
    pub items: Vec<Environment>,
    pub next_cursor: Option<String>,
}
