//! What an environment is said to be: `environments/*.toml`, read and held against its rules.

mod reader;

use std::collections::BTreeMap;
use std::fmt;
use std::fmt::Write as _;
use std::sync::Arc;

use hood_core::limits::Limits;
use hood_core::plan::{ExecutorClass, Isolation, SystemCalls};
use hood_core::program::Code;

use super::error::EnvironmentError;
use super::lock::Lock;
use reader::Reader;

/// The longest declaration that is read: ours has a few hundred bytes.
pub const DECLARATION_BYTES_MAX: usize = 64 * 1024;

/// The longest name; it becomes a file name.
pub const NAME_BYTES_MAX: usize = 63;

/// The longest description, and the longest line on security.
pub const DESCRIPTION_BYTES_MAX: usize = 500;

/// Where a root image comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// A copy of this host's Python, without what was installed into it.
    HostPython,
    /// Packages of Debian and of PyPI, by version and hash: the same image anywhere.
    Locked,
    /// An image that came from elsewhere; no file declares it.
    Imported,
}

impl Base {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::HostPython => "host-python",
            Self::Locked => "locked",
            Self::Imported => "imported",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        [Self::HostPython, Self::Locked, Self::Imported].into_iter().find(|base| base.as_str() == text)
    }

    /// Whether the same declaration gives the same image on another machine.
    pub const fn is_portable(self) -> bool {
        match self {
            Self::HostPython => false,
            Self::Locked | Self::Imported => true,
        }
    }
}

/// What a locked environment is made of, as asked for; its lock says to the byte.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Packages {
    /// Debian's name for the release: `bookworm`.
    pub release: String,
    /// Debian packages; what they depend on comes with them.
    pub debian: Vec<String>,
    /// `3.11`, where there are Python packages.
    pub python_version: Option<String>,
    /// As pip takes them: `numpy==2.1.0`.
    pub python: Vec<String>,
    /// Links that Debian makes when it installs, by their paths in the image.
    pub links: BTreeMap<String, String>,
}

/// One environment, as declared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declaration {
    pub name: String,
    /// What it is for.
    pub description: String,
    /// What holds its programs, in a line.
    pub security: Option<String>,
    pub base: Base,
    pub isolation: Isolation,
    pub system_calls: SystemCalls,
    /// For `host-python`, a name to look for on PATH, or an absolute path; for `locked`, the Debian
    /// package whose version is the environment's.
    pub interpreter: String,
    pub packages: Packages,
    /// How `code` is run; `None` where it cannot be, without a command.
    pub code: Option<Code>,
    /// Of a locked one; `None` until it is locked.
    pub lock: Option<Arc<Lock>>,
    /// Complete: what the declaration leaves out is our own default, within `maximum_limits`.
    pub default_limits: Limits,
    /// Complete: what the declaration leaves out is our own maximum.
    pub maximum_limits: Limits,
    pub allowed_classes: Vec<ExecutorClass>,
}

/// Everything that is wrong with one declaration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeclarationError {
    pub file: String,
    /// In the order of the lines; never empty.
    pub problems: Vec<Problem>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// From 1.
    pub line: usize,
    /// The key with the tables it lies in (`default_limits.wall_ms`); empty where none is at fault.
    pub key: String,
    pub problem: String,
}

impl fmt::Display for DeclarationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, Problem { line, key, problem }) in self.problems.iter().enumerate() {
            let separator = if i == 0 { "" } else { "\n" };
            let colon = if key.is_empty() { "" } else { ": " };
            write!(f, "{separator}{}:{line}: {key}{colon}{problem}", self.file)?;
        }
        Ok(())
    }
}

impl std::error::Error for DeclarationError {}

impl Declaration {
    /// Reads one declaration. `file` names it in errors, and its stem must be the environment's
    /// name, so that whoever sees the name finds the file.
    pub fn parse(text: &str, file: &str) -> Result<Self, DeclarationError> {
        let mut reader = Reader { text, problems: Vec::new() };
        let declaration = reader.declaration(file);
        let mut problems = reader.problems;
        problems.sort_by_key(|problem| problem.line);
        match declaration {
            Some(declaration) if problems.is_empty() => Ok(declaration),
            _ => Err(DeclarationError { file: file.to_owned(), problems }),
        }
    }

    /// Names what an image is made from. Limits and classes are not in it: changing them changes no
    /// byte of an image.
    pub(super) fn build_key(&self) -> String {
        let mut key = format!("{}\n{}", self.base.as_str(), self.interpreter);
        for (path, target) in &self.packages.links {
            // Writing to a String cannot fail.
            let _ = write!(key, "\n{path} {target}");
        }
        if let Some(lock) = &self.lock {
            let _ = write!(key, "\n{}", blake3::hash(lock.text().as_bytes()));
        }
        key
    }

    /// Names what a lock must be of.
    pub fn request(&self) -> String {
        let Packages { release, debian, python_version, python, links: _ } = &self.packages;
        let python_version = python_version.as_deref().unwrap_or_default();
        let text = format!("{release}\n{}\n{python_version}\n{}", debian.join(" "), python.join(" "));
        blake3::hash(text.as_bytes()).to_hex().to_string()
    }

    /// The lock, if it is of what is asked for now. An image of an older request would be another than
    /// the declaration says.
    pub(super) fn own_lock(&self) -> Result<&Arc<Lock>, EnvironmentError> {
        let name = || self.name.clone();
        let lock = self.lock.as_ref().ok_or_else(|| EnvironmentError::NotLocked { name: name() })?;
        if lock.request == self.request() {
            Ok(lock)
        } else {
            Err(EnvironmentError::OtherLock { name: name() })
        }
    }

    /// Why no image may be had of it, however many lie there.
    pub(super) fn refusal(&self) -> Option<EnvironmentError> {
        match self.base {
            Base::Locked => self.own_lock().err(),
            Base::HostPython | Base::Imported => None,
        }
    }

    /// With the text of its lock file, which `file` names in errors.
    pub fn with_lock(mut self, text: &str, file: &str) -> Result<Self, DeclarationError> {
        let lock = Lock::parse(text).map_err(|problem| DeclarationError {
            file: file.to_owned(),
            problems: vec![Problem { line: 1, key: String::new(), problem }],
        })?;
        self.lock = Some(Arc::new(lock));
        Ok(self)
    }
}

/// A declaration that comes with this binary: its file, its text, and its lock.
type Builtin = (&'static str, &'static str, Option<&'static str>);

/// One with a lock, by its name.
macro_rules! locked {
    ($name:literal) => {
        (
            concat!("environments/", $name, ".toml"),
            include_str!(concat!("../../../../environments/", $name, ".toml")),
            Some(include_str!(concat!("../../../../environments/", $name, ".lock"))),
        )
    };
}

const BUILTIN: [Builtin; 11] = [
    ("environments/minimal.toml", include_str!("../../../../environments/minimal.toml"), None),
    locked!("data"),
    locked!("ml"),
    locked!("shell"),
    locked!("node"),
    locked!("c"),
    locked!("cpp"),
    locked!("rust"),
    locked!("go"),
    locked!("sandbox"),
    locked!("gpu"),
];

/// The declarations that come with this binary.
pub fn builtin() -> Result<Vec<Declaration>, DeclarationError> {
    let read = |(file, text, lock): Builtin| {
        let declaration = Declaration::parse(text, file)?;
        match lock {
            Some(lock) => declaration.with_lock(lock, &file.replace(".toml", ".lock")),
            None => Ok(declaration),
        }
    };
    BUILTIN.into_iter().map(read).collect()
}

/// Whether an environment may be called that: the name becomes a file name.
pub fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    name.bytes().all(|byte| plain(byte) || byte == b'-')
        && name.bytes().next().is_some_and(plain)
        && name.len() <= NAME_BYTES_MAX
}
