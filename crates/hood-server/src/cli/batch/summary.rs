//! What became of a batch, from the results as they are written.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;

use comfy_table::Cell;
use hood_wire::api::{Evaluation, Verdict};
use serde::Serialize;

use super::super::exit::Exit;
use super::super::failure::Failure;
use super::super::terminal::Style;
use super::super::{output, units, words};

#[derive(Debug, Default, Serialize)]
pub(super) struct Summary {
    pub(super) evaluations: u64,
    /// Verdict → number; every verdict is there.
    pub(super) verdicts: BTreeMap<&'static str, u64>,
    /// From the first acceptance to the last end.
    pub(super) span_ms: Option<f64>,
    pub(super) evaluations_per_second: Option<f64>,
}

const VERDICTS: [Verdict; 9] = [
    Verdict::Succeeded,
    Verdict::BuildFailed,
    Verdict::Failed,
    Verdict::TimedOut,
    Verdict::OutOfMemory,
    Verdict::OutputLimit,
    Verdict::PolicyViolation,
    Verdict::Cancelled,
    Verdict::InfrastructureError,
];

impl Summary {
    pub(super) fn of(results: &Path) -> Result<Self, Failure> {
        let failed = || Failure::new(format!("cannot read the results in {}", results.display()));
        let file = File::open(results).map_err(|error| failed().because(error))?;
        let mut summary = Self::default();
        summary.verdicts.extend(VERDICTS.map(|verdict| (words::verdict(verdict), 0)));
        let mut span: Option<(jiff::Timestamp, jiff::Timestamp)> = None;
        for line in BufReader::new(file).lines() {
            let line = line.map_err(|error| failed().because(error))?;
            let evaluation: Evaluation =
                serde_json::from_str(&line).map_err(|error| failed().because(error))?;
            summary.evaluations += 1;
            let verdict = evaluation.verdict.map_or("none", words::verdict);
            *summary.verdicts.entry(verdict).or_default() += 1;
            if let (Ok(from), Some(Ok(to))) =
                (evaluation.created_at.parse(), evaluation.finished_at.as_deref().map(str::parse))
            {
                span = Some(span.map_or((from, to), |(first, last)| (first.min(from), last.max(to))));
            }
        }
        if let Some((from, to)) = span {
            let millis = to.duration_since(from).as_secs_f64() * 1000.0;
            summary.span_ms = Some(millis);
            summary.evaluations_per_second =
                (millis > 0.0).then(|| summary.evaluations as f64 / (millis / 1000.0));
        }
        Ok(summary)
    }

    pub(super) fn table(&self) -> String {
        let style = Style::stdout();
        let rows = VERDICTS.iter().filter_map(|verdict| {
            let number = *self.verdicts.get(words::verdict(*verdict))?;
            (number > 0).then(|| vec![words::cell(style, *verdict), Cell::new(number)])
        });
        let mut text = output::table(&["VERDICT", "EVALUATIONS"], rows.collect(), &[1]);
        text += &format!("{} evaluations", self.evaluations);
        if let (Some(millis), Some(rate)) = (self.span_ms, self.evaluations_per_second) {
            text += &format!(" in {}, {rate:.1} a second", units::show_millis(millis));
        }
        text
    }

    pub(super) fn exit(&self) -> Exit {
        let count = |verdict| self.verdicts.get(words::verdict(verdict)).copied().unwrap_or(0);
        if count(Verdict::Succeeded) == self.evaluations {
            Exit::DONE
        } else if count(Verdict::InfrastructureError) > 0 {
            Exit::FAILED
        } else {
            Exit::NO
        }
    }
}
