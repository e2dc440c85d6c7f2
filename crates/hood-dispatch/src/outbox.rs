//! Reports on their way to the worker, kept until they are acknowledged, so that a worker which
//! comes later can have what the one before it had not written down. Whatever the place is, this is
//! the end of the link that is its own.

use std::collections::VecDeque;

use crate::dispatch::{Link, LinkEnd, Report, ReportBody, link};

/// Output that is kept here at most; what is more waits in the agent, which has room for it.
const KEPT_BYTES_MAX: usize = 1024 * 1024;

#[derive(Debug)]
struct Kept {
    report: Report,
    /// The agent's frame that it came from, to acknowledge there.
    frame: u64,
    bytes: usize,
}

#[derive(Debug, Default)]
pub struct Outbox {
    end: Option<LinkEnd>,
    kept: VecDeque<Kept>,
    /// How many of the kept ones are sent on the current link.
    sent: usize,
    last: u64,
    acknowledged: u64,
    bytes: usize,
}

/// What a turn of the outbox brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Reports up to `report` are durable, and with them the agent's frames up to `frame`.
    Acknowledged { report: u64, frame: u64 },
    /// The worker is gone; another may attach.
    Abandoned,
}

enum Step {
    Sent,
    Acknowledged(u64),
}

impl Outbox {
    pub fn push(&mut self, frame: u64, body: ReportBody) {
        let bytes = match &body {
            ReportBody::Output { bytes, .. } => bytes.len(),
            ReportBody::Ready { .. } | ReportBody::Ended(_) => 0,
        };
        self.last += 1;
        self.bytes += bytes;
        self.kept.push_back(Kept { report: Report { number: self.last, body }, frame, bytes });
    }

    /// Whether more of the agent's frames can be taken in.
    pub fn has_room(&self) -> bool {
        self.bytes < KEPT_BYTES_MAX
    }

    /// Everything that was reported is acknowledged.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    pub const fn is_attended(&self) -> bool {
        self.end.is_some()
    }

    /// A new link, on which everything kept after `after` is sent again.
    pub fn attach(&mut self, after: u64) -> Link {
        let (ours, theirs) = link(self.acknowledged.max(after));
        self.end = Some(theirs);
        self.sent = 0;
        ours
    }

    /// Sends what can be sent until something is acknowledged or the worker goes. Cancel safe.
    pub async fn turn(&mut self) -> Turn {
        while let Some(step) = self.step().await {
            match step {
                Step::Sent => self.sent += 1,
                Step::Acknowledged(report) => return self.acknowledge(report),
            }
        }
        self.unread().unwrap_or_else(|| {
            self.end = None;
            Turn::Abandoned
        })
    }

    /// What the worker acknowledged before it went, and nobody has looked at.
    pub fn unread(&mut self) -> Option<Turn> {
        let acknowledged = (*self.end.as_ref()?.acknowledged.borrow()).min(self.last);
        (acknowledged > self.acknowledged).then(|| self.acknowledge(acknowledged))
    }

    async fn step(&mut self) -> Option<Step> {
        let Some(end) = &mut self.end else { return std::future::pending().await };
        let unsent = self.kept.get(self.sent);
        tokio::select! {
            biased;
            changed = end.acknowledged.changed() => {
                changed.ok()?;
                Some(Step::Acknowledged(*end.acknowledged.borrow_and_update()))
            }
            permit = end.reports.reserve(), if unsent.is_some() => {
                permit.ok()?.send(unsent?.report.clone());
                Some(Step::Sent)
            }
        }
    }

    /// What was not said yet cannot be durable. Taken at its word, such a number would pass for the
    /// highest ever after, and nothing that is acknowledged later would be forgotten.
    fn acknowledge(&mut self, number: u64) -> Turn {
        let number = number.min(self.last);
        let mut frame = 0;
        while let Some(kept) = self.kept.pop_front_if(|kept| kept.report.number <= number) {
            frame = kept.frame;
            self.bytes -= kept.bytes;
            self.sent = self.sent.saturating_sub(1);
        }
        self.acknowledged = self.acknowledged.max(number);
        Turn::Acknowledged { report: number, frame }
    }
}
