//! How far a build has come.

use std::cell::Cell;

/// What is being done, in this order; `Waiting` only while somebody else builds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Waiting,
    /// The host's Python is asked and its library listed; how much there is to copy is not known.
    Looking,
    Copying,
    /// Packages come from where they are kept.
    Downloading,
    /// They are read, confined, and their files are written.
    Unpacking,
    /// The image's own interpreter makes bytecode in a sandbox.
    Compiling,
    /// What was built earlier is read again and compared with its digest.
    Checking,
}

impl Stage {
    pub const ALL: [Self; 7] = [
        Self::Waiting,
        Self::Looking,
        Self::Copying,
        Self::Downloading,
        Self::Unpacking,
        Self::Compiling,
        Self::Checking,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting for another build",
            Self::Looking => "looking at the host's Python",
            Self::Copying => "copying",
            Self::Downloading => "downloading",
            Self::Unpacking => "unpacking",
            Self::Compiling => "compiling",
            Self::Checking => "checking",
        }
    }
}

/// One step of a build. Totals are 0 while they are not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    pub stage: Stage,
    pub files_done: u64,
    pub files_total: u64,
    pub bytes_done: u64,
    pub bytes_total: u64,
}

impl Progress {
    /// How much of this stage is done, where that is known.
    pub fn percent(&self) -> Option<u8> {
        let (done, total) = match (self.bytes_total, self.files_total) {
            (0, 0) => return None,
            (0, files) => (self.files_done, files),
            (bytes, _) => (self.bytes_done, bytes),
        };
        u8::try_from(done.min(total).saturating_mul(100) / total).ok()
    }

    pub(super) const fn at(stage: Stage, files_total: u64, bytes_total: u64) -> Self {
        Self { stage, files_done: 0, files_total, bytes_done: 0, bytes_total }
    }
}

/// Counts, and tells.
pub(super) struct Meter<'a> {
    progress: Cell<Progress>,
    tell: &'a dyn Fn(Progress),
}

impl<'a> Meter<'a> {
    pub(super) fn start(start: Progress, tell: &'a dyn Fn(Progress)) -> Self {
        tell(start);
        Self { progress: Cell::new(start), tell }
    }

    pub(super) fn file(&self, bytes: u64) {
        let mut progress = self.progress.get();
        progress.files_done += 1;
        progress.bytes_done += bytes;
        self.progress.set(progress);
        (self.tell)(progress);
    }
}
