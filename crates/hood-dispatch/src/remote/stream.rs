//! One stream of frames, from a place to whoever listens.

use std::sync::Arc;

use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use hood_wire::dispatch::{Frame, FrameBody, Listen};
use tokio::sync::watch;

use super::book::Told;
use super::convert::report_to_wire;
use super::service::Inner;
use crate::dispatch::{AttemptKey, DispatchError, Link, Report};

/// A listener's side of the book; dropping it says that nobody listens.
pub(super) struct Listening {
    inner: Arc<Inner>,
    key: AttemptKey,
    listen: Listen,
    number: u64,
    told: watch::Receiver<Told>,
    link: Option<Link>,
    /// The last that was sent.
    sent: u64,
    over: bool,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.inner.book().left(self.key, self.number);
        // Nothing more can be said to this stream; what was said and not passed on yet is.
        self.pass_on();
    }
}

/// What a turn of the stream brought.
enum Turn {
    Say(Frame),
    Nothing,
    /// The link gave out.
    Silent,
}

impl Listening {
    pub(super) fn new(
        inner: Arc<Inner>,
        key: AttemptKey,
        listen: Listen,
        (number, told): (u64, watch::Receiver<Told>),
    ) -> Self {
        Self { inner, key, listen, number, told, link: None, sent: listen.after, over: false }
    }

    /// A fresh link to the place, with everything said that the listener said it has.
    pub(super) async fn attach(&mut self) -> Result<(), DispatchError> {
        self.link = Some(self.inner.dispatch.attach(self.key, self.listen.token, 0).await?);
        self.pass_on();
        Ok(())
    }

    /// No more than was sent: a place takes the highest that it is told, and behind one that runs ahead no
    /// true one would be heard any more.
    fn acknowledged(&self) -> u64 {
        self.told.borrow().acknowledged.max(self.listen.acknowledged).min(self.sent)
    }

    async fn next(&mut self) -> Option<Frame> {
        while !self.over {
            match self.turn().await {
                Turn::Say(frame) => return Some(frame),
                Turn::Nothing => {}
                Turn::Silent => {
                    if let Some(frame) = self.look_again().await {
                        return Some(frame);
                    }
                }
            }
        }
        None
    }

    async fn turn(&mut self) -> Turn {
        let Some(link) = &mut self.link else { return Turn::Silent };
        let alive = self.inner.world.sleep(self.inner.config.alive_every);
        tokio::select! {
            biased;
            changed = self.told.changed() => {
                let told = self.told.borrow_and_update().clone();
                match (changed, told.end) {
                    (Ok(()), None) => {
                        self.pass_on();
                        Turn::Nothing
                    }
                    (_, end) => self.end(end.unwrap_or(FrameBody::Replaced)),
                }
            }
            report = link.next() => match report {
                Some(report) => self.say(report),
                None => Turn::Silent,
            },
            () = alive => Turn::Say(Frame { number: 0, body: FrameBody::Alive }),
        }
    }

    fn pass_on(&self) {
        if let Some(link) = &self.link {
            link.acknowledge(self.acknowledged());
        }
    }

    fn say(&mut self, report: Report) -> Turn {
        if report.number <= self.sent {
            return Turn::Nothing;
        }
        self.sent = report.number;
        // It may have been acknowledged already, by one who heard it on another stream.
        self.pass_on();
        Turn::Say(report_to_wire(report))
    }

    fn end(&mut self, body: FrameBody) -> Turn {
        self.over = true;
        Turn::Say(Frame { number: 0, body })
    }

    /// The link gave out while this is still the one who listens: either all is over, or another
    /// stream of the same token had attached and is gone again.
    async fn look_again(&mut self) -> Option<Frame> {
        self.link = None;
        if self.told.borrow().end.is_some() {
            // The next turn would say so; there is no link for one.
            let end = self.told.borrow_and_update().end.clone();
            self.over = true;
            return end.map(|body| Frame { number: 0, body });
        }
        let body = match self.attach().await {
            Ok(()) => return None,
            Err(DispatchError::Stale(_)) => FrameBody::Stale,
            Err(DispatchError::Gone(_)) => {
                self.inner.book().fence(self.key, self.listen.token);
                FrameBody::Closed
            }
            Err(error) => {
                tracing::warn!(place = %self.key, error = %error, "a place does not answer");
                self.over = true;
                return None;
            }
        };
        self.over = true;
        Some(Frame { number: 0, body })
    }
}

pub(super) fn frames(listening: Listening) -> BoxStream<'static, Frame> {
    stream::unfold(listening, |mut listening| async move {
        let frame = listening.next().await?;
        Some((frame, listening))
    })
    .boxed()
}
