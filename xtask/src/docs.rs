//! Every command that the documentation shows is one that the program knows, with those flags.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::Context as _;

use crate::tidy::{File, Finding, Tree};

pub(crate) fn check(root: &Path, binary: &Path) -> anyhow::Result<Vec<Finding>> {
    let tree = Tree::read(root)?;
    let mut program = Program { binary, pages: BTreeMap::new() };
    let mut findings = Vec::new();
    for file in &tree.files {
        for (line, command) in commands(file) {
            if let Some(problem) = problem(&tree, &mut program, &command)? {
                let shown = command.join(" ");
                findings.push(Finding::new(&file.path, line, format!("`{shown}`: {problem}")));
            }
        }
    }
    Ok(findings)
}

/// The program's own help, asked for once a page.
struct Program<'a> {
    binary: &'a Path,
    pages: BTreeMap<Vec<String>, Option<String>>,
}

impl Program<'_> {
    /// None where there is no such subcommand.
    fn help(&mut self, path: &[String]) -> anyhow::Result<Option<String>> {
        if let Some(page) = self.pages.get(path) {
            return Ok(page.clone());
        }
        let output = Command::new(self.binary)
            .args(path)
            .arg("--help")
            .output()
            .with_context(|| format!("run {}", self.binary.display()))?;
        let page = output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned());
        self.pages.insert(path.to_vec(), page.clone());
        Ok(page)
    }
}

fn problem(tree: &Tree, program: &mut Program<'_>, words: &[String]) -> anyhow::Result<Option<String>> {
    let Some((first, rest)) = words.split_first() else { return Ok(None) };
    let script = first.trim_start_matches("./");
    if script.starts_with("scripts/") || script.starts_with(".ci/") {
        return Ok((!tree.paths.iter().any(|path| path == script)).then(|| "no such script".to_owned()));
    }
    if first == "cargo" && rest.first().is_some_and(|word| word == "xtask") {
        let name = rest.get(1).map_or("", String::as_str);
        let known = crate::USAGE.lines().any(|line| line.split_whitespace().next() == Some(name));
        return Ok((!known).then(|| "no such chore".to_owned()));
    }
    if first != "fumehood" && !first.ends_with("/fumehood") {
        return Ok(None);
    }
    let mut path = Vec::new();
    let mut page = program.help(&path)?.context("`fumehood --help` fails")?;
    // `help COMMAND` is about that command.
    let mut rest = rest.iter().skip_while(|word| *word == "help");
    while page.contains("\nCommands:") {
        let Some(word) = rest.next() else { break };
        // A list of choices or a placeholder stands for whichever; a flag of the program itself is
        // looked for below.
        if word.starts_with('-') || !word.chars().all(|c| c.is_ascii_lowercase() || c == '-') {
            return Ok(None);
        }
        path.push(word.clone());
        match program.help(&path)? {
            Some(next) => page = next,
            None => return Ok(Some("no such command".to_owned())),
        }
    }
    for word in rest.take_while(|word| *word != "--") {
        let flag = word.split('=').next().unwrap_or(word);
        if flag.len() > 1 && flag.starts_with('-') && !has_flag(&page, flag) {
            return Ok(Some(format!("no flag `{flag}`")));
        }
    }
    Ok(None)
}

fn has_flag(page: &str, flag: &str) -> bool {
    let ends = |c: char| !(c.is_ascii_alphanumeric() || c == '-');
    page.match_indices(flag).any(|(at, _)| {
        page[at + flag.len()..].starts_with(ends)
            && page[..at].ends_with(|c: char| c.is_whitespace() || c == '[')
    })
}

/// Commands in the shell blocks and code spans of a page, and after `Try:` in an example, as words
/// with their line.
fn commands(file: &File) -> Vec<(usize, Vec<String>)> {
    let mut found = Vec::new();
    let mut block: Option<bool> = None;
    for (index, line) in file.text.lines().enumerate() {
        let mut add = |text: &str| {
            found.extend(simple_commands(text).into_iter().map(|words| (index + 1, words)));
        };
        if file.path.starts_with("examples/") {
            if let Some((_, command)) = line.split_once("Try: ") {
                add(command.trim_end_matches('"'));
            }
        } else if file.path.ends_with(".md") {
            match (line.trim_start().strip_prefix("```"), block) {
                (Some(_), Some(_)) => block = None,
                (Some(language), None) => block = Some(matches!(language, "sh" | "console" | "bash")),
                (None, Some(true)) => add(line.trim_start().trim_start_matches("$ ")),
                (None, Some(false)) => {}
                (None, None) => line.split('`').skip(1).step_by(2).for_each(add),
            }
        }
    }
    found
}

/// `NAME=value`, as a shell takes it before a command.
fn is_assignment(word: &str) -> bool {
    let is_part = |letter: char| letter.is_ascii_uppercase() || letter.is_ascii_digit() || letter == '_';
    word.split_once('=').is_some_and(|(name, _)| !name.is_empty() && name.chars().all(is_part))
}

/// The commands of a pipeline or list, without comments, redirections' targets and what is set for one.
fn simple_commands(line: &str) -> Vec<Vec<String>> {
    let line = line.split(" #").next().unwrap_or(line);
    let line = if line.starts_with('#') { "" } else { line };
    let mut commands = vec![Vec::new()];
    for word in line.split_whitespace() {
        if matches!(word, "|" | "&&" | "||" | ";" | "&" | "\\") {
            commands.push(Vec::new());
        } else if let Some(words) = commands.last_mut()
            && !(words.is_empty() && is_assignment(word))
        {
            words.push(word.trim_matches(['[', ']', '"', '\'']).trim_end_matches(';').to_owned());
        }
    }
    commands.retain(|words| !words.is_empty());
    commands
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<String> {
        let file = File { path: path.to_owned(), text: text.to_owned() };
        commands(&file).into_iter().map(|(line, words)| format!("{line} {}", words.join(" "))).collect()
    }

    #[test]
    fn commands_come_from_shell_blocks_spans_and_examples() {
        let page = "Type `fumehood doctor` once.\n```sh\n$ echo 1 | fumehood run - # note\n# a comment\n```\n\
                    ```json\nfumehood\n```\n`FUMEHOOD_X=1 fumehood api`\n";
        let expected = ["1 fumehood doctor", "3 echo 1", "3 fumehood run -", "9 fumehood api"];
        assert_eq!(found("README.md", page), expected);
        assert_eq!(found("examples/a.py", "\"\"\"Try: fumehood run a.py\"\"\"\n"), ["1 fumehood run a.py"]);
        assert_eq!(found("crates/a/src/a.rs", "// `fumehood x`\n"), [""; 0]);
    }

    #[test]
    fn a_flag_is_found_as_a_whole() {
        let page = "  -o, --output <FORMAT>  How\n      --follow-all\n  [--raw]\n";
        for flag in ["-o", "--output", "--raw"] {
            assert!(has_flag(page, flag), "{flag}");
        }
        for flag in ["--follow", "--out", "-p"] {
            assert!(!has_flag(page, flag), "{flag}");
        }
    }
}
