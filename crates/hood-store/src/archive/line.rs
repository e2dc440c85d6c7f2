//! What is kept of an evaluation: everything, as one document. Fields are only ever added, and one that is
//! missing has a default.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hood_core::lifecycle::History;
use hood_core::outcome::Stream;
use hood_core::retry::Losses;
use hood_core::{BatchId, EvaluationId, Event, State, Tenant, Timestamp, Verdict};
use serde::{Deserialize, Serialize};

use super::told::{self, DeliveryLine};
use crate::db::{Connection, query};
use crate::error::{FindError, StoreError};
use crate::model::{AttemptRecord, CancelIntent, DeliveryRecord, Record, RecordSummary, Span};
use crate::ops::archive::Seen;
use crate::ops::output::OUTPUT_IN_ROWS_MAX;
use crate::read;
use crate::rows::{corrupt, event_kind, event_parts, get};
use crate::writer::failed;

const VERSION: u32 = 1;

/// One evaluation. Times are microseconds since 1970 UTC.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Line {
    version: u32,
    tenant: String,
    id: String,
    state: String,
    verdict: Option<String>,
    environment: String,
    environment_digest: Option<String>,
    priority: u8,
    labels: BTreeMap<String, String>,
    batch: Option<String>,
    #[serde(default)]
    idempotency_key: Option<String>,
    /// In what its key stands for.
    #[serde(default)]
    position: i64,
    #[serde(default)]
    callback: Option<String>,
    created_at: i64,
    leased_at: Option<i64>,
    started_at: Option<i64>,
    finished_at: Option<i64>,
    cancel_requested: Option<CancelLine>,
    losses: LossesLine,
    /// The documents as the database had them.
    request: String,
    /// The blob of its own that all that was asked for is in, where `request` is what is shown of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    request_blob: Option<String>,
    result: Option<String>,
    events: Vec<EventLine>,
    attempts: Vec<AttemptLine>,
    #[serde(default)]
    deliveries: Vec<DeliveryLine>,
}

#[derive(Debug, Serialize, Deserialize)]
struct CancelLine {
    grace_ms: Option<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
struct LossesLine {
    infrastructure: u32,
    own_death: u32,
    suspect: u32,
}

#[derive(Debug, Serialize, Deserialize)]
struct EventLine {
    number: u64,
    kind: String,
    at: i64,
    attempt: Option<u32>,
    not_before: Option<i64>,
    verdict: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct AttemptLine {
    number: u32,
    leased_at: i64,
    started_at: Option<i64>,
    ended_at: Option<i64>,
    lost: Option<String>,
    decision: Option<String>,
    output_cut: bool,
    stdout: OutputLine,
    stderr: OutputLine,
    #[serde(default)]
    build: OutputLine,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct OutputLine {
    bytes: u64,
    /// `None` where they are in a blob of their own.
    base64: Option<String>,
}

/// A stream as the archive has it.
pub(super) enum Kept {
    Bytes(Vec<u8>),
    InBlob,
}

/// `None` where there is no such evaluation.
pub(super) async fn read(
    db: &mut Connection<'_>,
    tenant: &Tenant,
    id: EvaluationId,
) -> Result<Option<(Line, Seen)>, StoreError> {
    let record = match read::record(db, tenant, id).await {
        Ok(record) => record,
        Err(FindError::NotFound) => return Ok(None),
        Err(FindError::Store(error)) => return Err(error),
    };
    let events = read::log(db, (tenant, id), 0, u32::MAX).await?;
    let mut attempts = Vec::with_capacity(record.attempts.len());
    for attempt in record.attempts {
        let mut line = AttemptLine::of(attempt);
        for stream in Stream::ALL {
            *line.stream(stream) = output(db, (tenant, id), line.number, stream).await?;
        }
        attempts.push(line);
    }
    let (deliveries, claims) = told::read(db, (tenant, id)).await?;
    let seen = Seen { last_event: record.summary.history.last_event, deliveries: claims };
    let mut line = Line::of(tenant, (record.summary, record.request), &events, attempts);
    line.deliveries = deliveries;
    asked(db, (tenant, id), &mut line).await?;
    Ok(Some((line, seen)))
}

/// What a record does not show of what was asked for.
async fn asked(
    db: &mut Connection<'_>,
    (tenant, id): (&Tenant, EvaluationId),
    line: &mut Line,
) -> Result<(), StoreError> {
    const SQL: &str = "SELECT e.idempotency_key, e.position, e.callback, r.blob FROM evaluations e \
         JOIN requests r ON r.tenant = e.tenant AND r.evaluation = e.id WHERE e.tenant = $1 AND e.id = $2";
    let row = query(SQL)
        .bind(tenant.as_str())
        .bind(id.as_uuid())
        .fetch_one(db)
        .await
        .map_err(failed("reading an evaluation"))?;
    line.idempotency_key = get(&row, "idempotency_key")?;
    line.position = get(&row, "position")?;
    line.callback = get(&row, "callback")?;
    line.request_blob = get(&row, "blob")?;
    Ok(())
}

async fn output(
    db: &mut Connection<'_>,
    key: (&Tenant, EvaluationId),
    attempt: u32,
    stream: Stream,
) -> Result<OutputLine, StoreError> {
    let most = usize::try_from(OUTPUT_IN_ROWS_MAX).unwrap_or(usize::MAX);
    let span = Span { stream, attempt: Some(attempt), offset: 0, max: 0 };
    let stored = read::in_rows(db, key, span).await?.map_or(0, |slice| slice.stored);
    if stored > OUTPUT_IN_ROWS_MAX {
        return Ok(OutputLine { bytes: stored, base64: None });
    }
    let slice = read::in_rows(db, key, Span { max: most, ..span }).await?;
    let bytes = slice.map(|slice| slice.bytes).unwrap_or_default();
    Ok(OutputLine { bytes: stored, base64: Some(STANDARD.encode(bytes)) })
}

impl Line {
    fn of(
        tenant: &Tenant,
        (summary, request): (RecordSummary, String),
        events: &[Event],
        attempts: Vec<AttemptLine>,
    ) -> Self {
        let micros = |at: Option<Timestamp>| at.map(Timestamp::as_micros);
        let Losses { infrastructure, own_death, suspect } = summary.history.losses;
        Self {
            version: VERSION,
            tenant: tenant.as_str().to_owned(),
            id: summary.id.to_string(),
            state: summary.state.as_str().to_owned(),
            verdict: summary.verdict.map(|verdict| verdict.as_str().to_owned()),
            environment: summary.environment,
            environment_digest: summary.environment_digest,
            priority: summary.priority,
            labels: summary.labels,
            batch: summary.batch.map(|batch| batch.to_string()),
            idempotency_key: None,
            position: 0,
            callback: None,
            created_at: summary.created_at.as_micros(),
            leased_at: micros(summary.leased_at),
            started_at: micros(summary.started_at),
            finished_at: micros(summary.finished_at),
            cancel_requested: summary
                .cancel_requested
                .map(|CancelIntent { grace_ms }| CancelLine { grace_ms }),
            losses: LossesLine { infrastructure, own_death, suspect },
            request,
            request_blob: None,
            result: summary.result,
            events: events.iter().map(EventLine::of).collect(),
            attempts,
            deliveries: Vec::new(),
        }
    }

    /// The record, as it was when it left the tables.
    pub(super) fn record(self) -> Result<Record, StoreError> {
        let last_event = self.events.last().map_or(0, |event| event.number);
        let attempts = self.attempts.last().map_or(0, |attempt| attempt.number);
        let LossesLine { infrastructure, own_death, suspect } = self.losses;
        let history = History { last_event, attempts, losses: Losses { infrastructure, own_death, suspect } };
        let time = |at: Option<i64>| at.map(Timestamp::from_micros);
        let summary = RecordSummary {
            id: parse(&self.id, str::parse)?,
            state: State::parse(&self.state).ok_or_else(|| unreadable(&self.state))?,
            verdict: self.verdict.as_deref().map(verdict).transpose()?,
            history,
            environment: self.environment,
            environment_digest: self.environment_digest,
            priority: self.priority,
            labels: self.labels,
            batch: self.batch.as_deref().map(|batch| parse::<BatchId, _>(batch, str::parse)).transpose()?,
            cancel_requested: self.cancel_requested.map(|CancelLine { grace_ms }| CancelIntent { grace_ms }),
            created_at: Timestamp::from_micros(self.created_at),
            leased_at: time(self.leased_at),
            started_at: time(self.started_at),
            finished_at: time(self.finished_at),
            not_before: None,
            result: self.result,
            archived: true,
        };
        let attempts = self.attempts.into_iter().map(AttemptLine::record).collect();
        Ok(Record { summary, request: self.request, attempts })
    }

    pub(super) fn events(&self) -> Result<Vec<Event>, StoreError> {
        self.events.iter().map(EventLine::event).collect()
    }

    pub(super) fn deliveries(self, key: (&Tenant, EvaluationId)) -> Result<Vec<DeliveryRecord>, StoreError> {
        self.deliveries.into_iter().map(|line| line.record(key)).collect()
    }

    pub(super) fn attempts(&self) -> u32 {
        self.attempts.last().map_or(0, |attempt| attempt.number)
    }

    /// How much of a stream was stored, whether it was cut, and its bytes.
    pub(super) fn output(
        &self,
        attempt: u32,
        stream: Stream,
    ) -> Result<Option<(u64, bool, Kept)>, StoreError> {
        let Some(attempt) = self.attempts.iter().find(|of| of.number == attempt) else { return Ok(None) };
        let output = match stream {
            Stream::Stdout => &attempt.stdout,
            Stream::Stderr => &attempt.stderr,
            Stream::Build => &attempt.build,
        };
        let kept = match &output.base64 {
            None if output.bytes == 0 => Kept::Bytes(Vec::new()),
            None => Kept::InBlob,
            Some(text) => Kept::Bytes(STANDARD.decode(text).map_err(|error| unreadable(&error.to_string()))?),
        };
        Ok(Some((output.bytes, attempt.output_cut, kept)))
    }
}

impl EventLine {
    fn of(event: &Event) -> Self {
        let (attempt, not_before, verdict) = event_parts(event.kind);
        Self {
            number: event.number,
            kind: event.kind.as_str().to_owned(),
            at: event.at.as_micros(),
            attempt,
            not_before: not_before.map(Timestamp::as_micros),
            verdict: verdict.map(|verdict| verdict.as_str().to_owned()),
        }
    }

    fn event(&self) -> Result<Event, StoreError> {
        let verdict = self.verdict.as_deref().map(verdict).transpose()?;
        let not_before = self.not_before.map(Timestamp::from_micros);
        let kind = event_kind(&self.kind, (self.attempt, not_before, verdict))?;
        Ok(Event { number: self.number, at: Timestamp::from_micros(self.at), kind })
    }
}

impl AttemptLine {
    /// Its output is still to come.
    fn of(attempt: AttemptRecord) -> Self {
        Self {
            number: attempt.number,
            leased_at: attempt.leased_at.as_micros(),
            started_at: attempt.started_at.map(Timestamp::as_micros),
            ended_at: attempt.ended_at.map(Timestamp::as_micros),
            lost: attempt.lost,
            decision: attempt.decision,
            output_cut: attempt.output_cut,
            stdout: OutputLine::default(),
            stderr: OutputLine::default(),
            build: OutputLine::default(),
        }
    }

    const fn stream(&mut self, stream: Stream) -> &mut OutputLine {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
            Stream::Build => &mut self.build,
        }
    }

    fn record(self) -> AttemptRecord {
        AttemptRecord {
            number: self.number,
            leased_at: Timestamp::from_micros(self.leased_at),
            started_at: self.started_at.map(Timestamp::from_micros),
            ended_at: self.ended_at.map(Timestamp::from_micros),
            lost: self.lost,
            decision: self.decision,
            output_cut: self.output_cut,
        }
    }
}

pub(super) fn unreadable(what: &str) -> StoreError {
    corrupt(format!("an archived evaluation cannot be read: {what}"))
}

fn verdict(text: &str) -> Result<Verdict, StoreError> {
    Verdict::parse(text).ok_or_else(|| unreadable(text))
}

fn parse<T, E>(text: &str, parse: impl Fn(&str) -> Result<T, E>) -> Result<T, StoreError> {
    parse(text).map_err(|_| unreadable(text))
}
