//! The terminal frame.

use std::io;
use std::time::{Duration, Instant};

use hood_sandbox::inside::{self, Outcome, Report, read_report};
use hood_wire::agent::{AgentFrame, EarlyEnd, Ending, Exit, ForeignCall, Lacking, Stage};

use super::{Agent, Phase, micros};

impl Agent {
    /// Posts what is left of the output and the one terminal frame.
    pub(super) fn finish(&mut self, now: Instant) -> io::Result<()> {
        let Phase::Draining { exit, wall, .. } = self.phase else { return Ok(()) };
        let frame = match wall {
            Some(wall) => {
                if self.run.output.has_news() {
                    self.post_output(now)?;
                }
                self.ran(exit, wall)
            }
            None => AgentFrame::NotStarted(self.did_not_run(exit)),
        };
        self.link.post(&frame)?;
        let patience = Duration::from_millis(self.run.assignment.orphan_after_ms.min(u64::from(u32::MAX)));
        let until = now + patience;
        self.phase = if self.later.is_some() { Phase::Built { until } } else { Phase::Over { until } };
        Ok(())
    }

    fn ran(&mut self, exit: Exit, wall: Duration) -> AgentFrame {
        self.run.usage.wall_us = micros(wall);
        let [stdout, stderr] = self.run.output.totals();
        AgentFrame::Ended(Ending {
            exit,
            cause: self.run.killing.as_ref().map(|killing| killing.cause),
            killed: self.run.killing.as_ref().is_some_and(|killing| killing.killed),
            usage: self.run.usage,
            stdout,
            stderr,
            foreign_call: self
                .run
                .foreign_call
                .map(|call| ForeignCall { arch: call.arch, number: call.number }),
        })
    }

    fn did_not_run(&self, exit: Exit) -> EarlyEnd {
        match read_report(&self.run.heard, true) {
            Report::Failed { outcome, errno, detail, lacking } => {
                let stage = match outcome {
                    Outcome::Setup => Stage::Setup,
                    Outcome::Inputs => Stage::Inputs,
                    Outcome::Cwd => Stage::Cwd,
                    Outcome::Exec => Stage::Exec,
                };
                let lacking = lacking.map(|lacking| match lacking {
                    inside::Lacking::Interpreter(path) => Lacking::Interpreter(path),
                    inside::Lacking::Loader(path) => Lacking::Loader(path),
                    inside::Lacking::Directory(path) => Lacking::Directory(path),
                    inside::Lacking::Unreadable(path) => Lacking::Unreadable(path),
                    inside::Lacking::Unsearched => Lacking::Unsearched,
                });
                EarlyEnd::Refused { stage, errno, detail, lacking }
            }
            Report::Unfinished | Report::Running { .. } | Report::Vanished => {
                EarlyEnd::Died { exit, cause: self.run.killing.as_ref().map(|killing| killing.cause) }
            }
        }
    }
}
