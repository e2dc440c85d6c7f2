//! What comes from the dispatcher. A frame that does not fit where the run stands ends the place.

use std::io;
use std::time::{Duration, Instant};

use hood_sandbox::inside;
use hood_wire::agent::{Assignment, HostFrame, KillCause};
use rustix::net::SendFlags;

use super::{Agent, Phase, Run};

impl Agent {
    /// `Ok(false)`: the dispatcher has closed the link.
    pub(super) fn read_link(&mut self) -> io::Result<bool> {
        if !self.link.receive()? {
            return Ok(false);
        }
        while let Some(frame) = self.link.next()? {
            self.accept(frame)?;
        }
        self.send_orders();
        Ok(true)
    }

    fn accept(&mut self, frame: HostFrame) -> io::Result<()> {
        match (frame, &self.phase) {
            (HostFrame::Assignment(assignment), Phase::Waiting) => {
                assign(self.later.as_mut().unwrap_or(&mut self.run), assignment);
                self.phase = Phase::Loading;
            }
            (HostFrame::Build(assignment), Phase::Loading) if self.later.is_some() => {
                assign(&mut self.run, assignment);
                // A build has no input.
                self.run.input.end();
            }
            (HostFrame::File { path, executable }, Phase::Loading) => self.run.orders.file(&path, executable),
            (HostFrame::FileData(bytes), Phase::Loading) => self.run.orders.data(&bytes),
            (HostFrame::Go, Phase::Loading) => {
                self.run.orders.go();
                self.phase = Phase::Starting { go: Instant::now() };
            }
            (HostFrame::Go, Phase::Built { .. }) => self.go_on(Instant::now())?,
            (HostFrame::Stdin(bytes), phase) if *phase != Phase::Waiting => self.run.input.add(&bytes)?,
            (HostFrame::StdinEnd, phase) if *phase != Phase::Waiting => self.run.input.end(),
            (HostFrame::Ack(number), _) => self.link.acknowledge(number)?,
            (HostFrame::Cancel { grace_ms }, _) => {
                self.end_program(KillCause::Cancel, Duration::from_millis(grace_ms));
            }
            (HostFrame::Kill, _) => self.end_program(KillCause::Kill, Duration::ZERO),
            // The starter may fail, or the program end, while the rest is still on its way.
            (HostFrame::File { .. } | HostFrame::FileData(_) | HostFrame::Go, phase) if is_late(phase) => {}
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
        Ok(())
    }

    pub(super) fn send_orders(&mut self) {
        while !self.run.orders.pending().is_empty() {
            match rustix::net::send(&self.run.starter, self.run.orders.pending(), SendFlags::NOSIGNAL) {
                Ok(sent) => self.run.orders.advance(sent),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return,
                // The starter has ended; its report or its wait status says why.
                Err(_) => self.run.orders.discard(),
            }
        }
    }
}

/// Gives a starter what it will be told to become.
fn assign(run: &mut Run, assignment: Assignment) {
    run.output.limit(&assignment);
    run.orders.run(&inside::Run {
        argv: assignment.argv.clone(),
        env: assignment.env.clone(),
        cwd: assignment.cwd.clone(),
        open_files: assignment.open_files,
        file_bytes: assignment.file_bytes,
        processes: assignment.sampled_processes,
        memory_bytes: assignment.sampled_memory_bytes,
    });
    run.assignment = assignment;
}

fn is_late(phase: &Phase) -> bool {
    matches!(phase, Phase::Draining { .. } | Phase::Over { .. })
}
