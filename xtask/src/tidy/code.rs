//! What of a Rust file is code: the same text with comments and the insides of literals blanked, so
//! that rules about code do not trip over words. Lines stay where they are.

/// The file with comments, strings and characters replaced by spaces.
pub(crate) fn only_code(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = match bytes[at] {
            b'/' if bytes[at..].starts_with(b"//") => end_of_line(bytes, at),
            b'/' if bytes[at..].starts_with(b"/*") => end_of_block(bytes, at),
            b'"' => end_of_string(bytes, at + 1),
            b'r' if !in_word(bytes, at) => end_of_raw_string(bytes, at),
            b'\'' => end_of_char(bytes, at),
            _ => at + 1,
        };
        if end > at + 1 {
            for byte in &mut code[at..end] {
                if *byte != b'\n' {
                    *byte = b' ';
                }
            }
        }
        at = end;
    }
    String::from_utf8_lossy(&code).into_owned()
}

/// Whether `code` holds `word` with nothing of a word on either side.
pub(crate) fn has_word(code: &str, word: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word)
        .any(|(at, _)| !code[..at].ends_with(is_word) && !code[at + word.len()..].starts_with(is_word))
}

fn in_word(bytes: &[u8], at: usize) -> bool {
    // A byte string's `b` may stand before the `r`.
    let before = at.checked_sub(1).map(|i| bytes[i]);
    before.is_some_and(|b| (b.is_ascii_alphanumeric() && b != b'b') || b == b'_')
}

fn end_of_line(bytes: &[u8], at: usize) -> usize {
    bytes[at..].iter().position(|&b| b == b'\n').map_or(bytes.len(), |n| at + n)
}

fn end_of_block(bytes: &[u8], mut at: usize) -> usize {
    let mut depth = 0usize;
    while at < bytes.len() {
        if bytes[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if bytes[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    at
}

fn end_of_string(bytes: &[u8], mut at: usize) -> usize {
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// After `r"…"` or `r#"…"#`; after the `r` alone where it begins no string.
fn end_of_raw_string(bytes: &[u8], at: usize) -> usize {
    let hashes = bytes[at + 1..].iter().take_while(|&&b| b == b'#').count();
    let open = at + 1 + hashes;
    if bytes.get(open) != Some(&b'"') {
        return at + 1;
    }
    let close: Vec<u8> = std::iter::once(b'"').chain(std::iter::repeat_n(b'#', hashes)).collect();
    let found = bytes[open + 1..].windows(close.len()).position(|window| window == close);
    found.map_or(bytes.len(), |n| open + 1 + n + close.len())
}

/// After `'c'` or `'\n'`; after the quote alone where it begins a lifetime.
fn end_of_char(bytes: &[u8], at: usize) -> usize {
    if bytes.get(at + 1) == Some(&b'\\') {
        return bytes[at + 3..].iter().position(|&b| b == b'\'').map_or(at + 1, |n| at + 4 + n);
    }
    // A character is at most four bytes long.
    let closes = (2..=5).find(|&n| bytes.get(at + n) == Some(&b'\''));
    match closes {
        Some(n) if n == 2 || !bytes[at + 1].is_ascii() => at + n + 1,
        _ => at + 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blanked_and_nothing_else() {
        let cases = [
            ("a // unsafe\nb", "a          \nb"),
            ("a /* x /* y */ z */ b", "a                   b"),
            (r#"f("unsafe \" {")"#, r#"f(             )"#),
            ("f(r#\"a\"b\"#, c)", "f(        , c)"),
            ("fn f<'a>(x: &'a u8)", "fn f<'a>(x: &'a u8)"),
            ("m('x', '\\'', '\"')", "m(   ,     ,    )"),
            ("b'{' => bar", "b    => bar"),
            ("for r in rows {}", "for r in rows {}"),
        ];
        for (text, code) in cases {
            assert_eq!(only_code(text), code, "{text}");
        }
    }

    #[test]
    fn a_word_is_a_whole_word() {
        assert!(has_word("unsafe { x }", "unsafe"));
        assert!(!has_word("forbid(unsafe_code)", "unsafe"));
    }
}
