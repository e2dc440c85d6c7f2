//! What the pages of the repository point to is there: links, and paths in code spans.

use super::{Finding, Tree};

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.files.iter().filter(|file| file.has_extension("md")) {
        for (line, target) in links(&file.text) {
            if let Some(problem) = problem(tree, &file.path, &target) {
                findings.push(Finding::new(&file.path, line, format!("link `{target}`: {problem}")));
            }
        }
        for (line, path) in named_paths(&file.text) {
            if !exists(tree, path) {
                findings.push(Finding::new(&file.path, line, format!("`{path}`: no such file")));
            }
        }
    }
    findings
}

/// Code spans that are paths from the root of the repository.
fn named_paths(text: &str) -> impl Iterator<Item = (usize, &str)> {
    const TOPS: [&str; 7] = ["crates/", "docs/", "bench/", "scripts/", "xtask/", "openapi/", "examples/"];
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    text.lines().enumerate().flat_map(move |(index, line)| {
        let spans = line.split('`').skip(1).step_by(2);
        let paths =
            spans.filter(move |span| TOPS.iter().any(|top| span.starts_with(top)) && span.chars().all(plain));
        paths.map(move |path| (index + 1, path))
    })
}

fn exists(tree: &Tree, path: &str) -> bool {
    let path = path.trim_end_matches('/');
    tree.paths.iter().any(|known| known == path || known.starts_with(&format!("{path}/")))
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
    if !exists(tree, &path) {
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
        check(&Tree { files, paths }).into_iter().map(|finding| finding.message).collect()
    }

    #[test]
    fn links_that_lead_somewhere_are_fine() {
        let page = "# A\n[b](b.md), [up](../README.md), [here](#a), [there](b.md#the-b-page), [dir](../docs/),\n\
                    [out](https://example.org/x) and `[code](nowhere.md)`, `docs/b.md`, `docs/`, `src/x`\n```\n[code](nowhere.md)\n```\n";
        assert_eq!(found(page), [""; 0]);
    }

    #[test]
    fn others_are_found() {
        for target in ["c.md", "../b.md", "b.md#c", "#b", "../nowhere/"] {
            assert_eq!(found(&format!("# A\n[x]({target})\n")).len(), 1, "{target}");
        }
        assert_eq!(found("see `docs/c.md`\n").len(), 1);
    }
}
