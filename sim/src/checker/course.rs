//! What must hold while things happen.

use std::collections::{BTreeMap, BTreeSet};

use hood_core::outcome::Stream;
use hood_core::{EvaluationId, Event, EventKind};
use hood_dispatch::AttemptKey;

use super::{Rule, Violation};
use crate::history::{Deed, Entry, Extent, Word};

/// One evaluation, as far as the history has come.
#[derive(Debug, Default)]
struct Course {
    token: u64,
    attempt: u32,
    /// What lease holders have written.
    events: BTreeMap<u64, Event>,
    output: BTreeMap<(u32, Stream), u64>,
    said: BTreeMap<(u32, u64), Word>,
    began: BTreeSet<u32>,
    live: BTreeSet<u32>,
    /// The last event that each follower was shown.
    shown: BTreeMap<u32, u64>,
}

struct Checker<'a> {
    logs: &'a BTreeMap<EvaluationId, &'a [Event]>,
    courses: BTreeMap<EvaluationId, Course>,
    asked: BTreeSet<EvaluationId>,
    accepted: BTreeSet<EvaluationId>,
    found: Vec<Violation>,
}

/// What was found, and whose end somebody wanted.
pub(super) fn check(
    history: &[Entry],
    logs: &BTreeMap<EvaluationId, &[Event]>,
) -> (Vec<Violation>, BTreeSet<EvaluationId>) {
    let mut checker = Checker {
        logs,
        courses: BTreeMap::new(),
        asked: BTreeSet::new(),
        accepted: BTreeSet::new(),
        found: Vec::new(),
    };
    history.iter().for_each(|entry| checker.take(&entry.deed));
    for id in checker.accepted.iter().filter(|id| !logs.contains_key(*id)) {
        checker
            .found
            .push(Violation { rule: Rule::EndsOnce, what: format!("{id} was accepted and is not there") });
    }
    (checker.found, checker.asked)
}

impl Checker<'_> {
    fn take(&mut self, deed: &Deed) {
        match deed {
            Deed::Accepted { id } => {
                self.accepted.insert(*id);
            }
            Deed::CancelAsked { id } => {
                self.asked.insert(*id);
            }
            Deed::Leased { key, token, takes_over, worker } => self.leased(*key, *token, *takes_over, worker),
            Deed::Committed { key, token, events, output } => self.committed(*key, *token, events, output),
            Deed::Said { key, number, what } => {
                self.course(*key).said.insert((key.attempt, *number), *what);
            }
            Deed::Acknowledged { key, number } => self.acknowledged(*key, *number),
            Deed::Began { key } => self.began(*key),
            Deed::Died { key } => {
                self.course(*key).live.remove(&key.attempt);
            }
            Deed::Observed { follower, id, event } => self.observed(*follower, *id, event),
        }
    }

    fn course(&mut self, key: AttemptKey) -> &mut Course {
        self.courses.entry(key.evaluation).or_default()
    }

    fn report(&mut self, rule: Rule, what: String) {
        self.found.push(Violation { rule, what });
    }

    fn leased(&mut self, key: AttemptKey, token: u64, takes_over: bool, worker: &str) {
        let course = self.course(key);
        let (highest, attempt, live) = (course.token, course.attempt, course.live.clone());
        course.token = highest.max(token);
        course.attempt = key.attempt;
        if token <= highest {
            self.report(Rule::Fenced, format!("{key}: token {token} for {worker} after {highest}"));
        }
        let expected = if takes_over { attempt } else { attempt + 1 };
        if key.attempt != expected {
            self.report(Rule::Gapless, format!("{key} was leased after attempt {attempt}"));
        }
        if !takes_over && !live.is_empty() {
            self.report(Rule::OneExecution, format!("{key} began while {live:?} lived"));
        }
    }

    fn committed(&mut self, key: AttemptKey, token: u64, events: &[Event], output: &[Extent]) {
        let course = self.course(key);
        let (highest, attempt) = (course.token, course.attempt);
        let mut contradicted = None;
        for event in events {
            let known = course.events.entry(event.number).or_insert(*event);
            if known != event {
                contradicted = Some((*known, *event));
            }
        }
        for extent in output {
            let end = course.output.entry((key.attempt, extent.stream)).or_default();
            *end = (*end).max(extent.end);
        }
        if token != highest || key.attempt != attempt {
            let what =
                format!("{key} was written to with token {token} when {highest} held attempt {attempt}");
            self.report(Rule::Fenced, what);
        }
        if let Some((known, event)) = contradicted {
            self.report(Rule::Gapless, format!("{key}: {event:?} was written over {known:?}"));
        }
    }

    fn acknowledged(&mut self, key: AttemptKey, number: u64) {
        let course = self.course(key);
        let said = course.said.range((key.attempt, 0)..=(key.attempt, number));
        let early: Vec<_> = said.filter(|(_, what)| !course.is_durable(key.attempt, **what)).collect();
        if let Some(((_, number), what)) = early.first() {
            let what = format!("{key}: report {number} ({what:?}) was acknowledged before it was written");
            self.report(Rule::DurableFirst, what);
        }
    }

    fn began(&mut self, key: AttemptKey) {
        let course = self.course(key);
        let first = course.began.insert(key.attempt);
        let beside = course.live.clone();
        let written = course.has(|kind| kind == EventKind::Started { attempt: key.attempt });
        course.live.insert(key.attempt);
        if !first {
            self.report(Rule::OneExecution, format!("{key} was executed twice"));
        }
        if !beside.is_empty() {
            self.report(Rule::OneExecution, format!("{key} was executed beside {beside:?}"));
        }
        if !written {
            self.report(Rule::DurableFirst, format!("{key} ran before the record said so"));
        }
    }

    fn observed(&mut self, follower: u32, id: EvaluationId, event: &Event) {
        let log = self.logs.get(&id).copied().unwrap_or_default();
        let course = self.courses.entry(id).or_default();
        let shown = std::mem::replace(course.shown.entry(follower).or_default(), event.number);
        let by_holder = matches!(event.kind, EventKind::Started { .. } | EventKind::RetryScheduled { .. });
        let durable = !by_holder || course.events.get(&event.number) == Some(event);
        if event.number != shown + 1 {
            self.report(Rule::Gapless, format!("{id}: {event:?} was shown after number {shown}"));
        }
        if !log.contains(event) {
            self.report(Rule::Gapless, format!("{id}: {event:?} was shown and is not in the log"));
        }
        if !durable {
            self.report(Rule::DurableFirst, format!("{id}: {event:?} was shown before it was written"));
        }
    }
}

impl Course {
    fn has(&self, wanted: impl Fn(EventKind) -> bool) -> bool {
        self.events.values().any(|event| wanted(event.kind))
    }

    fn is_durable(&self, attempt: u32, what: Word) -> bool {
        match what {
            Word::Ready => self.has(|kind| kind == EventKind::Started { attempt }),
            Word::Output(Extent { stream, end }) => {
                self.output.get(&(attempt, stream)).is_some_and(|stored| *stored >= end)
            }
            Word::Ended => self.has(|kind| match kind {
                EventKind::Finished { .. } => true,
                EventKind::RetryScheduled { attempt: lost, .. } => lost == attempt,
                _ => false,
            }),
        }
    }
}
