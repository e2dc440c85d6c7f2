//! The reference of every key, written from the default file: `docs/configuration.md` is this text.

use std::fmt::Write as _;

use super::{DEFAULT_FILE, Key};

const HEAD: &str = "\
# Configuration

This page is written from the default file (`crates/hood-server/src/config/default.toml`), and a test
holds the two together. After a change: `UPDATE_REFERENCE=1 cargo test -p hood-server --test it config`.

Flags win over environment variables, those over the file, the file over the defaults.

- **Flags**: `--data-dir`, those of `fumehood serve` (`--listen`, `--places`, `--policy`), and `--set KEY=VALUE`
  for any key, in every command.
- **Environment**: `FUMEHOOD_` and the key in capitals, with `_` for the dot: `FUMEHOOD_WORKER_PLACES=200`.
  Lists are separated by commas. A variable that sets nothing is warned of. `OTEL_EXPORTER_OTLP_ENDPOINT` counts too,
  below ours.
- **File**: the one that `--config` or `FUMEHOOD_CONFIG` names, which must be there; otherwise
  `/etc/fumehood/config.toml` for root, and `$XDG_CONFIG_HOME/fumehood/config.toml` (usually
  `~/.config/fumehood/config.toml`) for others, if it is there. It is TOML and needs only the keys that it changes;
  an unknown key is an error.

Everything is read and checked once, at the start. `fumehood config show --origin` prints every value and where it
came from; `fumehood config check` names each mistake with its file and line, and what is allowed instead. A command
that speaks to a server which runs already refuses flags, and warns of variables, that differ from what that has
([the command line](cli.md#which-server)).

Four variables are no keys, and belong to the commands that talk to a server: `FUMEHOOD_SERVER`, `FUMEHOOD_TOKEN`,
`FUMEHOOD_TOKEN_FILE` and `FUMEHOOD_CONFIG` ([the command line](cli.md)).
";

/// One key of the default file.
struct Documented {
    name: String,
    default: String,
    meaning: String,
}

/// The page.
pub fn markdown() -> String {
    let mut page = HEAD.to_owned();
    let mut section = None;
    for (head, about, key) in documented() {
        if section.as_ref() != Some(&head) {
            let title = if head.is_empty() { "Top level".to_owned() } else { format!("`[{head}]`") };
            _ = write!(page, "\n## {title}\n\n");
            if !about.is_empty() {
                _ = write!(page, "{about}\n\n");
            }
            page.push_str("| key | default | unit | allowed | meaning |\n|---|---|---|---|---|\n");
            section = Some(head);
        }
        let allowed = Key::find(&key.name).map(Key::allowed).unwrap_or_default();
        let (name, default, meaning) = (&key.name, &key.default, &key.meaning);
        let unit = unit(name);
        _ = writeln!(page, "| `{name}` | `{default}` | {unit} | {allowed} | {meaning} |");
    }
    page
}

/// Section, what is said of it, and key, in the order of the file.
fn documented() -> Vec<(String, String, Documented)> {
    let mut keys = Vec::new();
    let (mut section, mut about, mut comment) = (String::new(), String::new(), String::new());
    for line in DEFAULT_FILE.lines() {
        if let Some(text) = line.strip_prefix('#') {
            if !comment.is_empty() {
                comment.push(' ');
            }
            comment.push_str(text.trim());
        } else if let Some(head) = line.strip_prefix('[') {
            section = head.trim_end_matches(']').to_owned();
            about = std::mem::take(&mut comment);
        } else if let Some((name, default)) = line.split_once(" = ") {
            let name = if section.is_empty() { name.to_owned() } else { format!("{section}.{name}") };
            let meaning = std::mem::take(&mut comment).replace('|', "\\|");
            keys.push((
                section.clone(),
                about.clone(),
                Documented { name, default: default.to_owned(), meaning },
            ));
        } else {
            // An empty line ends the file's own introduction.
            comment.clear();
        }
    }
    keys
}

fn unit(name: &str) -> &'static str {
    let last = name.rsplit('.').next().unwrap_or(name);
    match last {
        _ if last.split('_').any(|word| word == "ms") => "ms",
        _ if last.split('_').any(|word| word == "bytes") => "bytes",
        "rate_per_second" => "requests/s",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::super::KEYS;
    use super::*;

    #[test]
    fn the_default_file_documents_exactly_the_known_keys_in_their_order() {
        let documented = documented();
        let names: Vec<&str> = documented.iter().map(|(_, _, key)| key.name.as_str()).collect();
        assert_eq!(names, KEYS.iter().map(|key| key.name).collect::<Vec<_>>());
        for (_, _, key) in &documented {
            assert!(key.meaning.ends_with('.'), "{} has no sentence that says what it means", key.name);
        }
    }

    #[test]
    fn no_two_keys_share_a_variable() {
        let mut variables: Vec<String> = KEYS.iter().map(Key::variable).collect();
        variables.sort();
        variables.dedup();
        assert_eq!(variables.len(), KEYS.len());
    }
}
