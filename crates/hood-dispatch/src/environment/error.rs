use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;

/// The oldest Python that images are made from.
pub const PYTHON_MINIMUM: (u32, u32) = (3, 8);

/// Why an environment cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum EnvironmentError {
    #[error("no environment is called `{name}`; there are: {}", known.join(", "))]
    Unknown { name: String, known: Vec<String> },
    #[error(
        "no `{interpreter}` {} on this host: install Python {}.{} or newer (Debian, Ubuntu: apt install python3; \
         Fedora: dnf install python3; Alpine: apk add python3), or name another interpreter",
        place(looked_in), PYTHON_MINIMUM.0, PYTHON_MINIMUM.1
    )]
    NoPython { interpreter: String, looked_in: Vec<PathBuf> },
    #[error("{} does not answer as a Python interpreter: {problem}", interpreter.display())]
    NotPython { interpreter: PathBuf, problem: String },
    #[error("{} did not say whether it is Python: {problem}", interpreter.display())]
    Silent { interpreter: PathBuf, problem: String },
    #[error("{} is {found}, and an image cannot be made from it: {problem}", interpreter.display())]
    Unsuitable { interpreter: PathBuf, found: String, problem: String },
    #[error("{} needs {library}, which is not on this host", wanted_by.display())]
    MissingLibrary { library: String, wanted_by: PathBuf },
    #[error("the image would have {found} {what}, more than the {maximum} that an image may have")]
    TooLarge { what: &'static str, found: u64, maximum: u64 },
    #[error(
        "`{name}` cannot name an environment: a name is made of a-z, 0-9 and -, begins without -, and has at most {} bytes",
        super::declaration::NAME_BYTES_MAX
    )]
    Name { name: String },
    #[error("environment `{name}` is declared already; import under another name")]
    Declared { name: String },
    #[error("the image of `{name}` is not whole any more, and it cannot be built here: import it again")]
    ImportAgain { name: String },
    #[error(
        "environment `{name}` is not locked: `fumehood env lock {name}` decides which packages it is made of"
    )]
    NotLocked { name: String },
    #[error(
        "its declaration was changed after it was locked: `fumehood env lock {name}` makes the lock anew"
    )]
    OtherLock { name: String },
    #[error("environment `{name}` is made of packages for {arch}, and this machine is {here}")]
    OtherMachine { name: String, arch: String, here: &'static str },
    #[error(
        "`python_version` is {declared}, and the packages have {}",
        if found.is_empty() {
            format!("no Python: add \"python{declared}\" to `debian`, or leave `python_version` out")
        } else {
            format!("{}: give the one that they have", found.join(" and "))
        }
    )]
    OtherPython { declared: String, found: Vec<String> },
    #[error("cannot get {what}: {why}")]
    Fetch { what: String, why: String },
    #[error(
        "{what} is not what was locked: its SHA-256 is {found}, and should be {wanted}; it was thrown away"
    )]
    WrongHash { what: String, wanted: String, found: String },
    #[error("package {name} cannot be unpacked: {why}")]
    Package { name: String, why: String },
    #[error("the image's own interpreter cannot compile its library: {why}")]
    Compile { why: String },
    #[error("no image can be made from this tree: {what}")]
    Tree { what: String },
    #[error("{} changed while it was copied: it was being upgraded, or removed; try again", path.display())]
    HostChanged { path: PathBuf },
    #[error("image {digest} is not what it was when it was built: {what}")]
    Corrupt { digest: String, what: String },
    #[error("cannot {step} {}", path.display())]
    Io {
        step: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl EnvironmentError {
    pub(super) fn io(step: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { step, path, source }
    }

    /// Whether trying again gives the same, until somebody mends the declaration or the host. What has to do
    /// with a network, a disk or a moment may pass.
    pub const fn lasts(&self) -> bool {
        match self {
            Self::Unknown { .. }
            | Self::NoPython { .. }
            | Self::NotPython { .. }
            | Self::Unsuitable { .. }
            | Self::MissingLibrary { .. }
            | Self::TooLarge { .. }
            | Self::Name { .. }
            | Self::Declared { .. }
            | Self::ImportAgain { .. }
            | Self::NotLocked { .. }
            | Self::OtherLock { .. }
            | Self::OtherMachine { .. }
            | Self::OtherPython { .. }
            | Self::Package { .. }
            | Self::Tree { .. } => true,
            Self::Silent { .. }
            | Self::Fetch { .. }
            | Self::WrongHash { .. }
            | Self::Compile { .. }
            | Self::HostChanged { .. }
            | Self::Corrupt { .. }
            | Self::Io { .. } => false,
        }
    }

    /// With all that led to it, for whoever gets text alone.
    pub fn reason(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(error) = source {
            // Writing to a String cannot fail.
            let _ = write!(text, ": {error}");
            source = error.source();
        }
        text
    }
}

fn place(looked_in: &[PathBuf]) -> String {
    if looked_in.is_empty() {
        return "is".to_owned();
    }
    let dirs: Vec<String> = looked_in.iter().map(|dir| dir.display().to_string()).collect();
    format!("in {}", dirs.join(":"))
}
