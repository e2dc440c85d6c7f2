//! Licences of everything that is linked in, against the list in `deny.toml`: what cargo-deny does,
//! for machines that do not have it.

use std::path::Path;

use anyhow::Context as _;

use super::Finding;
use super::crates::Metadata;

pub(super) fn check(root: &Path, metadata: &Metadata) -> anyhow::Result<Vec<Finding>> {
    let text = std::fs::read_to_string(root.join("deny.toml")).context("read deny.toml")?;
    let table = text.parse::<toml::Table>().context("read deny.toml")?;
    let allowed = table
        .get("licenses")
        .and_then(|licences| licences.get("allow"))
        .and_then(toml::Value::as_array)
        .context("deny.toml has no licenses.allow")?;
    let allowed: Vec<&str> = allowed.iter().filter_map(toml::Value::as_str).collect();
    let mut findings = Vec::new();
    for package in &metadata.packages {
        let licence = package.license.as_deref().unwrap_or("none");
        if !permits(licence, &allowed) {
            let message = format!("{} {}: licence {licence} is not allowed", package.name, package.version);
            findings.push(Finding::new("Cargo.lock", 0, message));
        }
    }
    Ok(findings)
}

/// Whether an SPDX expression can be met with `allowed` licences alone.
fn permits(expression: &str, allowed: &[&str]) -> bool {
    // The old way to write OR.
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words: Vec<&str> = spaced.split_whitespace().rev().collect();
    any_of(&mut words, allowed) == Some(true) && words.is_empty()
}

// `words` are in reverse, so that the next one is the last. None: no expression.
fn any_of(words: &mut Vec<&str>, allowed: &[&str]) -> Option<bool> {
    let mut met = all_of(words, allowed)?;
    while words.last() == Some(&"OR") {
        words.pop();
        // Both sides are read, whatever the first one said.
        met |= all_of(words, allowed)?;
    }
    Some(met)
}

fn all_of(words: &mut Vec<&str>, allowed: &[&str]) -> Option<bool> {
    let mut met = one(words, allowed)?;
    while words.last() == Some(&"AND") {
        words.pop();
        met &= one(words, allowed)?;
    }
    Some(met)
}

fn one(words: &mut Vec<&str>, allowed: &[&str]) -> Option<bool> {
    let word = words.pop()?;
    if word == "(" {
        let met = any_of(words, allowed)?;
        return (words.pop()? == ")").then_some(met);
    }
    if words.last() == Some(&"WITH") {
        words.pop();
        let whole = format!("{word} WITH {}", words.pop()?);
        return Some(allowed.contains(&whole.as_str()));
    }
    Some(allowed.contains(&word))
}

#[cfg(test)]
mod tests {
    use super::permits;

    #[test]
    fn expressions_are_read_as_spdx_means_them() {
        let allowed = ["MIT", "Apache-2.0", "Unicode-3.0"];
        for sound in [
            "MIT",
            "GPL-3.0 OR MIT",
            "MIT/Apache-2.0",
            "(MIT OR GPL-3.0) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception OR MIT",
        ] {
            assert!(permits(sound, &allowed), "{sound}");
        }
        for unsound in [
            "",
            "GPL-3.0",
            "MIT AND GPL-3.0",
            "MIT OR",
            "(MIT",
            "Apache-2.0 WITH LLVM-exception",
            "GPL-3.0 AND MIT OR GPL-3.0",
            "MIT GPL-3.0",
        ] {
            assert!(!permits(unsound, &allowed), "{unsound}");
        }
    }
}
