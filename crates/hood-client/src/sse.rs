//! Server-Sent Events, as far as this API uses them: `id`, `event`, `data` and comments.

/// The longest line, and the most data of one event: events carry transitions, never output.
const BYTES_MAX: usize = 256 * 1024;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Message {
    /// What the server calls it; empty where it does not.
    pub(crate) event: String,
    /// Whether it has a number to go on from.
    pub(crate) has_id: bool,
    pub(crate) data: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event is longer than {BYTES_MAX} bytes")]
pub(crate) struct TooLong;

/// Takes bytes as they come and gives whole messages. A message that was cut off by the end of the
/// connection is never given.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    line: Vec<u8>,
    message: Message,
    has_data: bool,
    /// The last byte was a carriage return: a line feed right after it ends no second line.
    after_return: bool,
}

impl Parser {
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<Vec<Message>, TooLong> {
        let mut messages = Vec::new();
        for &byte in bytes {
            let paired = std::mem::replace(&mut self.after_return, byte == b'\r') && byte == b'\n';
            match byte {
                _ if paired => {}
                b'\n' | b'\r' => messages.extend(self.end_line()?),
                _ if self.line.len() >= BYTES_MAX => return Err(TooLong),
                _ => self.line.push(byte),
            }
        }
        Ok(messages)
    }

    fn end_line(&mut self) -> Result<Option<Message>, TooLong> {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            let message = std::mem::take(&mut self.message);
            return Ok(std::mem::take(&mut self.has_data).then_some(message));
        }
        let line = String::from_utf8_lossy(&line);
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => {
                let data = &mut self.message.data;
                if data.len() + value.len() >= BYTES_MAX {
                    return Err(TooLong);
                }
                if std::mem::replace(&mut self.has_data, true) {
                    data.push('\n');
                }
                data.push_str(value);
            }
            "event" => value.clone_into(&mut self.message.event),
            "id" => self.message.has_id = true,
            _ => {}
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn data(bytes: &[u8]) -> Vec<String> {
        let messages = Parser::default().push(bytes).expect("short");
        messages.into_iter().map(|message| message.data).collect()
    }

    #[test]
    fn reads_each_line_ending_comments_and_many_data_lines() {
        assert_eq!(data(b"id: 1\nevent: started\ndata: {}\n\n"), ["{}"]);
        assert_eq!(data(b": keep-alive\r\n\r\ndata:a\r\ndata: b\r\n\r\n"), ["a\nb"]);
        assert_eq!(data(b"data: a\r\rdata\r\r"), ["a", ""]);
    }

    #[test]
    fn what_was_cut_off_is_not_given() {
        assert_eq!(data(b"data: a\n\ndata: b\n"), ["a"]);
        assert_eq!(data(b"data: a"), [""; 0]);
    }

    #[test]
    fn endless_lines_and_events_are_refused() {
        let endless = vec![b'x'; BYTES_MAX + 1];
        assert_eq!(Parser::default().push(&endless), Err(TooLong));
        let many = b"data: 0123456789\n".repeat(BYTES_MAX / 10 + 1);
        assert_eq!(Parser::default().push(&many), Err(TooLong));
    }

    proptest! {
        #[test]
        fn where_the_bytes_are_cut_does_not_matter(
            text in prop::collection::vec(prop::sample::select(&b"data: x\r\n:"[..]), 0..200),
            cut in 0usize..200,
        ) {
            let whole = Parser::default().push(&text);
            let cut = cut.min(text.len());
            let mut parser = Parser::default();
            let mut parts = parser.push(&text[..cut]).expect("short");
            parts.extend(parser.push(&text[cut..]).expect("short"));
            prop_assert_eq!(whole.expect("short"), parts);
        }
    }
}
