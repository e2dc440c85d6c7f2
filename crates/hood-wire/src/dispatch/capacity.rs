use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Limits;

/// One look at everything that a dispatcher offers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Catalogue {
    pub version: u32,
    /// The dispatcher's name, as in its certificate.
    pub executor: String,
    /// Another one after each start.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub life: String,
    /// Rises whenever something in the catalogue changes.
    pub revision: u64,
    /// One for each kind of place that it has.
    pub capacities: Vec<Capacity>,
    pub environments: Vec<Environment>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Capacity {
    pub version: u64,
    pub taken_at_us: i64,
    /// Kind of place: `local_root` or `local_user`.
    pub place: String,
    pub classes: Vec<String>,
    /// Layers proven by making a real place and looking.
    pub proven: Vec<String>,
    #[serde(default)]
    pub unproven: Vec<Unproven>,
    pub memory_bytes_max: u64,
    /// Evaluations that can run at once; 0 while it is about to end.
    pub places: u32,
    /// Of these, how many nothing runs in.
    pub free: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Unproven {
    pub layer: String,
    pub reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Environment {
    pub name: String,
    #[serde(default)]
    pub description: String,
    #[serde(default)]
    pub security: Option<String>,
    pub base: String,
    /// The isolation that it asks for: `namespace` or `gvisor`.
    pub isolation: String,
    /// Which system calls its programs may make: `ordinary` or `least`. An older dispatcher knows no
    /// others than ordinary ones, and says nothing.
    #[serde(default = "ordinary")]
    pub system_calls: String,
    pub allowed_classes: Vec<String>,
    #[serde(default)]
    pub packages: Vec<Package>,
    /// How `code` is run; left out where it is Python, or cannot be run without a command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<Code>,
    /// Of an imported image: how it wants its programs started.
    #[serde(default)]
    pub image: Option<ImportedImage>,
    pub default_limits: Limits,
    pub maximum_limits: Limits,
    pub state: EnvironmentState,
    /// How far the build has come, while it is `building`.
    #[serde(default)]
    pub progress: Option<Progress>,
    #[serde(default)]
    pub digest: Option<String>,
    #[serde(default)]
    pub size_bytes: Option<u64>,
    #[serde(default)]
    pub interpreter: Option<String>,
    /// Why the build failed, where it did.
    #[serde(default)]
    pub error: Option<String>,
    /// Trying again gives the same error: its declaration must be mended first.
    #[serde(default)]
    pub error_lasts: bool,
}

fn ordinary() -> String {
    "ordinary".to_owned()
}

/// How source text is run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Code {
    pub file: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<Vec<String>>,
    pub run: Vec<String>,
}

/// What a dispatcher knows of an image that was imported there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImportedImage {
    pub reference: String,
    pub source_digest: String,
    #[serde(default)]
    pub entrypoint: Vec<String>,
    #[serde(default)]
    pub command: Vec<String>,
    #[serde(default)]
    pub env: Vec<(String, String)>,
    #[serde(default)]
    pub workdir: Option<String>,
    #[serde(default)]
    pub user: Option<String>,
    #[serde(default)]
    pub has_python: bool,
}

/// Totals are 0 while they are not known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Progress {
    pub stage: String,
    pub files_done: u64,
    pub files_total: u64,
    pub bytes_done: u64,
    pub bytes_total: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Package {
    pub name: String,
    pub version: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EnvironmentState {
    NotBuilt,
    Building,
    Ready,
    Failed,
}
