//! Reads in the logs of those who own places what they did with each attempt.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::PathBuf;

use anyhow::Context as _;
use serde::Deserialize;

use crate::check::micros;
use crate::history::{Micros, Sighting, What};

/// How the executor says it, at level `debug`.
const SAID: [(&str, What); 3] = [
    ("a place is ordered", What::Ordered),
    ("its program is released", What::Released),
    ("its program has ended", What::Ended),
];

#[derive(Debug)]
struct Log {
    member: usize,
    path: PathBuf,
    read: u64,
    /// The beginning of a line whose end is not yet written.
    rest: Vec<u8>,
}

#[derive(Debug, Default)]
pub(crate) struct Witness {
    logs: Vec<Log>,
    pub(crate) sightings: Vec<Sighting>,
    /// The latest of each attempt.
    last: HashMap<(String, u32), Sighting>,
}

#[derive(Deserialize)]
struct Line {
    timestamp: String,
    #[serde(default)]
    message: String,
    #[serde(rename = "evaluation.id")]
    evaluation: Option<String>,
    attempt: Option<u32>,
}

impl Witness {
    pub(crate) fn watch(&mut self, member: usize, path: PathBuf) {
        self.logs.push(Log { member, path, read: 0, rest: Vec::new() });
    }

    /// Reads what was written since the last time.
    pub(crate) fn look(&mut self) -> anyhow::Result<()> {
        for log in &mut self.logs {
            let mut file = File::open(&log.path).with_context(|| format!("open {}", log.path.display()))?;
            file.seek(SeekFrom::Start(log.read)).context("go on in a log")?;
            log.read += file.read_to_end(&mut log.rest).context("read a log")? as u64;
            let whole = log.rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
            let lines: Vec<u8> = log.rest.drain(..whole).collect();
            for seen in lines.split(|byte| *byte == b'\n').filter_map(|line| sighting(log.member, line)) {
                self.last.insert((seen.evaluation.clone(), seen.attempt), seen.clone());
                self.sightings.push(seen);
            }
        }
        Ok(())
    }

    /// Whether some attempt was last seen in this way, at `since` or later, by any of these members.
    pub(crate) fn someone_is(&self, what: What, since: Micros, members: &[usize]) -> bool {
        let is = |last: &Sighting| last.what == what && last.at >= since && members.contains(&last.member);
        self.last.values().any(is)
    }

    /// A dead member does nothing any more.
    pub(crate) fn forget(&mut self, member: usize) {
        self.last.retain(|_, last| last.member != member);
    }
}

fn sighting(member: usize, line: &[u8]) -> Option<Sighting> {
    let line: Line = serde_json::from_slice(line).ok()?;
    let (_, what) = SAID.into_iter().find(|(said, _)| *said == line.message)?;
    let (evaluation, attempt) = (line.evaluation?, line.attempt?);
    Some(Sighting { at: micros(&line.timestamp)?, member, what, evaluation, attempt })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_line_is_read_once_and_whole() {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        let mut witness = Witness::default();
        witness.watch(4, file.path().to_owned());
        let line = r#"{"timestamp":"2026-01-01T00:00:00.000001Z","message":"its program is released","evaluation.id":"ev_1","attempt":2}"#;
        let (first, second) = line.split_at(40);
        write!(file, "no json\n{first}").expect("writes");
        witness.look().expect("reads");
        assert_eq!(witness.sightings, []);
        writeln!(file, "{second}").expect("writes");
        witness.look().expect("reads");
        witness.look().expect("reads");
        assert_eq!(witness.sightings.len(), 1);
        let seen = &witness.sightings[0];
        assert_eq!((seen.member, seen.what, seen.attempt), (4, What::Released, 2));
        assert!(witness.someone_is(What::Released, 0, &[4]) && !witness.someone_is(What::Released, 0, &[3]));
        assert!(
            !witness.someone_is(What::Ordered, 0, &[4])
                && !witness.someone_is(What::Released, i64::MAX, &[4])
        );
        witness.forget(4);
        assert!(!witness.someone_is(What::Released, 0, &[4]));
    }
}
