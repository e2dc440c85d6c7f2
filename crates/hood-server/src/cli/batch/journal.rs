//! What was submitted, in a file beside the results: a line for the input, and one for each request
//! that was accepted. Appended and made durable before anybody relies on it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use hood_wire::api::{BatchCreated, BatchSubmission};
use serde::{Deserialize, Serialize};

use super::super::failure::Failure;
use super::input::Input;

/// Requests are no larger than this, whatever the number of their evaluations: well below what a
/// server takes.
const CHUNK_BYTES_MAX: usize = 4 * 1024 * 1024;

#[derive(Debug, Serialize, Deserialize)]
struct Head {
    fumehood_batch: u32,
    /// blake3 of the input: another input's results are not these.
    input: String,
    evaluations: usize,
    chunk: usize,
    /// Distinguishes one run of the same input from the next that was asked for.
    run: String,
}

const FORMAT: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
struct Accepted {
    first: usize,
    batch: String,
    evaluations: Vec<String>,
}

/// What the next request holds.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) first: usize,
    pub(super) batch: BatchSubmission,
    /// The same each time that this chunk of this run is sent.
    pub(super) key: String,
}

#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    results: PathBuf,
    file: File,
    head: Head,
    evaluations: Vec<String>,
}

/// The state file of these results.
pub(super) fn beside(results: &Path) -> PathBuf {
    let mut name = results.as_os_str().to_owned();
    name.push(".state");
    name.into()
}

impl Journal {
    /// Takes up the journal beside `results`, or begins one.
    pub(super) fn open(results: &Path, input: &Input, chunk: usize, restart: bool) -> Result<Self, Failure> {
        let path = beside(results);
        let failed = |error: io::Error| {
            Failure::new(format!("cannot use the state file {}", path.display())).because(error)
        };
        let text = match std::fs::read_to_string(&path) {
            Ok(text) if !restart => text,
            Ok(_) => String::new(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(failed(error)),
        };
        if text.is_empty() {
            if !restart && std::fs::metadata(results).is_ok_and(|metadata| metadata.len() > 0) {
                return Err(Failure::new(format!("{} is there already", results.display()))
                    .next("name another file, or begin anew over it with --restart"));
            }
            return Self::begin(path.clone(), results, input, chunk).map_err(failed);
        }
        let (head, evaluations, whole) = read(&text)
            .filter(|(head, ..)| head.fumehood_batch == FORMAT)
            .ok_or_else(|| unusable(&path, "is no state file of this version"))?;
        if head.input != input.digest() && evaluations.is_empty() {
            // The server took none of it: most likely this is the input put right.
            return Self::begin(path.clone(), results, input, chunk).map_err(failed);
        }
        if head.input != input.digest() {
            return Err(unusable(&path, "belongs to another input, or the input has changed"));
        }
        let file = OpenOptions::new().append(true).open(&path).map_err(failed)?;
        // A line that was cut off by a crash was relied on by nobody.
        file.set_len(whole as u64).map_err(failed)?;
        Ok(Self { path, results: results.to_owned(), file, head, evaluations })
    }

    fn begin(path: PathBuf, results: &Path, input: &Input, chunk: usize) -> io::Result<Self> {
        let head = Head {
            fumehood_batch: FORMAT,
            input: input.digest().to_owned(),
            evaluations: input.len(),
            chunk,
            run: format!("{:032x}", rand::random::<u128>()),
        };
        // Results of an earlier run go first: they must never stand beside the new journal.
        File::create(results)?.sync_all()?;
        let file = File::create(&path)?;
        let mut journal = Self { path, results: results.to_owned(), file, head, evaluations: Vec::new() };
        let head = serde_json::to_string(&journal.head)?;
        journal.append(&head)?;
        Ok(journal)
    }

    /// Ids in the order of the input, as far as they are known.
    pub(super) fn evaluations(&self) -> &[String] {
        &self.evaluations
    }

    /// Every result is written.
    pub(super) fn is_complete(&self) -> bool {
        let written = std::fs::read(&self.results).unwrap_or_default();
        written.iter().filter(|byte| **byte == b'\n').count() >= self.head.evaluations
    }

    pub(super) fn next_chunk(&self, input: &Input) -> Result<Option<Chunk>, Failure> {
        let first = self.evaluations.len();
        let mut evaluations = Vec::new();
        let mut bytes = 0;
        let mut hash = blake3::Hasher::new();
        while evaluations.len() < self.head.chunk && first + evaluations.len() < input.len() {
            let submission = input.submission(first + evaluations.len())?;
            let text = serde_json::to_vec(&submission)
                .map_err(|error| Failure::new("cannot write a submission as JSON").because(error))?;
            bytes += text.len();
            if bytes > CHUNK_BYTES_MAX && !evaluations.is_empty() {
                break;
            }
            hash.update(&text);
            evaluations.push(submission);
        }
        if evaluations.is_empty() {
            return Ok(None);
        }
        let key = format!("batch-{}-{first}-{}", self.head.run, &hash.finalize().to_hex()[..16]);
        Ok(Some(Chunk { first, batch: BatchSubmission { evaluations }, key }))
    }

    pub(super) fn accepted(&mut self, chunk: &Chunk, created: BatchCreated) -> Result<(), Failure> {
        let (asked, got) = (chunk.batch.evaluations.len(), created.evaluations.len());
        if asked != got {
            return Err(Failure::new(format!("the server took {got} of {asked} evaluations as one batch")));
        }
        let line = Accepted { first: chunk.first, batch: created.id, evaluations: created.evaluations };
        let text = serde_json::to_string(&line).map_err(io::Error::from);
        text.and_then(|text| self.append(&text)).map_err(|error| {
            Failure::new(format!("cannot write the state file {}", self.path.display())).because(error)
        })?;
        self.evaluations.extend(line.evaluations);
        Ok(())
    }

    fn append(&mut self, line: &str) -> io::Result<()> {
        self.file.write_all(format!("{line}\n").as_bytes())?;
        self.file.sync_data()
    }
}

fn unusable(path: &Path, why: &str) -> Failure {
    Failure::new(format!("{} {why}", path.display()))
        .next("name another results file, or begin anew with --restart")
}

/// Head, ids, and how many bytes of the text are whole lines.
fn read(text: &str) -> Option<(Head, Vec<String>, usize)> {
    let whole = text.rfind('\n')? + 1;
    let mut lines = text[..whole].lines();
    let head = serde_json::from_str(lines.next()?).ok()?;
    let mut evaluations = Vec::new();
    for line in lines {
        let accepted: Accepted = serde_json::from_str(line).ok()?;
        if accepted.first != evaluations.len() {
            return None;
        }
        evaluations.extend(accepted.evaluations);
    }
    Some((head, evaluations, whole))
}
