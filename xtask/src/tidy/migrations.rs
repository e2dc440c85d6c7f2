//! Migrations only append: one that a database somewhere has applied is never changed. Each is in
//! `xtask/migrations.lock` with its digest, and that file, too, only grows.

use std::path::Path;
use std::process::Command;

use anyhow::Context as _;

use super::{File, Finding, Tree};

pub(super) const LOCK: &str = "xtask/migrations.lock";

pub(super) fn check(root: &Path, tree: &Tree) -> anyhow::Result<Vec<Finding>> {
    let lock = tree.file(LOCK).map_or("", |file| file.text.as_str());
    let mut findings = compare(lock, tree);
    for earlier in history(root)? {
        findings.extend(grown(&earlier, lock));
    }
    findings.dedup();
    Ok(findings)
}

/// Appends the migrations that are not in the lock yet.
pub fn record(root: &Path) -> anyhow::Result<()> {
    let tree = Tree::read(root)?;
    let mut lock = tree.file(LOCK).map_or(String::new(), |file| file.text.clone());
    let new: Vec<&File> = migrations(&tree).filter(|file| digest_in(&lock, &file.path).is_none()).collect();
    for file in new {
        lock.push_str(&format!("{}  {}\n", digest(file), file.path));
        println!("recorded {}", file.path);
    }
    std::fs::write(root.join(LOCK), lock).with_context(|| format!("write {LOCK}"))
}

pub(super) fn migrations(tree: &Tree) -> impl Iterator<Item = &File> {
    tree.files.iter().filter(|file| file.has_extension("sql") && file.path.contains("/migrations/"))
}

fn digest(file: &File) -> String {
    blake3::hash(file.text.as_bytes()).to_hex().to_string()
}

fn digest_in<'a>(lock: &'a str, path: &str) -> Option<&'a str> {
    lock.lines()
        .filter_map(|line| line.split_once("  "))
        .find(|(_, known)| *known == path)
        .map(|(hex, _)| hex)
}

/// Whether a lock has it.
pub(super) fn recorded(lock: &str, path: &str) -> bool {
    digest_in(lock, path).is_some()
}

fn compare(lock: &str, tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in migrations(tree) {
        match digest_in(lock, &file.path) {
            None => {
                let message = "is not recorded yet: cargo xtask migrations";
                findings.push(Finding::new(&file.path, 0, message));
            }
            Some(recorded) if recorded != digest(file) => {
                let message = "was changed after it was recorded; add a migration instead";
                findings.push(Finding::new(&file.path, 0, message));
            }
            Some(_) => {}
        }
    }
    for (_, path) in lock.lines().filter_map(|line| line.split_once("  ")) {
        if tree.file(path).is_none() {
            findings.push(Finding::new(LOCK, 0, format!("{path} is recorded, but gone")));
        }
    }
    findings
}

fn grown(earlier: &str, lock: &str) -> Option<Finding> {
    let kept = lock.starts_with(earlier);
    (!kept).then(|| Finding::new(LOCK, 0, "lines that it once had were changed or removed"))
}

/// The lock as each commit that touched it left it; nothing where there is no git.
fn history(root: &Path) -> anyhow::Result<Vec<String>> {
    let git = |args: &[&str]| Command::new("git").args(args).current_dir(root).output().context("run git");
    let Ok(log) = git(&["log", "--format=%H", "--", LOCK]) else { return Ok(Vec::new()) };
    let mut versions = Vec::new();
    for commit in String::from_utf8_lossy(&log.stdout).lines() {
        let shown = git(&["show", &format!("{commit}:{LOCK}")])?;
        if shown.status.success() {
            versions.push(String::from_utf8_lossy(&shown.stdout).into_owned());
        }
    }
    Ok(versions)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = "crates/a/migrations/0001_initial.sql";

    fn tree(text: &str) -> Tree {
        Tree {
            files: vec![File { path: PATH.to_owned(), text: text.to_owned() }],
            paths: vec![PATH.to_owned()],
        }
    }

    #[test]
    fn a_recorded_migration_stays_as_it_is() {
        let recorded = tree("CREATE TABLE a (b BIGINT);\n");
        let lock = format!("{}  {PATH}\n", digest(&recorded.files[0]));
        assert_eq!(compare(&lock, &recorded), []);
        assert_eq!(compare("", &recorded).len(), 1, "not recorded");
        assert_eq!(compare(&lock, &tree("CREATE TABLE a (b TEXT);\n")).len(), 1, "changed");
        assert_eq!(compare(&lock, &Tree::default()).len(), 1, "gone");
    }

    #[test]
    fn the_lock_only_grows() {
        assert_eq!(grown("1  a\n", "1  a\n2  b\n"), None);
        assert!(grown("1  a\n", "3  a\n").is_some());
        assert!(grown("1  a\n", "").is_some());
    }
}
