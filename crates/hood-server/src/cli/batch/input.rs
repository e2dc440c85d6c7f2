//! The submissions: one JSON document a line. Everything is read and checked before anything is
//! submitted.

use std::path::{Path, PathBuf};

use hood_client::Error;
use hood_wire::api::Submission;
use serde_json::Value;

use super::super::failure::Failure;

/// Mistakes that are named; more would hide them.
const MISTAKES_MAX: usize = 20;

/// The label that a line's own `id` becomes.
const ID_LABEL: &str = "id";

#[derive(Debug)]
pub(super) struct Input {
    path: PathBuf,
    text: String,
    /// Where each submission stands in the text, with its line's number.
    lines: Vec<(usize, std::ops::Range<usize>)>,
    digest: String,
}

impl Input {
    pub(super) fn read(path: &Path) -> Result<Self, Failure> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| Failure::new(format!("cannot read {}", path.display())).because(error))?;
        let mut lines = Vec::new();
        let mut start = 0;
        for (i, line) in text.split_inclusive('\n').enumerate() {
            if !line.trim().is_empty() {
                lines.push((i + 1, start..start + line.len()));
            }
            start += line.len();
        }
        let digest = blake3::hash(text.as_bytes()).to_hex().to_string();
        let input = Self { path: path.to_owned(), text, lines, digest };
        input.check()?;
        Ok(input)
    }

    pub(super) fn len(&self) -> usize {
        self.lines.len()
    }

    pub(super) fn digest(&self) -> &str {
        &self.digest
    }

    pub(super) fn submission(&self, index: usize) -> Result<Submission, Failure> {
        let (number, range) = &self.lines[index];
        parse(&self.text[range.clone()])
            .map_err(|why| Failure::new(format!("{}:{number}: {why}", self.path.display())))
    }

    fn check(&self) -> Result<(), Failure> {
        if self.lines.is_empty() {
            return Err(Failure::new(format!("{} holds no submissions", self.path.display())));
        }
        let wrong: Vec<String> = self
            .lines
            .iter()
            .filter_map(|(number, range)| Some((number, parse(&self.text[range.clone()]).err()?)))
            .map(|(number, why)| format!("\n{}:{number}: {why}", self.path.display()))
            .collect();
        if wrong.is_empty() {
            return Ok(());
        }
        let more = match wrong.len().saturating_sub(MISTAKES_MAX) {
            0 => String::new(),
            n => format!("\n… and {n} more"),
        };
        let named: String = wrong.into_iter().take(MISTAKES_MAX).collect();
        Err(Failure::new(format!("nothing was submitted, since lines are no submissions:{named}{more}"))
            .next("each line is a submission as in openapi/v1.json; `fumehood help batch` has an example"))
    }

    /// A refusal names `evaluations[3].code` of a request; people want the line of the file.
    pub(super) fn at_its_line(&self, error: Error, first: usize) -> Failure {
        let Error::Refused { mut problem, retry_after } = error else { return error.into() };
        for field in &mut problem.errors {
            let Some((index, rest)) =
                field.path.strip_prefix("evaluations[").and_then(|path| path.split_once(']'))
            else {
                continue;
            };
            let line = index.parse::<usize>().ok().and_then(|index| self.lines.get(first + index));
            if let Some((number, _)) = line {
                field.path = format!("{}:{number}: {}", self.path.display(), rest.trim_start_matches('.'));
            }
        }
        Error::Refused { problem, retry_after }.into()
    }
}

fn parse(line: &str) -> Result<Submission, String> {
    let mut value: Value = serde_json::from_str(line).map_err(|error| error.to_string())?;
    let Some(object) = value.as_object_mut() else { return Err("is no JSON object".to_owned()) };
    let id = match object.remove(ID_LABEL) {
        None => None,
        Some(Value::String(id)) => Some(id),
        Some(Value::Number(id)) => Some(id.to_string()),
        Some(_) => return Err("`id` is neither a text nor a number".to_owned()),
    };
    let mut submission: Submission = serde_json::from_value(value).map_err(|error| error.to_string())?;
    if let Some(id) = id {
        submission.labels.entry(ID_LABEL.to_owned()).or_insert(id);
    }
    Ok(submission)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lines_own_id_becomes_a_label() {
        let submission = parse(r#"{"id": 7, "code": "x", "labels": {"a": "b"}}"#).expect("sound");
        assert_eq!(submission.labels.get("id").map(String::as_str), Some("7"));
        assert_eq!(submission.labels.len(), 2);
    }

    #[test]
    fn every_wrong_line_is_named_before_anything_is_sent() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("in.jsonl");
        std::fs::write(&path, "{\"code\": \"1\"}\n\n[]\n{\"cod\": 1}\n{\"id\": [], \"code\": \"1\"}\n")
            .expect("written");
        let failure = Input::read(&path).expect_err("three are wrong").to_string();
        for part in [":3: is no JSON object", ":4: unknown field `cod`", ":5: `id` is neither"] {
            assert!(failure.contains(part), "{failure}");
        }
        assert!(!failure.contains(":1:") && !failure.contains(":2:"));
    }
}
