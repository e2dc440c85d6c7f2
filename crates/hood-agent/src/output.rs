//! The program's two streams: read as soon as anything is there, kept up to the limit, counted past
//! it, and sent at once when the link is quiet or in larger pieces when it is busy.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use hood_wire::agent::{AgentFrame, Assignment, MAX_CHUNK_BYTES, OnOutputLimit, Stream, Streams};

/// Least time between two flushes while the program writes little at a time: ten thousand tiny
/// writes become some hundred frames, and a reader still sees each within this time.
const FLUSH_EVERY: Duration = Duration::from_millis(5);
/// Bytes that are worth a frame at once.
const FLUSH_AT: usize = MAX_CHUNK_BYTES / 2;
/// Reads from one pipe before others get their turn.
const READS_PER_TURN: usize = 16;

#[derive(Debug)]
struct Pipe {
    fd: Option<OwnedFd>,
    stream: Stream,
    totals: Streams,
    told: bool,
}

impl Pipe {
    fn new(fd: OwnedFd, stream: Stream) -> Self {
        Self { fd: Some(fd), stream, totals: Streams::default(), told: false }
    }
}

/// Both streams and what of them is not in a frame yet.
#[derive(Debug)]
pub(crate) struct Output {
    pipes: [Pipe; 2],
    limit: u64,
    on_limit: OnOutputLimit,
    /// In order of arrival, neighbours of one stream joined, each at most one frame.
    pending: Vec<(Stream, u64, Vec<u8>)>,
    pending_bytes: usize,
    flushed: Option<Instant>,
    buffer: Vec<u8>,
}

impl Output {
    pub(crate) fn new(stdout: OwnedFd, stderr: OwnedFd) -> Self {
        Self {
            pipes: [Pipe::new(stdout, Stream::Stdout), Pipe::new(stderr, Stream::Stderr)],
            limit: 0,
            on_limit: OnOutputLimit::default(),
            pending: Vec::new(),
            pending_bytes: 0,
            flushed: None,
            buffer: vec![0; MAX_CHUNK_BYTES],
        }
    }

    pub(crate) fn limit(&mut self, assignment: &Assignment) {
        self.limit = assignment.output_bytes;
        self.on_limit = assignment.on_output_limit;
    }

    /// The pipes that are still open.
    pub(crate) fn open(&self) -> impl Iterator<Item = (usize, BorrowedFd<'_>)> {
        self.pipes.iter().enumerate().filter_map(|(index, pipe)| Some((index, pipe.fd.as_ref()?.as_fd())))
    }

    pub(crate) fn is_drained(&self) -> bool {
        self.pipes.iter().all(|pipe| pipe.fd.is_none())
    }

    /// Reads one pipe. `Some`: it has passed the limit, and that is to be the end.
    pub(crate) fn read(&mut self, index: usize) -> Option<Stream> {
        for _ in 0..READS_PER_TURN {
            let fd = self.pipes[index].fd.as_ref()?;
            match rustix::io::read(fd, &mut self.buffer[..]) {
                Ok(0) => {
                    self.pipes[index].fd = None;
                    self.pipes[index].totals.complete = true;
                    return None;
                }
                Ok(count) => {
                    if let Some(stream) = self.take(index, count) {
                        return Some(stream);
                    }
                }
                Err(rustix::io::Errno::INTR) => {}
                // Nothing more for now; a pipe knows no other failure.
                Err(_) => return None,
            }
        }
        None
    }

    fn take(&mut self, index: usize, count: usize) -> Option<Stream> {
        let pipe = &mut self.pipes[index];
        let room = self.limit.saturating_sub(pipe.totals.kept);
        let fitting = usize::try_from(room).unwrap_or(usize::MAX).min(count);
        let (stream, offset) = (pipe.stream, pipe.totals.kept);
        pipe.totals.written += count as u64;
        pipe.totals.kept += fitting as u64;
        let over = pipe.totals.written > self.limit;
        self.keep(stream, offset, fitting);
        (over && self.on_limit == OnOutputLimit::Fail).then_some(stream)
    }

    fn keep(&mut self, stream: Stream, offset: u64, count: usize) {
        let mut fresh = &self.buffer[..count];
        if let Some((last, _, bytes)) = self.pending.last_mut()
            && *last == stream
        {
            let (joined, rest) = fresh.split_at(fresh.len().min(MAX_CHUNK_BYTES - bytes.len()));
            bytes.extend_from_slice(joined);
            fresh = rest;
        }
        if !fresh.is_empty() {
            self.pending.push((stream, offset + (count - fresh.len()) as u64, fresh.to_vec()));
        }
        self.pending_bytes += count;
    }

    /// When the pending bytes want to be sent; `None` if there are none.
    pub(crate) fn flush_at(&self, now: Instant) -> Option<Instant> {
        if self.pending.is_empty() {
            return None;
        }
        match self.flushed {
            Some(flushed) if self.pending_bytes < FLUSH_AT => Some(flushed + FLUSH_EVERY),
            _ => Some(now),
        }
    }

    /// Everything that is pending, as frames; and once per stream, that it was cut.
    pub(crate) fn frames(&mut self, now: Instant) -> Vec<AgentFrame> {
        self.flushed = Some(now);
        self.pending_bytes = 0;
        let pending = std::mem::take(&mut self.pending).into_iter();
        let mut frames: Vec<AgentFrame> =
            pending.map(|(stream, offset, bytes)| AgentFrame::Output { stream, offset, bytes }).collect();
        for pipe in &mut self.pipes {
            if pipe.totals.written > pipe.totals.kept && !pipe.told {
                pipe.told = true;
                frames.push(AgentFrame::Truncated { stream: pipe.stream });
            }
        }
        frames
    }

    /// Whether a cut has not been told yet.
    pub(crate) fn has_news(&self) -> bool {
        !self.pending.is_empty()
            || self.pipes.iter().any(|pipe| pipe.totals.written > pipe.totals.kept && !pipe.told)
    }

    pub(crate) fn totals(&self) -> [Streams; 2] {
        [self.pipes[0].totals, self.pipes[1].totals]
    }
}

/// What is to go to the program's stdin.
#[derive(Debug)]
pub(crate) struct Input {
    fd: Option<OwnedFd>,
    bytes: Vec<u8>,
    written: usize,
    ended: bool,
}

/// Most stdin that the agent holds; a dispatcher that sends more does not keep to what it was
/// told.
const MAX_STDIN_BYTES: usize = 256 << 20;

impl Input {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self { fd: Some(fd), bytes: Vec::new(), written: 0, ended: false }
    }

    pub(crate) fn add(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.ended || self.bytes.len() + bytes.len() > MAX_STDIN_BYTES {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if self.fd.is_some() {
            self.bytes.extend_from_slice(bytes);
        }
        self.write();
        Ok(())
    }

    pub(crate) fn end(&mut self) {
        self.ended = true;
        self.write();
    }

    /// The pipe, while something waits for room in it.
    pub(crate) fn waiting(&self) -> Option<BorrowedFd<'_>> {
        self.fd.as_ref().filter(|_| self.written < self.bytes.len()).map(AsFd::as_fd)
    }

    pub(crate) fn write(&mut self) {
        while let Some(fd) = &self.fd {
            let rest = &self.bytes[self.written..];
            if rest.is_empty() {
                self.bytes = Vec::new();
                self.written = 0;
                if self.ended {
                    self.fd = None;
                }
                return;
            }
            match rustix::io::write(fd, rest) {
                Ok(count) => self.written += count,
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return,
                // The program has closed its stdin: nobody wants the rest.
                Err(_) => {
                    self.bytes = Vec::new();
                    self.written = 0;
                    self.fd = None;
                }
            }
        }
    }
}
