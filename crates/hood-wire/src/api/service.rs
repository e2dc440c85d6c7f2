use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Version {
    pub name: String,
    pub version: String,
    pub api: String,
}

/// That a server is the one which announced itself in a data directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Proof {
    /// BLAKE3 of the challenge, keyed with what the server wrote beside its address.
    pub proof: String,
}

/// What waits and what runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct QueueStatus {
    /// Evaluations that are not terminal: state → number.
    pub states: BTreeMap<String, u64>,
    /// By state and priority, highest first.
    pub depth: Vec<QueueDepth>,
    pub oldest: Option<OldestQueued>,
    /// Queued evaluations beyond which submissions are refused with 503.
    pub queue_max: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct QueueDepth {
    pub state: super::State,
    pub priority: u8,
    pub count: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OldestQueued {
    pub id: String,
    pub age_ms: u64,
}

/// Whether each thing that a role needs is there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Health {
    pub status: CheckState,
    pub checks: Vec<Check>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Check {
    pub name: String,
    pub status: CheckState,
    /// What is wrong and what to do; empty where nothing is.
    pub detail: String,
    /// How long ago this was looked at; results are cached.
    pub age_ms: u64,
    pub took_ms: f64,
    /// How long ago it was last seen well; null if it never was. It is looked at only when somebody asks:
    /// where nobody did, this is the age of the last question.
    pub last_ok_age_ms: Option<u64>,
}

/// Health with the figures that explain it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HealthDetail {
    pub status: CheckState,
    pub checks: Vec<Check>,
    pub uptime_ms: u64,
    pub queue: QueueStatus,
    /// Leases that the worker of this process holds.
    pub leases_held: u64,
    /// How long ago the worker of this process last finished an evaluation; null if it never did.
    pub last_finished_age_ms: Option<u64>,
    /// The worker's last report of its places; null if there was none.
    pub capacity: Option<CapacityStatus>,
    pub storage: StorageStatus,
    /// The settings that decide what a commit outlives, by name, as the database itself reports them.
    pub durability: BTreeMap<String, String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CapacityStatus {
    pub version: u64,
    pub age_ms: u64,
    pub places: u32,
}

/// Bytes of database and blobs together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StorageStatus {
    pub used_bytes: u64,
    pub limit_bytes: u64,
    /// Kept back so that what was accepted can always be finished.
    pub reserve_bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CheckState {
    Ok,
    /// It works without this, and slower.
    Degraded,
    Failed,
}
