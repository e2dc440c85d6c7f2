//! The link's two directions: frames to the dispatcher, kept until acknowledged, and frames from it.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use hood_wire::agent::{AgentFrame, FrameReader, HostFrame, encode};
use rustix::net::{RecvFlags, SendFlags};

/// One read from the link.
const READ_BYTES: usize = 64 * 1024;

#[derive(Debug)]
struct Kept {
    number: u64,
    bytes: Vec<u8>,
}

/// The agent's end of the link.
#[derive(Debug)]
pub(crate) struct Link {
    fd: OwnedFd,
    reader: FrameReader<HostFrame>,
    /// Every frame that is not acknowledged, in order. What bounds it is what bounds output.
    kept: VecDeque<Kept>,
    next_number: u64,
    /// How many of `kept` are sent whole, and how much of the one after them.
    sent: usize,
    sent_bytes: usize,
}

impl Link {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self {
            fd,
            reader: FrameReader::default(),
            kept: VecDeque::new(),
            next_number: 1,
            sent: 0,
            sent_bytes: 0,
        }
    }

    /// Queues a frame and gives the link what it takes at once.
    pub(crate) fn post(&mut self, frame: &AgentFrame) -> io::Result<()> {
        let mut bytes = Vec::new();
        encode(self.next_number, frame, &mut bytes);
        self.kept.push_back(Kept { number: self.next_number, bytes });
        self.next_number += 1;
        self.flush()
    }

    pub(crate) fn has_unsent(&self) -> bool {
        self.sent < self.kept.len()
    }

    /// Nothing is left that the dispatcher might still need.
    pub(crate) fn all_acknowledged(&self) -> bool {
        self.kept.is_empty()
    }

    pub(crate) fn flush(&mut self) -> io::Result<()> {
        while let Some(frame) = self.kept.get(self.sent) {
            match rustix::net::send(&self.fd, &frame.bytes[self.sent_bytes..], SendFlags::NOSIGNAL) {
                Ok(count) => self.sent_bytes += count,
                Err(rustix::io::Errno::AGAIN) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            if self.sent_bytes == frame.bytes.len() {
                self.sent += 1;
                self.sent_bytes = 0;
            }
        }
        Ok(())
    }

    /// Forgets frames up to `number`. One that was never sent cannot be acknowledged.
    pub(crate) fn acknowledge(&mut self, number: u64) -> io::Result<()> {
        while self.kept.front().is_some_and(|frame| frame.number <= number) {
            if self.sent == 0 {
                return Err(io::ErrorKind::InvalidData.into());
            }
            self.kept.pop_front();
            self.sent -= 1;
        }
        Ok(())
    }

    /// Reads what is there. `Ok(false)`: the dispatcher has closed the link.
    pub(crate) fn receive(&mut self) -> io::Result<bool> {
        let mut buffer = [0u8; READ_BYTES];
        match rustix::net::recv(&self.fd, &mut buffer, RecvFlags::empty()) {
            Ok((0, _)) => Ok(false),
            Ok((count, _)) => {
                self.reader.push(&buffer[..count]);
                Ok(true)
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// The next frame of what was read.
    pub(crate) fn next(&mut self) -> io::Result<Option<HostFrame>> {
        let frame = self.reader.next_frame().map_err(io::Error::other)?;
        Ok(frame.map(|(_, frame)| frame))
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
