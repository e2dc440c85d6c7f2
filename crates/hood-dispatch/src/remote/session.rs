//! One attempt's stream, kept up over whatever happens to connections: it begins again after the last
//! report that it has, and what it has is what it passes on, once and in order.

use std::sync::Arc;

use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _};
use hood_wire::dispatch::{Acknowledge, Frame, FrameBody, Listen, ProblemCode};

use super::client::{Found, Inner, locate};
use super::convert::report_from_wire;
use super::peer::Peer;
use super::transport::{Answer, Call, Failure, Frames, Said};
use super::{Backoff, SILENT_AFTER};
use crate::dispatch::{AttemptKey, LinkEnd, Report, ReportBody};

/// Connections that fail one after another before the other dispatchers are asked for the place: it
/// may be one that outlives its dispatcher.
const LOOK_ELSEWHERE_AFTER: u32 = 3;

/// What is held, and with what right.
pub(super) struct Holding {
    pub(super) key: AttemptKey,
    pub(super) token: u64,
    pub(super) id: u64,
}

pub(super) struct Session {
    inner: Arc<Inner>,
    peer: Arc<Peer>,
    key: AttemptKey,
    token: u64,
    id: u64,
    /// Who has the place. Frames of anybody else are not for this attempt.
    executor: String,
    /// Whoever has the place has said that another may have it after it.
    outlives: bool,
    /// The last report that was had from the dispatcher.
    received: u64,
    /// Had, and not passed on yet: it outlives the stream that it came on.
    waiting: Option<Report>,
    /// The number of the last report there will be.
    last: Option<u64>,
    /// The highest acknowledgement that the dispatcher has.
    told: u64,
}

/// Why a stream is no longer listened to.
enum Break {
    /// Another connection may bring more.
    Again(String),
    /// There is nothing more to come, or nobody to hear it.
    Over,
}

type Telling = BoxFuture<'static, (u64, Result<Said<Answer>, Failure>)>;

impl Session {
    pub(super) fn new(inner: Arc<Inner>, holding: Holding, found: Found) -> Self {
        let Holding { key, token, id } = holding;
        let Found { peer, executor, outlives } = found;
        Self {
            inner,
            peer,
            key,
            token,
            id,
            executor,
            outlives,
            received: 0,
            waiting: None,
            last: None,
            told: 0,
        }
    }

    pub(super) async fn run(mut self, mut end: LinkEnd) {
        let mut backoff = Backoff::default();
        let mut failures = 0;
        while self.inner.is_current(self.key, self.id) {
            let before = self.received;
            let why = match self.connect(&end).await {
                Ok(frames) => {
                    if std::mem::take(&mut failures) > 0 {
                        tracing::info!(place = %self.key, dispatcher = %self.peer.address, "a stream goes on");
                    }
                    self.follow(frames, &mut end).await
                }
                Err(why) => why,
            };
            let Break::Again(reason) = why else { break };
            failures += 1;
            if failures == 1 {
                tracing::warn!(place = %self.key, dispatcher = %self.peer.address, reason, "a stream broke");
            }
            if self.received > before {
                backoff.succeeded();
            }
            // Whoever listened may have gone meanwhile, and then nothing is to be fetched.
            tokio::select! {
                biased;
                () = end.reports.closed() => break,
                () = backoff.pause(&*self.inner.world) => {}
            }
            let elsewhere = self.outlives && failures > LOOK_ELSEWHERE_AFTER;
            if elsewhere && !self.look_elsewhere(&end).await {
                break;
            }
        }
        self.inner.let_go(self.key, self.id);
    }

    /// False where the place is proven gone, or nobody wants it any more.
    async fn look_elsewhere(&mut self, end: &LinkEnd) -> bool {
        let located = tokio::select! {
            biased;
            () = end.reports.closed() => return false,
            located = locate(&self.inner, self.key, self.token) => located,
        };
        let Ok(Some(Found { peer, executor, outlives })) = located else { return false };
        if executor != self.executor {
            tracing::info!(place = %self.key, from = %self.executor, to = %executor, "a place is with another dispatcher");
        }
        self.inner.moved(self.key, self.id, &peer);
        (self.peer, self.executor, self.outlives) = (peer, executor, outlives);
        true
    }

    async fn connect(&mut self, end: &LinkEnd) -> Result<Frames, Break> {
        let acknowledged = *end.acknowledged.borrow();
        let listen = Listen { token: self.token, after: self.received, acknowledged };
        match self.peer.listen(&*self.inner.world, self.key, listen).await {
            Ok(Said { by, .. }) if by != self.executor => {
                Err(Break::Again(format!("`{by}` answers where `{}` had the place", self.executor)))
            }
            Ok(Said { what, .. }) => {
                self.told = self.told.max(acknowledged);
                Ok(what)
            }
            Err(Failure::Refused(problem))
                if matches!(problem.code, ProblemCode::Gone | ProblemCode::Stale) =>
            {
                Err(Break::Over)
            }
            Err(failure) => Err(Break::Again(failure.to_string())),
        }
    }

    async fn follow(&mut self, mut frames: Frames, end: &mut LinkEnd) -> Break {
        let mut telling: Option<Telling> = None;
        let mut heard_at = self.inner.world.now();
        loop {
            let acknowledged = *end.acknowledged.borrow_and_update();
            if telling.is_none() && acknowledged > self.told {
                telling = Some(self.tell(acknowledged));
            }
            let silence = (heard_at + SILENT_AFTER).saturating_sub(self.inner.world.now());
            tokio::select! {
                biased;
                (number, told) = passed_on(&mut telling) => {
                    telling = None;
                    match told {
                        Ok(_) => self.told = self.told.max(number),
                        Err(Failure::Refused(problem)) if problem.code == ProblemCode::Stale => return Break::Over,
                        Err(failure) => return Break::Again(failure.to_string()),
                    }
                    if self.last.is_some_and(|last| self.told >= last) {
                        return Break::Over;
                    }
                }
                changed = end.acknowledged.changed() => if changed.is_err() {
                    return self.part(end).await;
                },
                permit = end.reports.reserve(), if self.waiting.is_some() => match permit {
                    Ok(permit) => if let Some(report) = self.waiting.take() { permit.send(report) },
                    Err(_) => return self.part(end).await,
                },
                frame = frames.next(), if self.waiting.is_none() => {
                    heard_at = self.inner.world.now();
                    match frame {
                        Some(Ok(frame)) => match self.hear(frame) {
                            Ok(report) => self.waiting = report,
                            Err(why) => return why,
                        },
                        Some(Err(failure)) => return Break::Again(failure.to_string()),
                        None => return Break::Again("it ended without a last word".to_owned()),
                    }
                }
                () = self.inner.world.sleep(silence), if self.waiting.is_none() => {
                    return Break::Again("nothing was heard for too long".to_owned());
                }
            }
        }
    }

    fn tell(&self, number: u64) -> Telling {
        let acknowledge = Acknowledge { token: self.token, number };
        let (inner, peer, key) = (Arc::clone(&self.inner), Arc::clone(&self.peer), self.key);
        async move { (number, peer.call(&*inner.world, Call::Acknowledge { key, acknowledge }).await) }
            .boxed()
    }

    /// What a frame means here; one that was had already means nothing.
    fn hear(&mut self, frame: Frame) -> Result<Option<Report>, Break> {
        match frame.body {
            FrameBody::Stale | FrameBody::Replaced | FrameBody::Closed => return Err(Break::Over),
            _ => {}
        }
        let number = frame.number;
        let body = report_from_wire(frame.body).map_err(|unknown| Break::Again(unknown.to_string()))?;
        let Some(body) = body.filter(|_| number > self.received) else { return Ok(None) };
        // The first that a session hears follows what an earlier one had acknowledged.
        if self.received > 0 && number != self.received + 1 {
            return Err(Break::Again(format!("report {number} came after {}", self.received)));
        }
        self.received = number;
        if matches!(body, ReportBody::Ended(_)) {
            self.last = Some(number);
        }
        Ok(Some(Report { number, body }))
    }

    /// The worker has let go of its link; what it acknowledged before it did is still passed on.
    async fn part(&mut self, end: &LinkEnd) -> Break {
        let acknowledged = *end.acknowledged.borrow();
        if acknowledged <= self.told {
            return Break::Over;
        }
        let mut backoff = Backoff::default();
        let until = self.inner.world.now() + crate::local::ORPHAN_AFTER;
        while self.inner.world.now() < until {
            match self.tell(acknowledged).await.1 {
                Err(Failure::Unreachable(_)) => backoff.pause(&*self.inner.world).await,
                Ok(_) | Err(Failure::Refused(_)) => return Break::Over,
            }
        }
        Break::Over
    }
}

/// Cancel safe: what is under way stays so.
async fn passed_on(telling: &mut Option<Telling>) -> (u64, Result<Said<Answer>, Failure>) {
    match telling {
        Some(telling) => telling.await,
        None => std::future::pending().await,
    }
}
