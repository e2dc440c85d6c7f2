//! One attempt, from its lease to its end. What it learns arrives as reports of the place; what it
//! decides is written in one transaction with the lease's token, and acknowledged only after that.

use std::time::Duration;

use hood_core::lifecycle::{AfterLoss, AnyEvaluation, Transition};
use hood_core::outcome::{Outcome, judge};
use hood_core::plan::{Demand, RefusalCode, plan};
use hood_core::retry::Loss;
use hood_core::{Assignment, Limits, Observation, Program, Refusal, State, Timestamp, Verdict};
use hood_dispatch::{AttemptKey, Catalogue, Conduct, DispatchError, Link, Order, Report, ReportBody};
use hood_store::{Chunk, Claimed, Commit, CommitError};
use hood_wire::api;
use tracing::Instrument as _;

use super::evidence;
use super::leases::{Held, Told};
use super::{Means, Shared, request};
use crate::document::{self, AcceptedDocument, Moments, ResultDocument, decision_document};
use crate::telemetry::metrics::{
    record_attempt, record_committed, record_finished, record_lease_lost, record_lost, record_retry,
    record_taken_over,
};
use crate::telemetry::traces::{Part, Trace, trace_id};

/// Output gathered into one commit at most; what is more goes into the next.
const COMMIT_OUTPUT_BYTES: usize = 1024 * 1024;

/// While the store does not answer, an attempt tries again until its lease is gone.
const COMMIT_PAUSE_FIRST: Duration = Duration::from_millis(20);
const COMMIT_PAUSE_CAP: Duration = Duration::from_secs(2);

/// Between two looks at whether an executor has been heard of.
const OFFER_PAUSE: Duration = Duration::from_millis(100);

/// How an attempt came to this worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// Claimed from the queue: a place is to be made.
    Fresh,
    /// A lapsed lease: the place is there, or it is proven dead.
    TakenOver,
}

/// Why an attempt stops without having ended.
#[derive(Debug)]
enum Stop {
    /// Somebody else holds it now and goes on with it.
    LeaseLost,
    /// What was to be written contradicts what is written.
    Refused(CommitError),
}

pub(super) async fn run(shared: &Shared, mut claimed: Claimed, held: Held, entry: Entry) {
    let key = AttemptKey { evaluation: claimed.lease.evaluation, attempt: claimed.lease.attempt };
    let begun_at = shared.means.clock.now();
    let request = request::read(&shared.means, &mut claimed, &held).await;
    let accepted = request.and_then(|request| Attempt::read(&request));
    let parent = accepted.as_ref().ok().and_then(|accepted| accepted.traceparent.clone());
    let trace = traced(&claimed, entry, parent.as_deref(), begun_at);
    let traceparent = trace.traceparent().or(parent);
    let span = tracing::info_span!(
        "attempt",
        evaluation.id = %key.evaluation,
        attempt = key.attempt,
        trace.id = traceparent.as_deref().and_then(trace_id),
    );
    let (evaluation, created_at) = (claimed.evaluation, claimed.created_at);
    let moments = Moments::default();
    let attempt = Attempt { shared, key, evaluation, created_at, held, moments, trace, traceparent };
    see_through(attempt, accepted, entry).instrument(span).await;
}

/// From the lease to the end: of a first attempt also the wait before it.
fn traced(claimed: &Claimed, entry: Entry, parent: Option<&str>, now: Timestamp) -> Trace {
    let Claimed { lease, created_at, .. } = claimed;
    if entry == Entry::Fresh && lease.attempt == 1 {
        let queued = Trace::begin_at("queue", Part::Consumer, parent, *created_at);
        queued.note("evaluation.id", lease.evaluation.to_string());
        queued.end_at(now);
    }
    let trace = Trace::begin("attempt", Part::Consumer, parent);
    trace.note("evaluation.id", lease.evaluation.to_string());
    trace.note("attempt", i64::from(lease.attempt));
    trace.note("taken_over", entry == Entry::TakenOver);
    trace
}

async fn see_through(mut attempt: Attempt<'_>, accepted: Result<Accepted, String>, entry: Entry) {
    let (shared, key) = (attempt.shared, attempt.key);
    match entry {
        Entry::Fresh => record_attempt(),
        Entry::TakenOver => record_taken_over(),
    }
    let mut ended = match accepted {
        Ok(accepted) => attempt.go(&accepted, entry).await,
        Err(reason) => attempt.lose_unread(reason, entry).await,
    };
    if let Err(Stop::Refused(error)) = ended {
        shared.means.dispatch.cancel(key, Duration::ZERO);
        ended = attempt.lose(&Lost::ours(error.to_string())).await;
    }
    match ended {
        Ok(()) => {}
        Err(Stop::LeaseLost) => {
            attempt.trace.fail("lease lost");
            record_lease_lost();
            tracing::warn!("lease lost; its new holder goes on");
        }
        Err(Stop::Refused(error)) => {
            attempt.trace.fail(error.to_string());
            tracing::error!(error = %error, "left to lapse");
        }
    }
    shared.leases.release(&attempt.held);
}

struct Attempt<'a> {
    shared: &'a Shared,
    key: AttemptKey,
    evaluation: AnyEvaluation,
    created_at: Timestamp,
    held: Held,
    /// Of this worker's own hearing: those before it took the attempt over are not known.
    moments: Moments,
    trace: Trace,
    /// The context for the place: this attempt's, or whatever came with the submission.
    traceparent: Option<String>,
}

/// An attempt that did not end, and everything known about why.
struct Lost<'a> {
    reason: String,
    seen: Option<&'a Observation>,
    assignment: Option<&'a Assignment>,
}

impl Lost<'_> {
    const fn ours(reason: String) -> Self {
        Self { reason, seen: None, assignment: None }
    }
}

/// What was accepted, as the core sees it.
struct Accepted {
    program: Program,
    limits: Limits,
    environment: String,
    conduct: Conduct,
    traceparent: Option<String>,
}

impl Attempt<'_> {
    fn read(request: &str) -> Result<Accepted, String> {
        let accepted: AcceptedDocument = serde_json::from_str(request)
            .map_err(|error| format!("the stored request cannot be read: {error}"))?;
        let (source, errors) = document::source_to_core(&accepted.submission);
        if let Some(error) = errors.first() {
            return Err(format!("the stored request cannot be laid out: {}: {}", error.path, error.message));
        }
        let limits = document::limits_from_wire(&accepted.limits).ok_or("the stored request lacks limits")?;
        let build = accepted.build.as_ref().and_then(document::limits_from_wire);
        let start = document::start_to_core(accepted.image.as_ref(), accepted.code.as_ref());
        let program = source
            .lay_out(&start, &build.unwrap_or(limits))
            .map_err(|problems| format!("the stored request cannot be laid out: {problems:?}"))?;
        Ok(Accepted {
            program,
            limits,
            conduct: Conduct {
                grace: Duration::from_millis(accepted.grace_ms),
                fail_on_output_limit: accepted.submission.on_output_limit == api::OnOutputLimit::Fail,
            },
            environment: accepted.environment,
            traceparent: accepted.traceparent,
        })
    }

    async fn go(&mut self, accepted: &Accepted, entry: Entry) -> Result<(), Stop> {
        if matches!(self.evaluation, AnyEvaluation::Provisioning(_)) && self.told().cancel.is_some() {
            return self.cancel_early().await;
        }
        match entry {
            Entry::Fresh => self.begin(accepted).await,
            Entry::TakenOver => self.take_over(accepted).await,
        }
    }

    /// Nobody knows what it is to do.
    async fn lose_unread(&mut self, reason: String, entry: Entry) -> Result<(), Stop> {
        self.check_lease()?;
        if entry == Entry::TakenOver {
            // Whatever place it has runs for nobody.
            self.shared.means.dispatch.cancel(self.key, Duration::ZERO);
        }
        if matches!(self.evaluation, AnyEvaluation::Provisioning(_)) && self.told().cancel.is_some() {
            return self.cancel_early().await;
        }
        self.lose(&Lost::ours(reason)).await
    }

    async fn begin(&mut self, accepted: &Accepted) -> Result<(), Stop> {
        let assignment = match self.plan(accepted, &self.shared.means.dispatch.capacity()) {
            Ok(assignment) => assignment,
            Err(refusal) if refusal.code.may_pass() => return self.put_off(&refusal).await,
            Err(refusal) => return self.refuse(&refusal).await,
        };
        let order = Order {
            key: self.key,
            token: self.held.lease.token,
            assignment: assignment.clone(),
            program: accepted.program.clone(),
            conduct: accepted.conduct,
            traceparent: self.traceparent.clone(),
        };
        let mut told = self.held.told.clone();
        let opened = tokio::select! {
            biased;
            () = stopped(&mut told) => {
                // A place whose lease was lost is its new holder's, who may be running it.
                self.check_lease()?;
                self.shared.means.dispatch.cancel(self.key, Duration::ZERO);
                return self.cancel_early().await;
            }
            opened = self.shared.means.dispatch.execute(order) => opened,
        };
        match opened {
            Ok(link) => self.follow(link, &assignment, accepted).await,
            Err(error) => self.unopened(&error, Some(&assignment)).await,
        }
    }

    /// The place first: whether it is there is a question of its own, and what is offered to others
    /// just now decides nothing about it.
    async fn take_over(&mut self, accepted: &Accepted) -> Result<(), Stop> {
        let dispatch = &self.shared.means.dispatch;
        let mut told = self.held.told.clone();
        let opened = tokio::select! {
            biased;
            () = lease_lost(&mut told) => return Err(Stop::LeaseLost),
            opened = dispatch.attach(self.key, self.held.lease.token, 0) => opened,
        };
        let link = match opened {
            Ok(link) => link,
            Err(error) => return self.unopened(&error, None).await,
        };
        match self.plan_again(accepted, &link).await? {
            Ok(assignment) => self.follow(link, &assignment, accepted).await,
            Err(refusal) => {
                dispatch.cancel(self.key, Duration::ZERO);
                self.refuse(&refusal).await
            }
        }
    }

    /// The decision anew, for a place that is there whatever is offered to others. An executor that
    /// this worker has not heard of yet, having just begun, is waited for: it has answered once.
    async fn plan_again(
        &self,
        accepted: &Accepted,
        link: &Link,
    ) -> Result<Result<Assignment, Refusal>, Stop> {
        let Means { dispatch, clock, .. } = &self.shared.means;
        let mut told = self.held.told.clone();
        loop {
            let mut catalogue = (*dispatch.capacity()).clone();
            let known = |executor| catalogue.offers.iter().any(|offer| offer.executor == executor);
            if link.executor().is_none_or(known) {
                for offer in &mut catalogue.offers {
                    offer.open = true;
                    offer.capacity.places = offer.capacity.places.max(1);
                }
                let executor = link.executor().map(str::to_owned);
                return Ok(self.plan(accepted, &catalogue).map(|assignment| match executor {
                    Some(executor) => Assignment { executor, ..assignment },
                    None => assignment,
                }));
            }
            tokio::select! {
                biased;
                () = lease_lost(&mut told) => return Err(Stop::LeaseLost),
                () = clock.sleep(OFFER_PAUSE) => {}
            }
        }
    }

    async fn unopened(&mut self, error: &DispatchError, assignment: Option<&Assignment>) -> Result<(), Stop> {
        match error {
            DispatchError::Gone(_) => {
                let reason = "its place died with the process that owned it".to_owned();
                self.lose_as(Loss::OwnDeath, &Lost::ours(reason)).await
            }
            DispatchError::Stale(_) => Err(Stop::LeaseLost),
            DispatchError::Environment { .. } if !self.others_may(assignment) => {
                let code = RefusalCode::EnvironmentFailed;
                let reason = format!(
                    "{error}; trying again gives the same until its declaration, its host or its import is mended"
                );
                self.refuse(&Refusal { code, reason }).await
            }
            // Of one that does not fit, too: the next attempt is decided with what is offered by then.
            DispatchError::Environment { .. } | DispatchError::Place(_) | DispatchError::TooLarge(_) => {
                let lost = Lost { reason: error.to_string(), seen: None, assignment };
                self.lose(&lost).await
            }
        }
    }

    fn others_may(&self, assignment: Option<&Assignment>) -> bool {
        let catalogue = self.shared.means.dispatch.capacity();
        assignment.is_some_and(|one| catalogue.others_may_have(&one.environment, &one.executor))
    }

    fn plan(&self, accepted: &Accepted, catalogue: &Catalogue) -> Result<Assignment, Refusal> {
        let Some(environment) = catalogue.environment(&accepted.environment) else {
            return Err(not_offered(&accepted.environment, &catalogue.silent));
        };
        let build = accepted.program.build.as_ref().map(|build| build.limits);
        let demand = Demand { limits: accepted.limits, build, class: environment.facts.class() };
        plan(&demand, &environment.facts, &catalogue.offers, self.shared.config.policy)
    }

    /// Listens to the place until its last word is written down.
    async fn follow(
        &mut self,
        mut link: Link,
        assignment: &Assignment,
        accepted: &Accepted,
    ) -> Result<(), Stop> {
        let mut told = self.held.told.clone();
        told.mark_changed();
        loop {
            let report = tokio::select! {
                biased;
                Ok(()) = told.changed() => {
                    let Told { cancel, lost } = *told.borrow_and_update();
                    if lost {
                        return Err(Stop::LeaseLost);
                    }
                    if let Some(intent) = cancel {
                        let grace = intent.grace_ms.map_or(accepted.conduct.grace, Duration::from_millis);
                        self.shared.means.dispatch.cancel(self.key, grace);
                    }
                    continue;
                }
                report = link.next() => report,
            };
            let Some(report) = report else {
                let reason = "the place went silent before its last word".to_owned();
                let lost = Lost { reason, seen: None, assignment: Some(assignment) };
                return self.lose(&lost).await;
            };
            if self.take(report, &mut link, assignment, accepted).await? {
                return Ok(());
            }
        }
    }

    /// Writes one report, and what has queued up behind it, in one transaction. True at the end.
    async fn take(
        &mut self,
        first: Report,
        link: &mut Link,
        assignment: &Assignment,
        accepted: &Accepted,
    ) -> Result<bool, Stop> {
        let mut commit = Commit::default();
        let mut next = Some(first);
        let mut gathered = 0;
        let mut highest = 0;
        let mut last_word = None;
        while let Some(report) = next {
            highest = report.number;
            match report.body {
                ReportBody::Ready { environment_digest } => {
                    self.release(&mut commit, assignment, environment_digest)
                }
                ReportBody::Output { stream, offset, bytes } => {
                    gathered += bytes.len();
                    commit.output.push(Chunk { stream, offset, bytes });
                }
                ReportBody::Ended(seen) => {
                    self.moments.ended_at = Some(self.shared.means.clock.now().as_micros());
                    last_word = Some(seen);
                }
            }
            let room = last_word.is_none() && gathered < COMMIT_OUTPUT_BYTES;
            next = if room { link.try_next() } else { None };
        }
        let Some(seen) = last_word else {
            let released = commit.transitions.iter().any(|t| t.to() == State::Running);
            self.commit(commit).await?;
            if released {
                self.moments.started_at = Some(self.shared.means.clock.now().as_micros());
            }
            link.acknowledge(highest);
            return Ok(false);
        };
        match self.judge(&seen, accepted) {
            Some(outcome) => {
                let suspect = self.evaluation.history().losses.suspect > 0;
                let result = ResultDocument::of_run(&outcome, &seen, assignment, suspect);
                self.end(commit, outcome.verdict, &result).await?;
            }
            None => {
                self.commit(commit).await?;
                let reason = seen.lost.clone().unwrap_or_else(|| match seen.kill {
                    Some(_) => "it was ended by somebody who did not hold it any more".to_owned(),
                    None => "nothing says how it ended".to_owned(),
                });
                let lost = Lost { reason, seen: Some(&seen), assignment: Some(assignment) };
                self.lose(&lost).await?;
            }
        }
        link.acknowledge(highest);
        Ok(true)
    }

    /// A cancel that nobody asked for is no verdict: a worker that lost its lease, or one that shuts
    /// down, ended a place that is not its own any more.
    fn judge(&self, seen: &Observation, accepted: &Accepted) -> Option<Outcome> {
        let asked = self.told().cancel.is_some();
        judge(seen, &accepted.limits).filter(|outcome| asked || outcome.verdict != Verdict::Cancelled)
    }

    /// The place is ready: `running` is written before the program's first instruction.
    fn release(&mut self, commit: &mut Commit, assignment: &Assignment, digest: String) {
        if let AnyEvaluation::Provisioning(evaluation) = self.evaluation {
            let now = self.shared.means.clock.now();
            let step = evaluation.start(now);
            commit.transitions.push(step.transition);
            let decision = decision_document(assignment, Some(&digest), now);
            commit.decision = Some(document::to_json(&decision));
            commit.environment_digest = Some(digest);
            self.evaluation = AnyEvaluation::Running(step.evaluation);
        }
    }

    async fn cancel_early(&mut self) -> Result<(), Stop> {
        self.end(Commit::default(), Verdict::Cancelled, &evidence::cancelled_early()).await
    }

    async fn refuse(&mut self, refusal: &Refusal) -> Result<(), Stop> {
        let result = evidence::refused(refusal);
        self.end(Commit::default(), Verdict::InfrastructureError, &result).await
    }

    /// No place can take it just now: it waits for its turn again, for no longer in all than others do
    /// in the queue.
    async fn put_off(&mut self, refusal: &Refusal) -> Result<(), Stop> {
        let Shared { means, config, .. } = self.shared;
        let now = means.clock.now();
        let waited = now.since(self.created_at);
        let AnyEvaluation::Provisioning(evaluation) = self.evaluation else { return Err(Stop::LeaseLost) };
        if waited >= config.queue_ttl {
            let result = evidence::waited_out(&refusal.reason);
            return self.end(Commit::default(), Verdict::InfrastructureError, &result).await;
        }
        let history = evaluation.history();
        let times = history.attempts.saturating_sub(history.losses.total());
        let pause = config.retry.put_off(times, waited, means.dice.unit());
        let step = evaluation.put_off(now, now.after(pause));
        tracing::info!(reason = %refusal.reason, pause_ms = pause.as_millis(), "put off");
        let why = document::to_json(&evidence::put_off(&refusal.reason));
        let commit = Commit { transitions: vec![step.transition], lost: Some(why), ..Commit::default() };
        self.commit(commit).await?;
        self.evaluation = AnyEvaluation::Queued(step.evaluation);
        Ok(())
    }

    async fn end(
        &mut self,
        mut commit: Commit,
        verdict: Verdict,
        result: &ResultDocument,
    ) -> Result<(), Stop> {
        let now = self.shared.means.clock.now();
        let step = match self.evaluation {
            AnyEvaluation::Provisioning(evaluation) => evaluation.end(now, verdict),
            AnyEvaluation::Running(evaluation) => evaluation.end(now, verdict),
            AnyEvaluation::Queued(_) | AnyEvaluation::Ended(_) => return Err(Stop::LeaseLost),
        };
        self.finish(&mut commit, step.transition, result);
        self.commit(commit).await?;
        self.evaluation = AnyEvaluation::Ended(step.evaluation);
        self.trace.note("evaluation.verdict", verdict.as_str());
        record_finished(verdict, now.since(self.created_at));
        if verdict != Verdict::InfrastructureError {
            self.shared.health.vitals().set_last_finished(now);
        }
        Ok(())
    }

    /// Lost before the program's release it is infrastructure's doing, after it suspect.
    async fn lose(&mut self, lost: &Lost<'_>) -> Result<(), Stop> {
        self.lose_as(Loss::Infrastructure, lost).await
    }

    async fn lose_as(&mut self, early: Loss, lost: &Lost<'_>) -> Result<(), Stop> {
        let (now, dice) = (self.shared.means.clock.now(), self.shared.means.dice.unit());
        let retry = &self.shared.config.retry;
        let (loss, after) = match self.evaluation {
            AnyEvaluation::Provisioning(evaluation) => (early, evaluation.lose(now, early, retry, dice)),
            AnyEvaluation::Running(evaluation) => (Loss::Suspect, evaluation.lose(now, retry, dice)),
            AnyEvaluation::Queued(_) | AnyEvaluation::Ended(_) => return Err(Stop::LeaseLost),
        };
        tracing::warn!(loss = loss.as_str(), reason = %lost.reason, "attempt lost");
        self.trace.fail(lost.reason.clone());
        record_lost(loss);
        let why = document::to_json(&evidence::document(loss, &lost.reason));
        let mut commit = Commit { lost: Some(why), ..Commit::default() };
        match after {
            AfterLoss::Retried(step) => {
                commit.transitions.push(step.transition);
                self.commit(commit).await?;
                self.evaluation = AnyEvaluation::Queued(step.evaluation);
                record_retry();
            }
            AfterLoss::Final(step) => {
                let result = evidence::lost(loss, &lost.reason, lost.seen, lost.assignment);
                self.finish(&mut commit, step.transition, &result);
                self.commit(commit).await?;
                self.evaluation = AnyEvaluation::Ended(step.evaluation);
                record_finished(Verdict::InfrastructureError, now.since(self.created_at));
            }
        }
        Ok(())
    }

    fn finish(&self, commit: &mut Commit, transition: Transition, result: &ResultDocument) {
        commit.transitions.push(transition);
        commit.result = Some(document::to_json(&ResultDocument { moments: self.moments, ..result.clone() }));
    }

    /// Writes under the lease, for as long as it takes: a store that is away for a while loses
    /// nothing, since the place keeps what was not acknowledged.
    async fn commit(&self, commit: Commit) -> Result<(), Stop> {
        let mut pause = COMMIT_PAUSE_FIRST;
        let mut told = self.held.told.clone();
        loop {
            let error = match self.shared.means.store.commit(&self.held.lease, commit.clone()).await {
                Ok(()) => {
                    record_committed(&commit.transitions, self.shared.means.clock.now());
                    return Ok(());
                }
                Err(CommitError::StaleLease) => return Err(Stop::LeaseLost),
                Err(CommitError::Store(error)) => error,
                Err(error) => return Err(Stop::Refused(error)),
            };
            tracing::error!(error = %error, "cannot write; trying again");
            tokio::select! {
                biased;
                () = lease_lost(&mut told) => return Err(Stop::LeaseLost),
                () = self.shared.means.clock.sleep(pause) => {}
            }
            pause = (pause * 2).min(COMMIT_PAUSE_CAP);
        }
    }

    fn told(&self) -> Told {
        *self.held.told.borrow()
    }

    fn check_lease(&self) -> Result<(), Stop> {
        if self.told().lost { Err(Stop::LeaseLost) } else { Ok(()) }
    }
}

/// Nobody who was heard has it. That is the last word only where nobody is left to be heard.
fn not_offered(environment: &str, silent: &[String]) -> Refusal {
    if silent.is_empty() {
        let reason = format!("environment `{environment}` is no longer offered");
        return Refusal { code: RefusalCode::NoEnvironment, reason };
    }
    let silent = silent.join(", ");
    let reason = format!(
        "no dispatcher that was heard since this worker began has environment `{environment}`; not heard yet: {silent}"
    );
    Refusal { code: RefusalCode::NoPlaces, reason }
}

/// Completes once a cancel was asked for or the lease is gone; never for a worker that is going away
/// itself.
pub(super) async fn stopped(told: &mut tokio::sync::watch::Receiver<Told>) {
    if told.wait_for(|told| told.cancel.is_some() || told.lost).await.is_err() {
        std::future::pending::<()>().await;
    }
}

pub(super) async fn lease_lost(told: &mut tokio::sync::watch::Receiver<Told>) {
    if told.wait_for(|told| told.lost).await.is_err() {
        std::future::pending::<()>().await;
    }
}
