//! What the agent waits for.

use std::io;
use std::os::fd::AsFd;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags};

use super::Agent;

/// How much may wait for the starter before no more is read from the link.
const ORDERS_AHEAD: usize = 1 << 20;

/// What [`Agent::wait`] saw.
#[derive(Debug, Default)]
pub(super) struct Events {
    pub(super) link: bool,
    pub(super) link_room: bool,
    pub(super) children: bool,
    pub(super) starter: bool,
    pub(super) starter_room: bool,
    pub(super) foreign: bool,
    pub(super) foreign_over: bool,
    pub(super) input: bool,
    pub(super) outputs: [bool; 2],
}

#[derive(Debug, Clone, Copy)]
enum Source {
    Link,
    Children,
    Starter,
    Foreign,
    Input,
    Output(usize),
}

impl Events {
    fn note(&mut self, source: Source, seen: PollFlags) {
        let readable = seen.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR);
        let room = seen.contains(PollFlags::OUT);
        match source {
            Source::Link => (self.link, self.link_room) = (readable, room),
            Source::Children => self.children = readable,
            Source::Starter => (self.starter, self.starter_room) = (readable, room),
            Source::Foreign => {
                self.foreign = seen.contains(PollFlags::IN);
                // Asked without a call that waits, kernels before 6.11 hold the asker for ever.
                self.foreign_over = readable && !self.foreign;
            }
            Source::Input => self.input = !seen.is_empty(),
            Source::Output(index) => self.outputs[index] = readable,
        }
    }
}

impl Agent {
    /// Waits for any of its descriptors, or for the next thing that time brings.
    pub(super) fn wait(&self) -> io::Result<Events> {
        let (sources, mut fds): (Vec<Source>, Vec<PollFd<'_>>) = self.sources().into_iter().unzip();
        match rustix::event::poll(&mut fds, self.timeout(Instant::now()).as_ref()) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(Events::default()),
            Err(error) => return Err(error.into()),
        }
        let mut events = Events::default();
        for (source, fd) in sources.into_iter().zip(&fds) {
            events.note(source, fd.revents());
        }
        Ok(events)
    }

    fn sources(&self) -> Vec<(Source, PollFd<'_>)> {
        let orders = self.run.orders.pending().len();
        let mut link = PollFlags::empty();
        link.set(PollFlags::IN, orders < ORDERS_AHEAD);
        link.set(PollFlags::OUT, self.link.has_unsent());
        let mut sources = vec![
            (Source::Link, PollFd::new(&self.link, link)),
            (Source::Children, PollFd::new(&self.children, PollFlags::IN)),
        ];
        if self.run.starter_open {
            let mut starter = PollFlags::IN;
            starter.set(PollFlags::OUT, orders > 0);
            sources.push((Source::Starter, PollFd::new(&self.run.starter, starter)));
        }
        if let Some(foreign) = &self.run.foreign {
            sources.push((Source::Foreign, PollFd::from_borrowed_fd(foreign.as_fd(), PollFlags::IN)));
        }
        if let Some(stdin) = self.run.input.waiting() {
            sources.push((Source::Input, PollFd::from_borrowed_fd(stdin, PollFlags::OUT)));
        }
        for (index, fd) in self.run.output.open() {
            sources.push((Source::Output(index), PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        }
        sources
    }
}
