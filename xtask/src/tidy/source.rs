//! Rules about one file at a time.

use super::code::{has_word, only_code};
use super::{File, Finding, Tree};

/// A `main.rs` has fewer lines than this.
const MAIN_LINES: usize = 30;
/// A file's production part has at most as many.
const PRODUCTION_LINES_MAX: usize = 600;
/// How far above `unsafe` its comment may end: a statement that rustfmt has broken.
const UNSAFE_COMMENT_REACH: usize = 4;
/// The one place where code may be unsafe.
const UNSAFE_HOME: &str = "crates/hood-sandbox/src/sys";
/// What the core, which is pure, may not name.
const IMPURE: [&str; 9] = [
    "std::fs",
    "std::net",
    "std::process",
    "std::thread",
    "std::env",
    "std::io",
    "SystemTime",
    "Instant",
    "tokio",
];

/// Rules for every text file.
pub(super) fn check_text(file: &File) -> Vec<Finding> {
    let mut findings = Vec::new();
    // Written in two parts, so that this file does not break its own rule.
    let machine = [
        concat!("/wo", "rk/main"),
        concat!("/wo", "rk/shared"),
        concat!("/ro", "ot/.cargo"),
        concat!("/ro", "ot/.pyenv"),
        concat!("/tmp/", "brief"),
    ];
    for (number, line) in numbered(&file.text) {
        // A hard break in Markdown would be two spaces; a backslash says it visibly.
        if line.ends_with([' ', '\t']) && !file.has_extension("snap") {
            findings.push(Finding::new(&file.path, number, "trailing whitespace"));
        }
        if let Some(path) = machine.iter().find(|path| line.contains(**path)) {
            findings.push(Finding::new(&file.path, number, format!("`{path}`: a path of one machine")));
        }
        if ["<<<<<<< ", ">>>>>>> "].iter().any(|mark| line.starts_with(mark)) {
            findings.push(Finding::new(&file.path, number, "a conflict that was not resolved"));
        }
    }
    if !file.text.is_empty() && !file.text.ends_with('\n') {
        findings.push(Finding::new(&file.path, 0, "no newline at the end"));
    }
    findings
}

/// Rules for Rust.
pub(super) fn check_rust(file: &File) -> Vec<Finding> {
    let path = file.path.as_str();
    let code = only_code(&file.text);
    let mut findings = Vec::new();
    let mut find = |line, message: String| findings.push(Finding::new(path, line, message));

    if file.name() == "mod.rs" {
        find(0, "`foo.rs` beside `foo/`, never `mod.rs`".to_owned());
    }
    let lines = file.text.lines().count();
    if path.ends_with("src/main.rs") && lines >= MAIN_LINES {
        find(0, format!("{lines} lines; a `main.rs` has fewer than {MAIN_LINES}"));
    }
    let production = production_lines(file);
    if production > PRODUCTION_LINES_MAX {
        find(0, format!("{production} lines before its tests; {PRODUCTION_LINES_MAX} are the most"));
    }
    for (number, line) in numbered(&code) {
        for name in ["todo!", "unimplemented!", "dbg!"] {
            if line.contains(name) {
                find(number, format!("`{name}` in what is handed on"));
            }
        }
        if has_word(line, "unsafe") && !path.starts_with(UNSAFE_HOME) {
            find(number, format!("`unsafe` lives in {UNSAFE_HOME} alone"));
        }
        if path.starts_with("crates/hood-core/src") {
            for name in IMPURE.iter().filter(|name| has_word(line, name)) {
                find(number, format!("`{name}`: the core is pure"));
            }
        }
        if path.starts_with("crates/hood-server/src/api") && has_word(line, "hood_dispatch") {
            find(number, "API code never calls the dispatcher".to_owned());
        }
        if number <= production && path.starts_with("crates/") && line.contains(".unwrap()") {
            find(number, "`unwrap` on a runtime path".to_owned());
        }
    }
    findings.extend(check_unsafe(file, &code));
    findings
}

/// Each unsafe block says why it is sound and why nothing safe would do.
fn check_unsafe(file: &File, code: &str) -> Vec<Finding> {
    let lines: Vec<&str> = file.text.lines().collect();
    let mut findings = Vec::new();
    for (number, line) in numbered(code) {
        if !["unsafe {", "unsafe impl"].iter().any(|opening| line.contains(opening)) {
            continue;
        }
        let comment = comment_above(&lines, number - 1);
        for word in ["SAFETY:", "JUSTIFICATION:"] {
            if !comment.contains(word) {
                findings.push(Finding::new(&file.path, number, format!("unsafe without a `{word}` comment")));
            }
        }
    }
    findings
}

/// The block of comments that the statement on line `index` stands under.
fn comment_above(lines: &[&str], index: usize) -> String {
    let is_comment = |line: &&&str| line.trim_start().starts_with("//");
    let above = lines[..index].iter().rev();
    let statement = above.clone().take_while(|line| !is_comment(line)).count();
    if statement > UNSAFE_COMMENT_REACH {
        return String::new();
    }
    above.skip(statement).take_while(is_comment).copied().collect::<Vec<_>>().join("\n")
}

/// Lines before the file's tests; none for a file that is a test itself.
fn production_lines(file: &File) -> usize {
    if file.path.split('/').any(|part| part == "tests" || part == "tests.rs" || part == "benches") {
        return 0;
    }
    let lines: Vec<&str> = file.text.lines().collect();
    let tests = lines.windows(2).position(|pair| {
        pair[0] == "#[cfg(test)]" && (pair[1].starts_with("mod ") || pair[1].starts_with("pub(crate) mod "))
    });
    tests.unwrap_or(lines.len())
}

/// A file of integration tests says how much it knows of what it tests, or its `main.rs` does.
pub(super) fn check_boxes(tree: &Tree) -> Vec<Finding> {
    let says = |file: &File| {
        let head = file.text.lines().take_while(|line| line.starts_with("//!")).collect::<String>();
        ["lack box", "rey box", "hite box"].iter().any(|kind| head.contains(kind))
    };
    let mut findings = Vec::new();
    for file in tree.files.iter().filter(|file| file.is_rust() && file.path.contains("/tests/it/")) {
        let has_tests = ["#[test]", "#[tokio::test", "proptest!"].iter().any(|mark| file.text.contains(mark));
        let main = file.path.split_once("/tests/it/").map(|(before, _)| format!("{before}/tests/it/main.rs"));
        let main_says = main.and_then(|path| tree.file(&path)).is_some_and(says);
        if has_tests && !says(file) && !main_says {
            let message = "does not say at its top whether it is a black, grey or white box";
            findings.push(Finding::new(&file.path, 1, message));
        }
    }
    findings
}

fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(index, line)| (index + 1, line))
}

#[cfg(test)]
mod tests;
