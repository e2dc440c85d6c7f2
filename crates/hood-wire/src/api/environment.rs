use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Limits;

/// What code runs in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Environment {
    pub name: String,
    pub description: String,
    pub state: EnvironmentState,
    /// Content digest of the built image; null until it is built.
    pub digest: Option<String>,
    pub size_bytes: Option<u64>,
    /// Where the image comes from: `host-python`.
    pub base: String,
    /// The interpreter's version, once built.
    pub interpreter: Option<String>,
    pub packages: Vec<Package>,
    pub default_limits: Limits,
    pub maximum_limits: Limits,
    pub allowed_classes: Vec<String>,
    /// The one that is used when a submission names none.
    pub default: bool,
    /// Why the build failed, where it did.
    pub error: Option<String>,
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
