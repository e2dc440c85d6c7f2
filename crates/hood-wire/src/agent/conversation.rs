//! What a dispatcher believes of an agent: a frame that does not fit where the conversation stands
//! is a breach, and a breach ends the place.

use super::frames::{AgentFrame, Ending, Stream};
use super::{MAX_CHUNK_BYTES, OLDEST_VERSION, VERSION};

/// A frame that an honest agent would not have sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Breach {
    /// The kind does not fit the state.
    #[error("the agent sent {0} where it cannot stand")]
    Unfitting(&'static str),
    /// No version is common to both.
    #[error("the agent speaks versions {oldest} to {version}, this side {OLDEST_VERSION} to {VERSION}")]
    Version {
        /// The agent's newest.
        version: u32,
        /// The agent's oldest.
        oldest: u32,
    },
    /// A stream has a gap, a repetition, more than was asked for, or an empty or oversized chunk.
    #[error("the agent's output does not add up")]
    Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stand {
    New,
    Waiting,
    /// A build has ended; nothing more may come until the program is let go.
    Built,
    Running,
    Over,
}

#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    bytes: u64,
    truncated: bool,
}

/// Judges the agent's frames in order. Bytes in all are bounded by `output_bytes`, and so are
/// frames, as no output frame may be empty.
#[derive(Debug)]
pub struct Conversation {
    stand: Stand,
    /// What is kept of each of the program's streams, while it is a build's turn.
    later: Option<u64>,
    output_bytes: u64,
    stdout: Seen,
    stderr: Seen,
}

impl Conversation {
    /// Begins before the agent's hello.
    #[must_use]
    pub fn new(output_bytes: u64) -> Self {
        let (stdout, stderr) = (Seen::default(), Seen::default());
        Self { stand: Stand::New, later: None, output_bytes, stdout, stderr }
    }

    /// As [`Conversation::new`], where a build comes first.
    #[must_use]
    pub fn with_build(build_output_bytes: u64, output_bytes: u64) -> Self {
        Self { later: Some(output_bytes), ..Self::new(build_output_bytes) }
    }

    /// The build has ended well, and the program was let go: the same again, from the first byte.
    pub fn go_on(&mut self) {
        if let (Stand::Built, Some(output_bytes)) = (self.stand, self.later.take()) {
            *self = Self { stand: Stand::Waiting, ..Self::new(output_bytes) };
        }
    }

    /// The terminal frame has come.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.stand == Stand::Over
    }

    /// The program has begun to run.
    #[must_use]
    pub fn has_started(&self) -> bool {
        self.stand == Stand::Running
    }

    /// Takes the next frame.
    ///
    /// # Errors
    /// It does not fit; the place must be killed.
    pub fn accept(&mut self, frame: &AgentFrame) -> Result<(), Breach> {
        self.stand = match (self.stand, frame) {
            (Stand::New, AgentFrame::Hello { version, oldest }) => {
                if *oldest > VERSION || *version < OLDEST_VERSION {
                    return Err(Breach::Version { version: *version, oldest: *oldest });
                }
                Stand::Waiting
            }
            (Stand::Waiting, AgentFrame::Started { .. }) => Stand::Running,
            (Stand::Running, AgentFrame::Output { stream, offset, bytes }) => {
                self.output(*stream, *offset, bytes.len())?;
                Stand::Running
            }
            (Stand::Running, AgentFrame::Truncated { stream }) => {
                let seen = self.seen(*stream);
                if seen.truncated {
                    return Err(Breach::Unfitting("a second truncation"));
                }
                seen.truncated = true;
                Stand::Running
            }
            (Stand::Running, AgentFrame::Ended(ending)) => {
                self.totals(ending)?;
                self.ended()
            }
            (Stand::Waiting, AgentFrame::NotStarted(_)) => self.ended(),
            (_, frame) => return Err(Breach::Unfitting(name(frame))),
        };
        Ok(())
    }

    const fn ended(&self) -> Stand {
        if self.later.is_some() { Stand::Built } else { Stand::Over }
    }

    fn seen(&mut self, stream: Stream) -> &mut Seen {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }

    fn output(&mut self, stream: Stream, offset: u64, length: usize) -> Result<(), Breach> {
        let limit = self.output_bytes;
        let seen = self.seen(stream);
        let fits = length > 0
            && length <= MAX_CHUNK_BYTES
            && offset == seen.bytes
            && !seen.truncated
            && length as u64 <= limit.saturating_sub(seen.bytes);
        if !fits {
            return Err(Breach::Output);
        }
        seen.bytes += length as u64;
        Ok(())
    }

    fn totals(&self, ending: &Ending) -> Result<(), Breach> {
        let fits = |seen: Seen, kept: u64, written: u64| kept == seen.bytes && written >= kept;
        if fits(self.stdout, ending.stdout.kept, ending.stdout.written)
            && fits(self.stderr, ending.stderr.kept, ending.stderr.written)
        {
            Ok(())
        } else {
            Err(Breach::Output)
        }
    }
}

fn name(frame: &AgentFrame) -> &'static str {
    match frame {
        AgentFrame::Hello { .. } => "hello",
        AgentFrame::Started { .. } => "started",
        AgentFrame::Output { .. } => "output",
        AgentFrame::Truncated { .. } => "truncated",
        AgentFrame::Ended(_) => "ended",
        AgentFrame::NotStarted(_) => "not started",
    }
}
