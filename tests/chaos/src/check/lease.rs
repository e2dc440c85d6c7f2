//! Leases, as the database noted them: one after another, never two at once.

use std::collections::BTreeMap;

use crate::history::{Chronicle, Earlier, LeaseTaken, Micros};

/// SQLite tells the time to the millisecond.
const CLOCK: Micros = 1_000;

pub(super) fn violations(chronicle: &Chronicle) -> Vec<String> {
    let mut found = Vec::new();
    let mut by_id: BTreeMap<&str, Vec<&LeaseTaken>> = BTreeMap::new();
    for taken in &chronicle.leases {
        by_id.entry(&taken.evaluation).or_default().push(taken);
    }
    for history in &chronicle.histories {
        let id = history.evaluation.id.as_str();
        let taken = by_id.get(id).map_or(&[][..], Vec::as_slice);
        found.extend(judge(chronicle, taken).into_iter().map(|sentence| format!("{id}: {sentence}")));
        if taken.len() < history.evaluation.attempts.len() {
            let attempts = history.evaluation.attempts.len();
            found.push(format!("{id}: {attempts} attempts under {} leases", taken.len()));
        }
    }
    found
}

fn judge(chronicle: &Chronicle, taken: &[&LeaseTaken]) -> Vec<String> {
    let mut found = Vec::new();
    for (index, lease) in taken.iter().enumerate() {
        let LeaseTaken { token, worker, at, earlier, .. } = lease;
        if index > 0 && taken[index - 1].token >= *token {
            found
                .push(format!("{worker} took it with token {token}, which is no higher than the one before"));
        }
        let Some(Earlier { worker: holder, expires_at, .. }) = earlier else { continue };
        if *expires_at > at + CLOCK && !was_dead(chronicle, holder, *at) {
            let early_ms = (expires_at - at) / 1000;
            found.push(format!("{worker} took it {early_ms} ms before the lease of {holder} was over"));
        }
    }
    found
}

/// A lease whose holder is proven dead may be taken at once. Holders are named after their process.
fn was_dead(chronicle: &Chronicle, holder: &str, at: Micros) -> bool {
    let lives = chronicle.people.iter().flat_map(|person| &person.lives);
    let pid = holder.rsplit('-').next().and_then(|pid| pid.parse::<u32>().ok());
    let mut its = lives.filter(|life| Some(life.pid) == pid && life.began <= at);
    its.any(|life| life.ended.is_some_and(|ended| ended <= at))
}
