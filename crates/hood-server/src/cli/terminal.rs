//! What a terminal is shown. Whatever a program, a submitter or a server wrote may hold characters
//! that a terminal obeys: to a terminal those are made visible, to a pipe or a file bytes are exact.

use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal as _};

use hood_core::visible;

/// Text of unknown origin, safe to show.
#[derive(Clone, Copy, Debug)]
pub(super) struct Text<'a>(&'a str);

impl<'a> Text<'a> {
    pub(super) const fn new(text: &'a str) -> Self {
        Self(text)
    }

    /// On one line: for cells of a table.
    pub(super) fn line(text: &str) -> String {
        visible::line(text)
    }
}

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = String::with_capacity(self.0.len());
        for c in self.0.chars() {
            if visible::is_obeyed(c) { visible::write(c, &mut shown) } else { shown.push(c) }
        }
        f.write_str(&shown)
    }
}

/// A JSON document whose strings a terminal does not obey: the same document, with escapes. Outside
/// of strings JSON has no such character.
pub(super) fn json(document: &str) -> String {
    let mut shown = String::with_capacity(document.len());
    for c in document.chars() {
        if visible::is_obeyed(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                _ = write!(shown, "\\u{unit:04x}");
            }
        } else {
            shown.push(c);
        }
    }
    shown
}

/// Makes a stream of bytes safe as it comes: characters that are cut between two pieces stay whole.
#[derive(Debug, Default)]
pub(super) struct Neutraliser {
    /// The beginning of a character whose rest has not come.
    cut: Vec<u8>,
    /// A carriage return is an end of line if a line feed follows, and shown otherwise.
    after_return: bool,
    /// Something was made visible.
    pub(super) changed: bool,
}

impl Neutraliser {
    pub(super) fn push(&mut self, bytes: &[u8]) -> String {
        let mut pending = std::mem::take(&mut self.cut);
        pending.extend_from_slice(bytes);
        let mut shown = String::with_capacity(pending.len());
        let mut rest = pending.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(text) => {
                    self.text(text, &mut shown);
                    return shown;
                }
                Err(error) => {
                    let (valid, wrong) = rest.split_at(error.valid_up_to());
                    self.text(&String::from_utf8_lossy(valid), &mut shown);
                    let Some(length) = error.error_len() else {
                        self.cut = wrong.to_vec();
                        return shown;
                    };
                    let (wrong, after) = wrong.split_at(length);
                    self.bytes(wrong, &mut shown);
                    rest = after;
                }
            }
        }
    }

    /// What is left once no more comes.
    pub(super) fn finish(&mut self) -> String {
        let mut shown = String::new();
        let cut = std::mem::take(&mut self.cut);
        self.bytes(&cut, &mut shown);
        self.flush_return(None, &mut shown);
        shown
    }

    fn text(&mut self, text: &str, shown: &mut String) {
        for c in text.chars() {
            self.flush_return(Some(c), shown);
            if c == '\r' {
                self.after_return = true;
            } else if visible::is_obeyed(c) {
                self.changed = true;
                visible::write(c, shown);
            } else {
                shown.push(c);
            }
        }
    }

    /// Bytes that are no text; some terminals obey single ones.
    fn bytes(&mut self, bytes: &[u8], shown: &mut String) {
        for byte in bytes {
            self.flush_return(None, shown);
            self.changed = true;
            _ = write!(shown, "<{byte:02X}>");
        }
    }

    fn flush_return(&mut self, next: Option<char>, shown: &mut String) {
        if std::mem::take(&mut self.after_return) && next != Some('\n') {
            self.changed = true;
            shown.push_str("^M");
        }
    }
}

/// Colours, where a terminal shows them and nobody asked for none.
#[derive(Clone, Copy, Debug)]
pub(super) struct Style {
    on: bool,
}

impl Style {
    pub(super) fn stderr() -> Self {
        Self { on: io::stderr().is_terminal() && colours_wanted() }
    }

    pub(super) fn stdout() -> Self {
        Self { on: io::stdout().is_terminal() && colours_wanted() }
    }

    pub(super) const fn is_on(self) -> bool {
        self.on
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.on { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }

    pub(super) fn good(self, text: &str) -> String {
        self.paint("32", text)
    }

    pub(super) fn bad(self, text: &str) -> String {
        self.paint("1;31", text)
    }

    pub(super) fn warn(self, text: &str) -> String {
        self.paint("33", text)
    }

    pub(super) fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }

    pub(super) fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }
}

/// `NO_COLOR` counts if it is set to anything (no-color.org), and a dumb terminal has none.
pub(super) fn colours_wanted() -> bool {
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !no_color && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn show(bytes: &[u8]) -> String {
        let mut neutraliser = Neutraliser::default();
        neutraliser.push(bytes) + &neutraliser.finish()
    }

    #[test]
    fn what_a_terminal_would_obey_is_made_visible() {
        for (bytes, shown) in [
            (&b"plain\ttext\n"[..], "plain\ttext\n"),
            (b"\x1b[31mred\x1b[0m", "^[[31mred^[[0m"),
            (b"a\0b\x07c\x08d\x7f", "a^@b^Gc^Hd^?"),
            (b"over\rwritten", "over^Mwritten"),
            (b"line\r\nline", "line\nline"),
            (b"end\r", "end^M"),
            ("\u{9b}31m".as_bytes(), "<U+009B>31m"),
            (b"\x9b31m", "<9B>31m"),
            ("abc\u{202e}cba\u{2066}".as_bytes(), "abc<U+202E>cba<U+2066>"),
            (b"\xff\xc3", "<FF><C3>"),
            ("grüße 日本 👩‍🚀".as_bytes(), "grüße 日本 👩‍🚀"),
        ] {
            assert_eq!(show(bytes), shown);
        }
    }

    #[test]
    fn it_is_known_whether_anything_was_changed() {
        let mut neutraliser = Neutraliser::default();
        neutraliser.push("harmless\r\n日".as_bytes());
        assert!(!neutraliser.changed);
        neutraliser.push(b"\x1b");
        assert!(neutraliser.changed);
    }

    #[test]
    fn json_stays_the_same_document() {
        let value = serde_json::json!({"text": "\u{9b}\u{202e}\u{1b}\u{e0041}ü\n", "n": [1]});
        let document = serde_json::to_string(&value).expect("JSON");
        let shown = json(&document);
        assert!(!shown.chars().any(visible::is_obeyed), "{shown}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).expect("JSON"), value);
    }

    #[test]
    fn a_cell_is_one_line() {
        assert_eq!(Text::line("a\nb\u{1b}c"), "a^Jb^[c");
    }

    proptest! {
        #[test]
        fn nothing_obeyed_gets_through_wherever_the_bytes_are_cut(
            bytes in prop::collection::vec(any::<u8>(), 0..64), cut in 0usize..64,
        ) {
            let cut = cut.min(bytes.len());
            let mut neutraliser = Neutraliser::default();
            let mut shown = neutraliser.push(&bytes[..cut]);
            shown += &neutraliser.push(&bytes[cut..]);
            shown += &neutraliser.finish();
            prop_assert!(!shown.chars().any(visible::is_obeyed));
            prop_assert_eq!(shown, show(&bytes));
        }
    }
}
