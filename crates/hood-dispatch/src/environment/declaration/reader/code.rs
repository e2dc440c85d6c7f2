//! What a declaration says of how `code` is run.

use hood_core::program::{Code, NAME_BYTES_MAX};

use super::{Reader, Table, article};

const KEYS: [&str; 3] = ["file", "build", "run"];

/// Words of a command that a declaration may have.
const WORDS_MAX: usize = 100;

impl Reader<'_> {
    /// As Python runs it, where nothing is said.
    pub(super) fn code(&mut self, table: &Table<'_, '_>) -> Code {
        let mut code = Code::python();
        let Some((span, value)) = table.get("code") else { return code };
        let Some(entries) = value.as_table() else {
            self.problem(span.start, "code", format!("must be a table, and is {}", article(value)));
            return code;
        };
        let inner = Table { entries, start: span.start, prefix: "code." };
        self.known_keys(&inner, &KEYS);
        if let Some((at, file)) = self.string(&inner, "file") {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
            if file.is_empty()
                || file.len() > NAME_BYTES_MAX
                || file.starts_with('.')
                || !file.bytes().all(plain)
            {
                self.problem(
                    at,
                    "code.file",
                    "must be the name of one file, of A-Z, a-z, 0-9, `.`, `_` and `-`",
                );
            }
            file.clone_into(&mut code.file);
        }
        code.build = inner.get("build").map(|_| self.words(&inner, "build"));
        code.run = self.words(&inner, "run");
        code
    }

    fn words(&mut self, table: &Table<'_, '_>, key: &str) -> Vec<String> {
        let full = format!("{}{key}", table.prefix);
        let Some((span, value)) = table.get(key) else {
            self.problem(table.start, &full, "is missing");
            return Vec::new();
        };
        let words: Option<Vec<String>> = value
            .as_array()
            .and_then(|array| array.iter().map(|word| word.get_ref().as_str().map(str::to_owned)).collect());
        let sound = |words: &Vec<String>| {
            words.first().is_some_and(|first| !first.is_empty())
                && words.len() <= WORDS_MAX
                && !words.iter().any(|word| word.contains('\0'))
        };
        words.filter(sound).unwrap_or_else(|| {
            let rule = format!("must be a command: an array of 1 to {WORDS_MAX} strings, the program first");
            self.problem(span.start, &full, rule);
            Vec::new()
        })
    }
}
