//! Text from a program made safe to show: what a terminal or a page would obey is replaced. Storage
//! keeps the bytes; this is for the preview alone.

use hood_core::visible;

/// Lossy UTF-8 without what would be obeyed. Where `more` bytes follow, a character that the end
/// cuts in two is left out instead of shown as broken.
pub(crate) fn safe(bytes: &[u8], more: bool) -> String {
    let whole = if more { &bytes[..bytes.len() - cut_character(bytes)] } else { bytes };
    let lossy = String::from_utf8_lossy(whole);
    lossy.chars().map(|c| if visible::is_obeyed(c) { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// Length of the incomplete character at the end, if there is one.
fn cut_character(bytes: &[u8]) -> usize {
    match std::str::from_utf8(bytes.get(bytes.len().saturating_sub(4)..).unwrap_or_default()) {
        Ok(_) => 0,
        Err(_) => (1..=3.min(bytes.len()))
            .find(|&n| {
                let tail = &bytes[bytes.len() - n..];
                std::str::from_utf8(tail)
                    .is_err_and(|error| error.valid_up_to() == 0 && error.error_len().is_none())
            })
            .unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_a_terminal_obeys_is_replaced() {
        let hostile = "a\u{1b}[31mb\rc\u{9b}2Jd\u{202e}e\u{7}f\u{7f}g\0h";
        assert_eq!(
            safe(hostile.as_bytes(), false),
            "a\u{fffd}[31mb\u{fffd}c\u{fffd}2Jd\u{fffd}e\u{fffd}f\u{fffd}g\u{fffd}h"
        );
        assert_eq!(safe("line\n\ttab ü 日 🧪".as_bytes(), false), "line\n\ttab ü 日 🧪");
        assert_eq!(safe(b"a\xff\xfeb", false), "a\u{fffd}\u{fffd}b");
    }

    #[test]
    fn a_character_cut_by_the_end_is_left_out_only_where_more_follows() {
        let text = "x🧪".as_bytes();
        for end in 2..5 {
            assert_eq!(safe(&text[..end], true), "x");
            assert_eq!(safe(&text[..end], false), "x\u{fffd}");
        }
        assert_eq!(safe(text, true), "x🧪");
        assert_eq!(safe(&text[1..3], true), "", "nothing but the cut one");
        assert_eq!(safe(b"", true), "");
    }

    proptest! {
        #[test]
        fn nothing_obeyed_survives_and_nothing_panics(bytes: Vec<u8>, more: bool) {
            let shown = safe(&bytes, more);
            prop_assert!(!shown.chars().any(visible::is_obeyed));
            prop_assert!(shown.chars().count() <= bytes.len());
        }
    }
}
