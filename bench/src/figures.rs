//! Measurements and how they are told.

use std::fmt;
use std::time::Duration;

use anyhow::bail;
use serde::Serialize;

use crate::host::Host;

/// A list of measurements of one thing, milliseconds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    pub(crate) fn add(&mut self, duration: Duration) {
        self.0.push(duration.as_secs_f64() * 1e3);
    }

    pub(crate) fn add_ms(&mut self, ms: Option<f64>) {
        self.0.extend(ms);
    }

    pub(crate) fn append(&mut self, mut other: Self) {
        self.0.append(&mut other.0);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The nearest rank: a value that was measured. NaN where nothing was.
    pub(crate) fn percentile(&self, percent: usize) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (sorted.len() * percent).div_ceil(100).max(1);
        sorted.get(rank - 1).copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn median(&self) -> f64 {
        self.percentile(50)
    }
}

#[derive(Clone, Debug, Serialize)]
struct Figure {
    name: String,
    value: f64,
    unit: &'static str,
}

/// What one benchmark found, and on which machine.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    benchmark: &'static str,
    host: Host,
    settings: Vec<(&'static str, String)>,
    figures: Vec<Figure>,
    notes: Vec<String>,
    /// What must not be so.
    failures: Vec<String>,
}

impl Report {
    pub(crate) fn new(benchmark: &'static str, host: Host) -> Self {
        let (settings, figures, notes, failures) = Default::default();
        Self { benchmark, host, settings, figures, notes, failures }
    }

    pub(crate) fn setting(&mut self, name: &'static str, value: impl fmt::Display) {
        self.settings.push((name, value.to_string()));
    }

    pub(crate) fn figure(&mut self, name: impl Into<String>, value: f64, unit: &'static str) {
        self.figures.push(Figure { name: name.into(), value, unit });
    }

    /// Median and 99th percentile; nothing where nothing was measured.
    pub(crate) fn spread(&mut self, name: &str, samples: &Samples) {
        if !samples.is_empty() {
            self.figure(format!("{name}, p50"), samples.median(), "ms");
            self.figure(format!("{name}, p99"), samples.percentile(99), "ms");
        }
    }

    pub(crate) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    pub(crate) fn fail(&mut self, failure: impl Into<String>) {
        self.failures.push(failure.into());
    }

    /// An error where something failed.
    pub(crate) fn verdict(&self) -> anyhow::Result<()> {
        match self.failures.len() {
            0 => Ok(()),
            n => bail!("{n} failed, see above"),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n{}", self.benchmark, self.host)?;
        for (name, value) in &self.settings {
            writeln!(f, "{name}: {value}")?;
        }
        writeln!(f)?;
        for Figure { name, value, unit } in &self.figures {
            writeln!(f, "  {name:<52} {value:>10.2} {unit}")?;
        }
        for note in &self.notes {
            writeln!(f, "  {note}")?;
        }
        for failure in &self.failures {
            writeln!(f, "FAILED: {failure}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let mut samples = Samples::default();
        assert!(samples.median().is_nan());
        for ms in [5, 1, 4, 2, 3] {
            samples.add(Duration::from_millis(ms));
        }
        assert_eq!([0, 20, 21, 50, 99, 100].map(|p| samples.percentile(p)), [1.0, 1.0, 2.0, 3.0, 5.0, 5.0]);
    }
}
