//! Executions, as those who own places saw them: each attempt runs once at most, never before that is
//! written down, and never beside another of the same evaluation.

use std::collections::BTreeMap;

use hood_wire::api::{EventType, Verdict};

use super::micros;
use crate::history::{Chronicle, History, Micros, Sighting, What};

/// A program that ran, or may have.
#[derive(Clone, Copy, Debug)]
struct Run {
    attempt: u32,
    from: Micros,
    /// When it was known to be over: its own end, or its owner's death.
    until: Option<Micros>,
    ended: bool,
}

pub(super) fn violations(chronicle: &Chronicle) -> Vec<String> {
    let mut by_id: BTreeMap<&str, Vec<&Sighting>> = BTreeMap::new();
    for sighting in &chronicle.sightings {
        by_id.entry(&sighting.evaluation).or_default().push(sighting);
    }
    let mut found = Vec::new();
    for history in &chronicle.histories {
        let id = history.evaluation.id.as_str();
        let seen = by_id.remove(id).unwrap_or_default();
        let runs = runs(chronicle, &seen);
        let of = |sentence| format!("{id}: {sentence}");
        found.extend(judge(history, &runs).into_iter().map(of));
    }
    let foreign = by_id.into_keys().map(|id| format!("{id}: ran, and nobody had it accepted"));
    found.extend(foreign);
    found
}

fn runs(chronicle: &Chronicle, seen: &[&Sighting]) -> Vec<Run> {
    let releases = seen.iter().filter(|sighting| sighting.what == What::Released);
    let mut runs: Vec<Run> = releases
        .map(|release| {
            let end = seen.iter().find(|sighting| {
                sighting.what == What::Ended
                    && (sighting.attempt, sighting.member) == (release.attempt, release.member)
                    && sighting.at >= release.at
            });
            let lives = chronicle.people.get(release.member).map_or(&[][..], |person| &person.lives);
            let death = lives.iter().rev().find(|life| life.began <= release.at).and_then(|life| life.ended);
            let until = [end.map(|end| end.at), death].into_iter().flatten().min();
            Run { attempt: release.attempt, from: release.at, until, ended: end.is_some() }
        })
        .collect();
    runs.sort_by_key(|run| run.from);
    runs
}

fn judge(history: &History, runs: &[Run]) -> Vec<String> {
    let mut found = Vec::new();
    for (index, run) in runs.iter().enumerate() {
        let attempt = run.attempt;
        if runs[..index].iter().any(|earlier| earlier.attempt == attempt) {
            found.push(format!("attempt {attempt} was run twice"));
        }
        let started = history
            .events
            .iter()
            .find(|event| event.kind == EventType::Started && event.attempt == Some(attempt));
        match started.and_then(|event| micros(&event.at)) {
            None => found.push(format!("attempt {attempt} ran, and no event says so")),
            Some(at) if at > run.from => {
                found.push(format!("attempt {attempt} ran before its start was written"));
            }
            Some(_) => {}
        }
        if let Some(next) = runs.get(index + 1)
            && run.until.is_none_or(|until| until > next.from)
        {
            found.push(format!("attempts {attempt} and {} ran at once", next.attempt));
        }
    }
    let last = history.evaluation.attempts.last().map(|attempt| attempt.number);
    let by_itself = matches!(history.evaluation.verdict, Some(Verdict::Succeeded | Verdict::Failed));
    let seen = runs.iter().any(|run| Some(run.attempt) == last && run.ended);
    if by_itself && !seen {
        found.push("it ended by itself, and no place saw that".to_owned());
    }
    found
}
