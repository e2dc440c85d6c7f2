//! One evaluation as it is held.

use std::collections::BTreeMap;

use hood_core::lifecycle::{AnyEvaluation, Evaluation, Queued};
use hood_core::outcome::Stream;
use hood_core::{BatchId, Event, EventKind, State, Timestamp, Transition, Verdict};

use crate::error::StoreError;
use crate::model::{AttemptRecord, CancelIntent, NewEvaluation, Record, RecordSummary};

/// What rows of a database take beside their documents, about: so that bounds mean the same here.
const ROW_BYTES: usize = 1536;

#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) evaluation: AnyEvaluation,
    pub(super) environment: String,
    pub(super) environment_digest: Option<String>,
    pub(super) priority: u8,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) batch: Option<BatchId>,
    pub(super) idempotency_key: Option<String>,
    /// In its submission.
    pub(super) position: usize,
    pub(super) created_at: Timestamp,
    pub(super) queued_at: Timestamp,
    /// Queued, and due without regard to the time.
    pub(super) ready: bool,
    pub(super) leased_at: Option<Timestamp>,
    pub(super) started_at: Option<Timestamp>,
    pub(super) finished_at: Option<Timestamp>,
    pub(super) lease: Held,
    /// When it was asked for first, and with which grace.
    pub(super) cancel: Option<CancelIntent>,
    pub(super) request: String,
    /// All that was asked for, where `request` is what is shown of it.
    pub(super) input: Option<String>,
    pub(super) result: Option<String>,
    pub(super) events: Vec<Event>,
    pub(super) attempts: Vec<Attempt>,
}

/// Who may write.
#[derive(Clone, Debug, Default)]
pub(super) struct Held {
    pub(super) token: u64,
    pub(super) epoch: u64,
    pub(super) expires_at: Option<Timestamp>,
}

#[derive(Clone, Debug)]
pub(super) struct Attempt {
    pub(super) record: AttemptRecord,
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: Vec<u8>,
    pub(super) build: Vec<u8>,
}

impl Attempt {
    pub(super) const fn begun(number: u32, leased_at: Timestamp) -> Self {
        let record = AttemptRecord {
            number,
            leased_at,
            started_at: None,
            ended_at: None,
            lost: None,
            decision: None,
            output_cut: false,
        };
        Self { record, stdout: Vec::new(), stderr: Vec::new(), build: Vec::new() }
    }

    pub(super) const fn stream(&self, stream: Stream) -> &Vec<u8> {
        match stream {
            Stream::Stdout => &self.stdout,
            Stream::Stderr => &self.stderr,
            Stream::Build => &self.build,
        }
    }

    pub(super) const fn stream_mut(&mut self, stream: Stream) -> &mut Vec<u8> {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
            Stream::Build => &mut self.build,
        }
    }
}

/// Where a new one comes from.
pub(super) struct Origin<'a> {
    pub(super) now: Timestamp,
    pub(super) batch: Option<BatchId>,
    pub(super) idempotency_key: Option<&'a str>,
    pub(super) position: usize,
}

impl Row {
    pub(super) fn new(new: &NewEvaluation, origin: &Origin<'_>) -> Self {
        let step = Evaluation::<Queued>::submit(origin.now);
        Self {
            evaluation: AnyEvaluation::Queued(step.evaluation),
            environment: new.environment.clone(),
            environment_digest: None,
            priority: new.priority,
            labels: new.labels.clone(),
            batch: origin.batch,
            idempotency_key: origin.idempotency_key.map(str::to_owned),
            position: origin.position,
            created_at: origin.now,
            queued_at: origin.now,
            ready: true,
            leased_at: None,
            started_at: None,
            finished_at: None,
            lease: Held::default(),
            cancel: None,
            request: new.request.clone(),
            input: new.input.clone(),
            result: None,
            events: vec![*step.transition.event()],
            attempts: Vec::new(),
        }
    }

    /// One step of its life, row and event together.
    pub(super) fn step(&mut self, transition: &Transition) -> Result<(), StoreError> {
        let (event, after) = (transition.event(), transition.after());
        let (not_before, verdict) = match event.kind {
            EventKind::RetryScheduled { not_before, .. } => (Some(not_before), None),
            EventKind::Finished { verdict } => (None, Some(verdict)),
            EventKind::Submitted | EventKind::AttemptStarted { .. } | EventKind::Started { .. } => {
                (None, None)
            }
        };
        self.evaluation = AnyEvaluation::restore(transition.to(), *after, not_before, verdict)
            .ok_or_else(|| corrupt("a transition into a state that is none"))?;
        self.events.push(*event);
        match event.kind {
            EventKind::AttemptStarted { attempt } => {
                self.leased_at = Some(event.at);
                self.started_at = None;
                self.ready = false;
                self.attempts.push(Attempt::begun(attempt, event.at));
            }
            EventKind::Started { .. } => {
                self.started_at = Some(event.at);
                self.current(|attempt| attempt.started_at = Some(event.at));
            }
            EventKind::RetryScheduled { .. } => {
                self.queued_at = event.at;
                self.ready = self.cancel.is_some();
                self.lease.expires_at = None;
                self.current(|attempt| attempt.ended_at = Some(event.at));
            }
            EventKind::Finished { .. } => {
                self.finished_at = Some(event.at);
                self.ready = false;
                if self.lease.expires_at.take().is_some() {
                    self.current(|attempt| attempt.ended_at = Some(event.at));
                }
            }
            EventKind::Submitted => {}
        }
        Ok(())
    }

    pub(super) fn current(&mut self, change: impl FnOnce(&mut AttemptRecord)) {
        if let Some(attempt) = self.attempts.last_mut() {
            change(&mut attempt.record);
        }
    }

    pub(super) const fn state(&self) -> State {
        self.evaluation.state()
    }

    pub(super) const fn not_before(&self) -> Option<Timestamp> {
        match &self.evaluation {
            AnyEvaluation::Queued(queued) => queued.stage().not_before,
            _ => None,
        }
    }

    pub(super) const fn verdict(&self) -> Option<Verdict> {
        match &self.evaluation {
            AnyEvaluation::Ended(ended) => Some(ended.stage().verdict),
            _ => None,
        }
    }

    /// What it takes of the storage, about.
    pub(super) fn bytes(&self) -> u64 {
        let output: usize =
            self.attempts.iter().map(|a| a.stdout.len() + a.stderr.len() + a.build.len()).sum();
        let result = self.result.as_ref().map_or(0, String::len);
        (accepted_bytes(&self.request, &self.labels) + result + output) as u64
    }

    pub(super) fn summary(&self, id: hood_core::EvaluationId) -> RecordSummary {
        RecordSummary {
            id,
            state: self.state(),
            verdict: self.verdict(),
            history: *self.evaluation.history(),
            environment: self.environment.clone(),
            environment_digest: self.environment_digest.clone(),
            priority: self.priority,
            labels: self.labels.clone(),
            batch: self.batch,
            cancel_requested: self.cancel,
            created_at: self.created_at,
            leased_at: self.leased_at,
            started_at: self.started_at,
            finished_at: self.finished_at,
            not_before: self.not_before(),
            result: self.result.clone(),
            archived: false,
        }
    }

    pub(super) fn record(&self, id: hood_core::EvaluationId) -> Record {
        let attempts = self.attempts.iter().map(|attempt| attempt.record.clone()).collect();
        Record { summary: self.summary(id), request: self.request.clone(), attempts }
    }
}

/// What accepting one takes, about. Labels are kept twice: to be shown, and to be found by.
pub(super) fn accepted_bytes(request: &str, labels: &BTreeMap<String, String>) -> usize {
    let labels: usize = labels.iter().map(|(key, value)| 2 * (key.len() + value.len())).sum();
    request.len() + labels + ROW_BYTES
}

pub(super) fn corrupt(what: impl Into<String>) -> StoreError {
    StoreError::Corrupt { what: what.into() }
}
