//! Linux isolation for the namespace tier: what makes a place, what holds it, and what proves that
//! nothing of it is left.
//!
//! The two halves never share a process. The **host** half ([`Launcher`], [`Place`]) lives in the
//! server: it creates cgroups, maps ids, samples, kills, proves. The **inside** half ([`inside`])
//! is linked into `hood-agent` only: it builds the root, drops privileges and starts the program.
//! Between them stands the launcher, a process of the agent's binary that was executed and not
//! forked from the server, so that no byte of the server's memory is ever in a place.
//!
//! Apart from both, a [`Recluse`] is a process that works on hostile bytes without a place.
//!
//! All of it is synchronous. `docs/sandbox.md` says which mechanism answers which attack.

mod cgroup;
mod host;
pub mod inside;
mod packets;
mod protocol;
mod recluse;
mod sys;

pub use cgroup::{BuildLimits, GroupLimits, OomWatch, Phase, Sample};
pub use host::{
    Buried, Error, Finding, Gone, HostReport, IdRange, Launcher, LauncherConfig, Layer, NotProvenDead, Place,
    PlaceSpec, bury_leftovers, host_report, start_filter,
};
pub use protocol::SystemCalls;
pub use recluse::Recluse;
