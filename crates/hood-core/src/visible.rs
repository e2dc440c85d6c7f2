//! Characters that are obeyed where they should be read: text that others wrote is shown with them
//! made visible.

use std::fmt::Write as _;

/// Whether a character may move the cursor, change the terminal's state, or turn the order in which
/// text is read.
pub const fn is_obeyed(c: char) -> bool {
    matches!(c,
        '\0'..='\u{8}' | '\u{b}'..='\u{1f}' | '\u{7f}'..='\u{9f}'
        // Bidirectional marks, embeddings, overrides and isolates.
        | '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        // Ends of lines for some and not for others; tags, which nobody sees.
        | '\u{2028}' | '\u{2029}' | '\u{e0000}'..='\u{e007f}')
}

/// Writes a character so that it is seen and not obeyed: `^[` for ESC, `<U+202E>` for an override.
pub fn write(c: char, out: &mut String) {
    match c {
        '\0'..='\u{1f}' => {
            out.push('^');
            out.push(char::from(c as u8 + b'@'));
        }
        '\u{7f}' => out.push_str("^?"),
        // A string takes all.
        _ => _ = write!(out, "<U+{:04X}>", c as u32),
    }
}

/// On one line: ends of lines and tabs are made visible, too.
pub fn line(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if is_obeyed(c) || matches!(c, '\n' | '\t') {
            write(c, &mut shown);
        } else {
            shown.push(c);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_be_obeyed_is_seen() {
        assert_eq!(line("a\u{1b}[2J\n\t\r\u{7f}\u{85}\u{202e}é"), "a^[[2J^J^I^M^?<U+0085><U+202E>é");
    }
}
