//! The rules of CONTRIBUTING.md that a machine can hold.

use std::fmt;
use std::path::Path;

mod code;
mod crates;
mod expand;
mod licences;
mod markdown;
mod migrations;
mod source;
mod tree;

pub use migrations::record as record_migrations;
pub(crate) use tree::{File, Tree};

/// One breach of one rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// Relative to the repository.
    pub path: String,
    /// From 1; 0 where it is about the file as a whole.
    pub line: usize,
    pub message: String,
}

impl Finding {
    pub(crate) fn new(path: &str, line: usize, message: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, message: message.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, line, message } = self;
        if *line == 0 { write!(f, "{path}: {message}") } else { write!(f, "{path}:{line}: {message}") }
    }
}

/// Everything that is wrong in the checkout at `root`.
pub fn check(root: &Path) -> anyhow::Result<Vec<Finding>> {
    let tree = Tree::read(root)?;
    let mut findings = Vec::new();
    for file in &tree.files {
        findings.extend(source::check_text(file));
        if file.is_rust() {
            findings.extend(source::check_rust(file));
        }
    }
    findings.extend(source::check_boxes(&tree));
    findings.extend(markdown::check(&tree));
    findings.extend(migrations::check(root, &tree)?);
    findings.extend(expand::check(root, &tree));
    let metadata = crates::Metadata::read(root)?;
    findings.extend(crates::check(root, &tree, &metadata)?);
    findings.extend(licences::check(root, &metadata)?);
    findings.sort();
    Ok(findings)
}
