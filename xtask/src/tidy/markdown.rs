//! Links between the pages of the repository lead somewhere.

use super::{Finding, Tree};

pub(super) fn check_links(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.files.iter().filter(|file| file.has_extension("md")) {
        for (line, target) in links(&file.text) {
            if let Some(problem) = problem(tree, &file.path, &target) {
                findings.push(Finding::new(&file.path, line, format!("link `{target}`: {problem}")));
            }
        }
    }
    findings
}

/// Every `](target)` outside code, with its line.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut in_code = false;
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if in_code {
            continue;
        }
        // Between backticks there are no links: every other piece.
        let prose = line.split('`').step_by(2).collect::<Vec<_>>().join("``");
        for rest in prose.split("](").skip(1) {
            if let Some((target, _)) = rest.split_once(')') {
                found.push((index + 1, target.to_owned()));
            }
        }
    }
    found
}

fn problem(tree: &Tree, from: &str, target: &str) -> Option<&'static str> {
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
    let path = if path.is_empty() { from.to_owned() } else { resolve(from, path) };
    let is_directory = tree.paths.iter().any(|known| known.starts_with(&format!("{path}/")));
    if !is_directory && !tree.paths.contains(&path) {
        return Some("no such file");
    }
    let page = tree.file(&path)?;
    if anchor.is_empty() || anchors(&page.text).iter().any(|known| known == anchor) {
        return None;
    }
    Some("no such heading")
}

fn resolve(from: &str, path: &str) -> String {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in path.trim_end_matches('/').split('/') {
        match part {
            "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// What the headings of a page are called in links to them.
fn anchors(text: &str) -> Vec<String> {
    let mut in_code = false;
    let mut anchors = Vec::new();
    for line in text.lines() {
        if line.starts_with("```") {
            in_code = !in_code;
        }
        if !in_code && line.starts_with('#') {
            let heading = line.trim_start_matches('#').trim().to_lowercase();
            let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
            anchors.push(kept.map(|c| if c == ' ' { '-' } else { c }).collect());
        }
    }
    anchors
}

#[cfg(test)]
mod tests {
    use super::super::File;
    use super::*;

    fn found(page: &str) -> Vec<String> {
        let file = |path: &str, text: &str| File { path: path.to_owned(), text: text.to_owned() };
        let files =
            vec![file("docs/a.md", page), file("docs/b.md", "# The `b` page\n"), file("README.md", "# R\n")];
        let paths = files.iter().map(|file| file.path.clone()).collect();
        check_links(&Tree { files, paths }).into_iter().map(|finding| finding.message).collect()
    }

    #[test]
    fn links_that_lead_somewhere_are_fine() {
        let page = "# A\n[b](b.md), [up](../README.md), [here](#a), [there](b.md#the-b-page), [dir](../docs/),\n\
                    [out](https://example.org/x) and `[code](nowhere.md)`\n```\n[code](nowhere.md)\n```\n";
        assert_eq!(found(page), [""; 0]);
    }

    #[test]
    fn others_are_found() {
        for target in ["c.md", "../b.md", "b.md#c", "#b", "../nowhere/"] {
            assert_eq!(found(&format!("# A\n[x]({target})\n")).len(), 1, "{target}");
        }
    }
}
