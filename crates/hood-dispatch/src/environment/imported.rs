//! What is remembered of an image that came from elsewhere: enough to declare an environment.

use std::fs;
use std::path::{Path, PathBuf};

use hood_core::limits::Limits;
use hood_core::plan::{ExecutorClass, Isolation, SystemCalls};
use hood_core::program::Code;
use serde::{Deserialize, Serialize};

use super::declaration::{Base, DESCRIPTION_BYTES_MAX, Declaration, Packages, is_name};
use super::error::EnvironmentError;
use super::library::files::{children, replace};

/// An image as its maker described it. All of it was written by strangers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Imported {
    /// Where it came from: a reference in a registry, or a file's name.
    pub reference: String,
    /// The digest that names it there.
    pub source_digest: String,
    #[serde(default)]
    pub entrypoint: Vec<String>,
    #[serde(default)]
    pub command: Vec<String>,
    /// In the image's order.
    #[serde(default)]
    pub env: Vec<(String, String)>,
    #[serde(default)]
    pub workdir: Option<String>,
    #[serde(default)]
    pub user: Option<String>,
    /// Whether `python3` is on its PATH.
    #[serde(default)]
    pub has_python: bool,
}

impl Imported {
    pub(super) fn path(library: &Path, name: &str) -> PathBuf {
        library.join("imported").join(format!("{name}.json"))
    }

    pub(super) fn read(library: &Path, name: &str) -> Option<Self> {
        // The name becomes a path.
        let text = is_name(name).then(|| fs::read(Self::path(library, name)).ok())??;
        serde_json::from_slice(&text).ok()
    }

    pub(super) fn write(&self, library: &Path, name: &str) -> Result<(), EnvironmentError> {
        let path = Self::path(library, name);
        let text = serde_json::to_vec_pretty(self)
            .map_err(|error| EnvironmentError::io("write", &path)(std::io::Error::other(error)))?;
        replace(&path, &text)
    }

    /// Every imported environment, in the order of the names.
    pub(super) fn all(library: &Path) -> Vec<Declaration> {
        let paths = children(&library.join("imported")).unwrap_or_default();
        let names = paths.iter().filter_map(|path| path.file_name()?.to_str()?.strip_suffix(".json"));
        let mut all: Vec<Declaration> =
            names.filter_map(|name| Some(Self::read(library, name)?.declaration(name))).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    pub(super) fn declaration(&self, name: &str) -> Declaration {
        let mut description = format!("Imported from {}", self.reference);
        description.retain(|char| !char.is_control());
        description.truncate(description.floor_char_boundary(DESCRIPTION_BYTES_MAX));
        Declaration {
            name: name.to_owned(),
            description,
            security: Some(
                "As trustworthy as whoever made the image; its programs are held like any other".into(),
            ),
            base: Base::Imported,
            isolation: Isolation::Namespace,
            system_calls: SystemCalls::Ordinary,
            interpreter: self.source_digest.clone(),
            packages: Packages::default(),
            code: self.has_python.then(Code::python),
            lock: None,
            default_limits: Limits::DEFAULT,
            maximum_limits: Limits::MAXIMUM,
            allowed_classes: vec![ExecutorClass::Cpu],
        }
    }
}
