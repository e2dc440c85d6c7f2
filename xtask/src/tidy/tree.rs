//! The files of the checkout.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail};

/// One text file.
#[derive(Debug)]
pub(crate) struct File {
    /// Relative to the repository, `/` between components.
    pub(crate) path: String,
    pub(crate) text: String,
}

impl File {
    pub(crate) fn is_rust(&self) -> bool {
        self.has_extension("rs")
    }

    pub(crate) fn has_extension(&self, extension: &str) -> bool {
        Path::new(&self.path).extension().is_some_and(|found| found == extension)
    }

    pub(crate) fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }
}

#[derive(Debug, Default)]
pub(crate) struct Tree {
    /// Sorted by path.
    pub(crate) files: Vec<File>,
    /// Of every file, those that are no text too.
    pub(crate) paths: Vec<String>,
}

const CORPUS: &str = "fuzz/corpus/";

impl Tree {
    /// What git tracks or would track; everything that is not built where there is no git.
    pub(crate) fn read(root: &Path) -> anyhow::Result<Self> {
        let mut paths = match git_files(root) {
            Some(paths) => paths,
            None => walk(root)?,
        };
        paths.sort();
        let mut files = Vec::new();
        // What a fuzzer begins with is no text of ours, whatever its bytes look like.
        for path in paths.iter().filter(|path| !path.starts_with(CORPUS)) {
            let bytes = std::fs::read(root.join(path)).with_context(|| format!("read {path}"))?;
            if let Ok(text) = String::from_utf8(bytes) {
                files.push(File { path: path.clone(), text });
            }
        }
        if !files.iter().any(|file| file.path == "Cargo.toml") {
            bail!("{} is no checkout of this repository", root.display());
        }
        Ok(Self { files, paths })
    }

    pub(crate) fn file(&self, path: &str) -> Option<&File> {
        self.files.iter().find(|file| file.path == path)
    }
}

fn git_files(root: &Path) -> Option<Vec<String>> {
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let listed = text.split_terminator('\0').map(str::to_owned);
    // Deleted, but not yet for git.
    let paths: Vec<_> = listed.filter(|path| root.join(path).is_file()).collect();
    (output.status.success() && !paths.is_empty()).then_some(paths)
}

fn walk(root: &Path) -> anyhow::Result<Vec<String>> {
    const NOT_OURS: [&str; 4] = [".git", "target", "target-agent", "node_modules"];
    let mut paths = Vec::new();
    let mut pending = vec![String::new()];
    while let Some(directory) = pending.pop() {
        for entry in std::fs::read_dir(root.join(&directory)).context("list the checkout")? {
            let entry = entry?;
            let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
            let path = if directory.is_empty() { name.clone() } else { format!("{directory}/{name}") };
            let kind = entry.file_type()?;
            if kind.is_dir() && !NOT_OURS.contains(&name.as_str()) {
                pending.push(path);
            } else if kind.is_file() {
                paths.push(path);
            }
        }
    }
    Ok(paths)
}
