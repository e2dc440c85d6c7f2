//! Migrations only expand: the release before works on the schema that they leave. What takes something
//! away from it says why nobody of that release misses it, in a line `-- contract: …`.

use std::path::Path;
use std::process::Command;

use super::migrations::{LOCK, migrations, recorded};
use super::{File, Finding, Tree};

/// Names the commit of the release before this one.
const PREVIOUS: &str = "tests/upgrade/previous";
const CONTRACT: &str = "-- contract:";

/// Words in this order, within one statement, and what they do to roles that do not know of it.
const CONTRACTS: [(&[&str], &str); 11] = [
    (&["DROP", "TABLE"], "drops a table"),
    (&["DROP", "COLUMN"], "drops a column"),
    (&["RENAME"], "renames"),
    (&["ALTER", "COLUMN", "TYPE"], "changes a type"),
    (&["SET", "NOT", "NULL"], "refuses rows without a value"),
    (&["ALTER", "TABLE", "ADD", "CONSTRAINT"], "refuses rows"),
    (&["ALTER", "TABLE", "ADD", "CHECK"], "refuses rows"),
    (&["CREATE", "UNIQUE", "INDEX"], "refuses rows"),
    (&["DROP", "POLICY"], "takes rights away"),
    (&["REVOKE"], "takes rights away"),
    (&["ENABLE", "ROW", "LEVEL", "SECURITY"], "takes rights away"),
];

/// Nothing where the history does not reach back to that release.
pub(super) fn check(root: &Path, tree: &Tree) -> Vec<Finding> {
    let Some(previous) = tree.file(PREVIOUS) else { return Vec::new() };
    let commit = previous.text.lines().find(|line| !line.starts_with('#')).unwrap_or_default();
    let shown = Command::new("git").args(["show", &format!("{commit}:{LOCK}")]).current_dir(root).output();
    let Ok(shown) = shown else { return Vec::new() };
    if !shown.status.success() {
        return Vec::new();
    }
    let known = String::from_utf8_lossy(&shown.stdout);
    migrations(tree).filter(|file| !recorded(&known, &file.path)).flat_map(contracts).collect()
}

fn contracts(file: &File) -> Vec<Finding> {
    if file.text.lines().any(|line| line.trim_start().starts_with(CONTRACT)) {
        return Vec::new();
    }
    let lines: Vec<&str> = file.text.lines().map(|line| line.split("--").next().unwrap_or(line)).collect();
    let code = lines.join("\n");
    let mut findings = Vec::new();
    for statement in code.split(';') {
        let upper = statement.to_uppercase();
        let words: Vec<&str> =
            upper.split(|letter: char| !letter.is_alphanumeric() && letter != '_').collect();
        let does = CONTRACTS.iter().find(|(pattern, _)| occurs(pattern, &words)).map(|(_, does)| *does);
        let demands = occurs(&["ADD", "COLUMN", "NOT", "NULL"], &words) && !words.contains(&"DEFAULT");
        let does = does.or(demands.then_some("adds a column that every row must name"));
        if let Some(does) = does {
            let message = format!(
                "{does}, while roles of the release before this one work on it: leave it to a later release, \
                 or say in a line `{CONTRACT} …` why none of them misses it"
            );
            findings.push(Finding::new(&file.path, 0, message));
        }
    }
    findings
}

/// Whether these words come in this order, whatever stands between them.
fn occurs(pattern: &[&str], words: &[&str]) -> bool {
    let mut words = words.iter();
    pattern.iter().all(|wanted| words.any(|word| word == wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> usize {
        contracts(&File { path: "crates/a/migrations/0002_b.sql".to_owned(), text: text.to_owned() }).len()
    }

    #[test]
    fn what_only_adds_is_fine() {
        assert_eq!(found("-- Never DROP TABLE b.\nALTER TABLE a ADD COLUMN b BIGINT NOT NULL DEFAULT 0;"), 0);
        assert_eq!(found("CREATE TABLE b (c TEXT NOT NULL, PRIMARY KEY (c));\nCREATE INDEX d ON a (b);"), 0);
        assert_eq!(found("ALTER TABLE a ADD COLUMN b TEXT;\nGRANT SELECT ON a TO b;"), 0);
    }

    #[test]
    fn what_takes_away_must_say_why() {
        for text in [
            "ALTER TABLE a DROP COLUMN b;",
            "alter table a rename to b;",
            "DROP TABLE IF EXISTS a;",
            "ALTER TABLE a ADD COLUMN b TEXT NOT NULL;",
            "ALTER TABLE a ALTER COLUMN b SET NOT NULL;",
            "ALTER TABLE a ALTER COLUMN b TYPE TEXT;",
            "ALTER TABLE a ADD CONSTRAINT c CHECK (b > 0);",
            "CREATE UNIQUE INDEX c ON a (b);",
            "REVOKE SELECT ON a FROM b;",
        ] {
            assert_eq!(found(text), 1, "{text}");
            assert_eq!(found(&format!("-- contract: nobody reads it\n{text}")), 0, "{text}");
        }
    }
}
