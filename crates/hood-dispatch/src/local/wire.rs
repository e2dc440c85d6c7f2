//! The byte stream to an agent, as frames in both directions.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;

use hood_core::program::File;
use hood_core::{Limits, Program};
use hood_wire::agent::{
    AgentFrame, Assignment, Breach, Conversation, FrameError, FrameReader, HostFrame, MAX_CHUNK_BYTES,
    OnOutputLimit, encode,
};
use tokio::io::Interest;
use tokio::net::UnixStream;

use super::ORPHAN_AFTER;
use crate::dispatch::Order;

/// Read at once from the agent.
const READ_BYTES: usize = 128 * 1024;

/// What an agent did that no honest agent does, or that its stream broke.
#[derive(Debug, thiserror::Error)]
pub(super) enum WireError {
    #[error("the link to the agent broke")]
    Io(#[from] io::Error),
    #[error("the agent sent what is no frame")]
    Frame(#[from] FrameError),
    #[error("the agent broke the protocol")]
    Breach(#[from] Breach),
}

/// Our end of the link. What is to be sent waits here until the agent's socket takes it.
#[derive(Debug)]
pub(super) struct Wire {
    stream: UnixStream,
    reader: FrameReader<AgentFrame>,
    conversation: Conversation,
    sent: u64,
    outgoing: VecDeque<HostFrame>,
    bytes: Vec<u8>,
    written: usize,
    buffer: Vec<u8>,
}

impl Wire {
    pub(super) fn new(link: OwnedFd, conversation: Conversation) -> io::Result<Self> {
        Ok(Self {
            stream: UnixStream::from_std(StdStream::from(link))?,
            reader: FrameReader::default(),
            conversation,
            sent: 0,
            outgoing: VecDeque::new(),
            bytes: Vec::new(),
            written: 0,
            buffer: vec![0; READ_BYTES],
        })
    }

    /// The build has ended well: what comes next is of the program.
    pub(super) fn go_on(&mut self) {
        self.conversation.go_on();
    }

    pub(super) fn send(&mut self, frame: HostFrame) {
        self.outgoing.push_back(frame);
    }

    /// Overtakes stdin that waits: a cancel does not queue behind gigabytes.
    pub(super) fn send_urgent(&mut self, frame: HostFrame) {
        let is_stdin = |frame: &HostFrame| matches!(frame, HostFrame::Stdin(_) | HostFrame::StdinEnd);
        let index = self.outgoing.iter().position(is_stdin).unwrap_or(self.outgoing.len());
        self.outgoing.insert(index, frame);
    }

    /// Sends what waits and gives the next frame of the agent; `None` at its end of file. With
    /// `read` false it only sends. Cancel safe: nothing is lost if the future is dropped.
    pub(super) async fn turn(&mut self, read: bool) -> Result<Option<(u64, AgentFrame)>, WireError> {
        loop {
            if read && let Some((number, frame)) = self.reader.next_frame()? {
                self.conversation.accept(&frame)?;
                return Ok(Some((number, frame)));
            }
            let interest = match (read, self.encode_next()) {
                (true, true) => Interest::READABLE | Interest::WRITABLE,
                (true, false) => Interest::READABLE,
                (false, true) => Interest::WRITABLE,
                (false, false) => return std::future::pending().await,
            };
            let ready = self.stream.ready(interest).await?;
            if ready.is_writable() {
                self.write()?;
            }
            if read && (ready.is_readable() || ready.is_read_closed()) && self.read()? == Some(0) {
                return Ok(None);
            }
        }
    }

    /// True while there is something to write. Frames are numbered as they leave.
    fn encode_next(&mut self) -> bool {
        if self.written < self.bytes.len() {
            return true;
        }
        self.bytes.clear();
        self.written = 0;
        let Some(frame) = self.outgoing.pop_front() else { return false };
        self.sent += 1;
        encode(self.sent, &frame, &mut self.bytes);
        true
    }

    fn write(&mut self) -> io::Result<()> {
        while self.encode_next() {
            match self.stream.try_write(&self.bytes[self.written..]) {
                Ok(written) => self.written += written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // The agent's last words may still be waiting to be read.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                    self.outgoing.clear();
                    self.bytes.clear();
                    self.written = 0;
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn read(&mut self) -> io::Result<Option<usize>> {
        match self.stream.try_read(&mut self.buffer) {
            Ok(length) => {
                self.reader.push(&self.buffer[..length]);
                Ok(Some(length))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(Some(0)),
            Err(error) => Err(error),
        }
    }
}

/// Everything that the agent gets before it is told to go.
pub(super) fn load(order: &mut Order, sampled: Sampled) -> Vec<HostFrame> {
    let limits = &order.assignment.limits;
    let program = &order.program;
    let mut frames = vec![HostFrame::Assignment(assignment(order, &program.argv, (limits, sampled)))];
    if let Some(build) = &program.build {
        frames.push(HostFrame::Build(assignment(order, &build.argv, (&build.limits, sampled))));
    }
    for File { path, content, executable } in std::mem::take(&mut order.program.files) {
        frames.push(HostFrame::File { path: path.into_bytes(), executable });
        frames.extend(content.chunks(MAX_CHUNK_BYTES).map(|chunk| HostFrame::FileData(chunk.to_vec())));
    }
    frames
}

fn assignment(order: &Order, argv: &[String], (limits, sampled): (&Limits, Sampled)) -> Assignment {
    let program = &order.program;
    Assignment {
        argv: argv.iter().map(|argument| argument.clone().into_bytes()).collect(),
        env: program.env.iter().map(|(name, value)| format!("{name}={value}").into_bytes()).collect(),
        cwd: program.cwd.as_bytes().to_vec(),
        wall_ms: limits.wall_ms,
        grace_ms: millis(order.conduct.grace),
        output_bytes: limits.output_bytes,
        on_output_limit: if order.conduct.fail_on_output_limit {
            OnOutputLimit::Fail
        } else {
            OnOutputLimit::Truncate
        },
        open_files: limits.open_files,
        file_bytes: limits.file_bytes,
        sampled_memory_bytes: sampled.memory.then_some(limits.memory_bytes),
        sampled_processes: sampled.processes.then_some(limits.processes),
        orphan_after_ms: millis(ORPHAN_AFTER),
        traceparent: order.traceparent.clone().unwrap_or_default(),
    }
}

/// Stdin, which may go on arriving while the program runs.
pub(super) fn stdin(program: &mut Program) -> Vec<HostFrame> {
    let stdin = std::mem::take(&mut program.stdin);
    let mut frames: Vec<HostFrame> =
        stdin.chunks(MAX_CHUNK_BYTES).map(|chunk| HostFrame::Stdin(chunk.to_vec())).collect();
    frames.push(HostFrame::StdinEnd);
    frames
}

/// Which limits the agent must hold by looking, because no group holds them here.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sampled {
    pub(super) memory: bool,
    pub(super) processes: bool,
}

pub(super) fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use hood_wire::agent::{Ending, Exit, Stream, Streams, Usage, VERSION};

    use super::*;

    const OUTPUT_BYTES: u64 = 10;

    fn hello() -> AgentFrame {
        AgentFrame::Hello { version: VERSION, oldest: VERSION }
    }

    fn output(offset: u64, bytes: &[u8]) -> AgentFrame {
        AgentFrame::Output { stream: Stream::Stdout, offset, bytes: bytes.to_vec() }
    }

    fn ended() -> AgentFrame {
        AgentFrame::Ended(Ending {
            exit: Exit::Code(0),
            cause: None,
            killed: false,
            usage: Usage::default(),
            stdout: Streams::default(),
            stderr: Streams::default(),
            foreign_call: None,
        })
    }

    fn frames(frames: &[(u64, AgentFrame)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (number, frame) in frames {
            encode(*number, frame, &mut bytes);
        }
        bytes
    }

    /// What an agent that somebody took over says, and what becomes of it: the first error, or how
    /// many frames were believed.
    async fn believe(said: &[u8]) -> Result<usize, WireError> {
        let (ours, mut theirs) = StdStream::pair().expect("a pair");
        ours.set_nonblocking(true).expect("unblocked");
        theirs.write_all(said).expect("fits the socket");
        drop(theirs);
        let mut wire = Wire::new(ours.into(), Conversation::new(OUTPUT_BYTES))?;
        let mut believed = 0;
        while wire.turn(true).await?.is_some() {
            believed += 1;
        }
        Ok(believed)
    }

    #[tokio::test]
    async fn an_honest_agent_is_believed() {
        let started = AgentFrame::Started { setup_us: 1 };
        let said = frames(&[(1, hello()), (2, started), (3, output(0, b"0123456789"))]);
        assert_eq!(believe(&said).await.expect("honest"), 3);
    }

    #[tokio::test]
    async fn each_breach_ends_the_conversation() {
        let started = || AgentFrame::Started { setup_us: 1 };
        let lies: [(&str, Vec<u8>); 8] = [
            ("a number left out", frames(&[(1, hello()), (3, started())])),
            ("a number twice", frames(&[(1, hello()), (1, started())])),
            ("an end before a start", frames(&[(1, hello()), (2, ended())])),
            (
                "more output than was asked for",
                frames(&[(1, hello()), (2, started()), (3, output(0, b"0123456789a"))]),
            ),
            ("a gap in the output", frames(&[(1, hello()), (2, started()), (3, output(1, b"x"))])),
            (
                "a frame after the last",
                frames(&[(1, hello()), (2, started()), (3, ended()), (4, output(0, b"x"))]),
            ),
            ("a length beyond all bounds", u32::MAX.to_le_bytes().to_vec()),
            ("what is no frame", vec![b'x'; 64]),
        ];
        for (what, said) in lies {
            assert!(believe(&said).await.is_err(), "{what} was believed");
        }
    }
}
