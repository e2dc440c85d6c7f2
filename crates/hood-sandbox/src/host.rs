//! The half that lives in the server.

mod filter;
mod ids;
mod launcher;
mod maps;
mod place;
mod record;
mod report;

use std::io;
use std::path::PathBuf;

pub use filter::start_filter;
pub use ids::IdRange;
pub use launcher::{Launcher, LauncherConfig, PlaceSpec};
pub use place::{Gone, Layer, NotProvenDead, Place};
pub use record::{Buried, bury_leftovers};
pub use report::{Finding, HostReport, host_report};

/// Why a launcher or a place could not be made. Nothing of it is left behind then.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A step outside the place failed.
    #[error("cannot {step}{}", fix_hint(*.fix))]
    Host {
        /// What was being done.
        step: &'static str,
        /// What an operator can do about it.
        fix: Option<&'static str>,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A step inside the place failed.
    #[error("inside the place: cannot {step}{}", fix_hint(*.fix))]
    Inside {
        /// What was being done.
        step: String,
        /// What an operator can do about it.
        fix: Option<&'static str>,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The place ended or fell silent while it was being made.
    #[error("the place ended while it was being made (at: {0})")]
    Silent(&'static str),
    /// The image is not there.
    #[error("the root image {} cannot be entered", .path.display())]
    Image {
        /// The image's directory.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Every pair of host ids is in use.
    #[error("all {pairs} pairs of host ids are in use by live places; configure a larger range")]
    IdsExhausted {
        /// Pairs in the range.
        pairs: u32,
    },
    /// The host cannot isolate at all as this user.
    #[error("{what}; {fix}")]
    Unsupported {
        /// What is lacking.
        what: String,
        /// What an operator can do about it.
        fix: &'static str,
    },
    /// The launcher process has ended.
    #[error("the launcher has ended; start another")]
    LauncherGone,
}

fn fix_hint(fix: Option<&'static str>) -> String {
    fix.map(|fix| format!(" (to fix: {fix})")).unwrap_or_default()
}

impl Error {
    pub(crate) fn host(step: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Host { step, fix: None, source }
    }
}
