//! One evaluation: its log is one path through the lifecycle, its end is its program's, and its bytes
//! are its program's bytes.

use hood_client::Stream;
use hood_wire::api::{Event, EventType, State, Verdict};

use super::micros;
use crate::history::{History, Output};

/// Programs that infrastructure killed after their first instruction are tried once more, not more.
const STARTS_MAX: usize = 2;
/// Every bound on retries together: 5 for infrastructure, 20 for deaths of our own, 1 suspect.
const ATTEMPTS_MAX: usize = 26;

pub(super) fn violations(history: &History) -> Vec<String> {
    let mut found = path(&history.events);
    found.extend(ending(history));
    found.extend(output(history));
    if let Some(followed) = &history.followed
        && *followed != history.events
    {
        let (seen, there) = (followed.len(), history.events.len());
        found.push(format!("a follower saw other events ({seen}) than there are ({there})"));
    }
    found
}

/// Where a log stands, and how far the attempts have come.
struct Walk {
    state: Option<State>,
    attempts: u32,
    starts: usize,
    not_before: Option<String>,
}

fn path(events: &[Event]) -> Vec<String> {
    let mut found = Vec::new();
    let mut walk = Walk { state: None, attempts: 0, starts: 0, not_before: None };
    for (index, event) in events.iter().enumerate() {
        if event.number != index as u64 + 1 {
            found.push(format!("event {} stands where {} should", event.number, index + 1));
        }
        if !walk.takes(event) {
            found.push(format!("{:?} after {:?} (event {})", event.kind, walk.state, event.number));
        }
        walk.state = Some(event.state);
    }
    let times: Vec<_> = events.iter().map(|event| micros(&event.at)).collect();
    if times.windows(2).any(|pair| pair[0] > pair[1]) || times.contains(&None) {
        found.push("its events go back in time".to_owned());
    }
    if !walk.state.is_some_and(State::is_terminal) {
        found.push(format!("accepted and not ended: {:?}", walk.state));
    }
    if walk.starts > STARTS_MAX {
        found.push(format!("its program was started {} times", walk.starts));
    }
    if walk.attempts as usize > ATTEMPTS_MAX {
        found.push(format!("{} attempts are more than every bound allows", walk.attempts));
    }
    found
}

impl Walk {
    fn takes(&mut self, event: &Event) -> bool {
        let current = event.attempt == Some(self.attempts);
        match (self.state, event.kind) {
            (None, EventType::Submitted) => event.state == State::Queued,
            (Some(State::Queued), EventType::AttemptStarted) => {
                self.attempts += 1;
                let due = self.not_before.take().is_none_or(|due| micros(&due) <= micros(&event.at));
                due && event.attempt == Some(self.attempts) && event.state == State::Provisioning
            }
            (Some(State::Provisioning), EventType::Started) => {
                self.starts += 1;
                current && event.state == State::Running
            }
            (Some(State::Provisioning | State::Running), EventType::RetryScheduled) => {
                self.not_before.clone_from(&event.not_before);
                current && event.state == State::Queued
            }
            (Some(State::Queued | State::Provisioning | State::Running), EventType::Finished) => {
                event.state.is_terminal() && event.verdict.is_some()
            }
            _ => false,
        }
    }
}

/// The program's own end, or one that says truly why it is another.
fn ending(history: &History) -> Vec<String> {
    let evaluation = &history.evaluation;
    let mut found = Vec::new();
    let last = history.events.last();
    if last.is_some_and(|last| (last.state, last.verdict) != (evaluation.state, evaluation.verdict)) {
        found.push(format!("{:?} is not what its last event says", evaluation.verdict));
    }
    let starts = history.events.iter().filter(|event| event.kind == EventType::Started).count();
    let begun = history.events.iter().filter(|event| event.kind == EventType::AttemptStarted).count();
    if evaluation.attempts.len() != begun {
        found.push(format!("{} attempts on record, {begun} in the log", evaluation.attempts.len()));
    }
    let evidence = evaluation.evidence.clone().unwrap_or_default();
    let suspect = evidence.suspect
        && evidence.lost.as_ref().is_some_and(|lost| lost.kind == "suspect")
        && starts == STARTS_MAX;
    let fine = match evaluation.verdict {
        Some(Verdict::Cancelled) => history.cancel_asked,
        Some(Verdict::InfrastructureError) => suspect,
        verdict => (verdict, evaluation.exit_code) == own(history),
    };
    if !fine {
        let (verdict, code) = (evaluation.verdict, evaluation.exit_code);
        let (kind, attempts) = (history.work.kind, &evaluation.attempts);
        let why = evidence.lost.map(|lost| format!("{}: {}", lost.kind, lost.reason));
        let lost: Vec<_> = attempts.iter().filter_map(|attempt| attempt.lost.as_ref()).collect();
        found.push(format!(
            "a {kind:?} ended as {verdict:?} ({code:?}) after {starts} starts: {why:?}, {lost:?}"
        ));
    }
    found
}

fn own(history: &History) -> (Option<Verdict>, Option<u8>) {
    let (verdict, code) = history.work.verdict();
    (Some(verdict), code)
}

fn output(history: &History) -> Vec<String> {
    let evaluation = &history.evaluation;
    let ended_itself = (evaluation.verdict, evaluation.exit_code) == own(history);
    let last = evaluation.attempts.last().map(|attempt| attempt.number);
    let mut found = Vec::new();
    for output in &history.outputs {
        let whole = ended_itself && Some(output.attempt) == last;
        for stream in Stream::PROGRAM {
            found.extend(bytes(history, output, stream, whole));
        }
    }
    if ended_itself && !history.outputs.iter().any(|output| Some(output.attempt) == last) {
        found.push("its output was never read".to_owned());
    }
    if ended_itself && !(evaluation.stdout.complete && evaluation.stderr.complete) {
        found.push("it ended by itself, and its output is called incomplete".to_owned());
    }
    found
}

fn bytes(history: &History, output: &Output, stream: Stream, whole: bool) -> Option<String> {
    let wanted = history.work.expected(stream);
    let got = match stream {
        Stream::Stdout => &output.stdout,
        Stream::Stderr => &output.stderr,
        Stream::Build => return None,
    };
    let right = if whole { *got == wanted } else { wanted.starts_with(got) };
    (!right).then(|| {
        let same = got.iter().zip(&wanted).take_while(|(got, wanted)| got == wanted).count();
        let (name, attempt) = (stream.as_str(), output.attempt);
        format!("{name} of attempt {attempt}: {} bytes of {}, wrong from {same} on", got.len(), wanted.len())
    })
}
