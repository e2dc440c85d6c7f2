//! The judge: what must hold of every complete history, whatever was killed meanwhile. Pure; what it
//! finds is a list of sentences, and a run is good where there are none.

mod evaluation;
mod execution;
mod lease;

use std::collections::BTreeMap;

use crate::history::{Chronicle, Micros};

/// What a run broke.
pub(crate) fn violations(chronicle: &Chronicle) -> Vec<String> {
    let mut found = whole(chronicle);
    for history in &chronicle.histories {
        let of = |sentence| format!("{}: {sentence}", history.evaluation.id);
        found.extend(evaluation::violations(history).into_iter().map(of));
    }
    found.extend(execution::violations(chronicle));
    found.extend(lease::violations(chronicle));
    found
}

/// What was accepted is what is there: nothing lost, nothing twice, nothing that nobody asked for.
fn whole(chronicle: &Chronicle) -> Vec<String> {
    let mut times: BTreeMap<&str, (u32, u32)> = BTreeMap::new();
    for history in &chronicle.histories {
        times.entry(&history.evaluation.id).or_default().0 += 1;
    }
    for id in &chronicle.listed {
        times.entry(id).or_default().1 += 1;
    }
    let odd = times.into_iter().filter(|(_, times)| *times != (1, 1));
    odd.map(|(id, (accepted, listed))| format!("{id}: accepted {accepted} times, listed {listed} times"))
        .collect()
}

pub(crate) fn micros(rfc3339: &str) -> Option<Micros> {
    rfc3339.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_microsecond)
}

#[cfg(test)]
mod tests;
