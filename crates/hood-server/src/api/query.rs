//! Parameters of the query, read strictly: one that is unknown, repeated or out of its range is an
//! error, and all of them are named at once.

use std::str::FromStr;
use std::time::Duration;

use axum::extract::Query as Decode;
use axum::http::Uri;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hood_core::{BatchId, EvaluationId, State, Timestamp};
use hood_store::DeliveryState;
use hood_wire::api::FieldError;

use super::error::{ApiError, ErrorCode};

#[derive(Debug)]
pub(crate) struct Query {
    pairs: Vec<(String, String)>,
    errors: Vec<FieldError>,
}

impl Query {
    pub(crate) fn of(uri: &Uri) -> Result<Self, ApiError> {
        let Decode(pairs) = Decode::try_from_uri(uri).map_err(|_| {
            ApiError::new(ErrorCode::InvalidParameter, "the query is not form-urlencoded UTF-8")
        })?;
        Ok(Self { pairs, errors: Vec::new() })
    }

    /// Every value of a parameter that may be repeated.
    fn take_all(&mut self, name: &str) -> Vec<String> {
        let (taken, rest) = std::mem::take(&mut self.pairs).into_iter().partition(|(n, _)| n == name);
        self.pairs = rest;
        let taken: Vec<(String, String)> = taken;
        taken.into_iter().map(|(_, value)| value).collect()
    }

    fn wrong(&mut self, name: &str, message: impl Into<String>) {
        self.errors.push(FieldError { path: name.to_owned(), message: message.into() });
    }

    /// A parameter that comes at most once, read by `parse`, which says what is wrong with it.
    fn take<T>(&mut self, name: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let values = self.take_all(name);
        match values.as_slice() {
            [] => None,
            [value] => parse(value).map_err(|message| self.wrong(name, message)).ok(),
            _ => {
                self.wrong(name, "is given more than once");
                None
            }
        }
    }

    pub(crate) fn number<T: FromStr>(&mut self, name: &str) -> Option<T> {
        self.take(name, |text| text.parse().map_err(|_| "is not a whole number of its range".to_owned()))
    }

    pub(crate) fn flag(&mut self, name: &str) -> bool {
        let parsed = self.take(name, |text| match text {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err("is `true` or `false`".to_owned()),
        });
        parsed.unwrap_or(false)
    }

    /// A time to wait, bounded by `max`.
    pub(crate) fn wait(&mut self, max: Duration) -> Option<Duration> {
        self.take("wait", |text| match parse_duration(text) {
            None => Err("is a duration such as `10s`, `500ms` or `1m`".to_owned()),
            Some(wait) if wait > max => Err(format!("is at most {} ms", max.as_millis())),
            Some(wait) => Ok(wait),
        })
    }

    /// The size of a page.
    pub(crate) fn limit(&mut self, default: u32, max: u32) -> u32 {
        let limit = self.take("limit", |text| match text.parse() {
            Ok(limit) if (1..=max).contains(&limit) => Ok(limit),
            _ => Err(format!("is a number from 1 to {max}")),
        });
        limit.unwrap_or(default)
    }

    /// States, repeated or with commas between them.
    pub(crate) fn states(&mut self) -> Vec<State> {
        let mut states = Vec::new();
        for text in self.take_all("state").iter().flat_map(|value| value.split(',')) {
            match State::parse(text) {
                Some(state) => states.push(state),
                None => {
                    let known = State::ALL.map(State::as_str).join(", ");
                    self.wrong("state", format!("is one of {known}"));
                }
            }
        }
        states
    }

    /// `label=name=value`, each of which must hold.
    pub(crate) fn labels(&mut self) -> Vec<(String, String)> {
        let mut labels = Vec::new();
        for text in self.take_all("label") {
            match text.split_once('=') {
                Some((name, value)) if !name.is_empty() => labels.push((name.to_owned(), value.to_owned())),
                _ => self.wrong("label", "is `name=value`"),
            }
        }
        if let Some(problem) = filter_problem(labels.iter().map(|(name, value)| (name, value))) {
            self.wrong("label", problem);
            labels.clear();
        }
        labels
    }

    pub(crate) fn since(&mut self) -> Option<Timestamp> {
        self.take("since", |text| {
            let moment: jiff::Timestamp = text
                .parse()
                .map_err(|_| "is a time as RFC 3339 writes it: `2026-01-31T12:00:00Z`".to_owned())?;
            Ok(Timestamp::from_micros(moment.as_microsecond()))
        })
    }

    pub(crate) fn batch(&mut self) -> Option<BatchId> {
        self.take("batch", |text| text.parse().map_err(|error: hood_core::id::IdError| error.to_string()))
    }

    /// Where a page of evaluations goes on.
    pub(crate) fn evaluation_cursor(&mut self) -> Option<EvaluationId> {
        self.take("cursor", |text| decode_cursor(text).and_then(|id| id.parse().ok()).ok_or_else(not_ours))
    }

    pub(crate) fn evaluation(&mut self, name: &str) -> Option<EvaluationId> {
        self.take(name, |text| text.parse().map_err(|error: hood_core::id::IdError| error.to_string()))
    }

    /// States of deliveries, repeated or with commas between them.
    pub(crate) fn delivery_states(&mut self) -> Vec<DeliveryState> {
        let mut states = Vec::new();
        for text in self.take_all("state").iter().flat_map(|value| value.split(',')) {
            match DeliveryState::parse(text) {
                Some(state) => states.push(state),
                None => {
                    let known = DeliveryState::ALL.map(DeliveryState::as_str).join(", ");
                    self.wrong("state", format!("is one of {known}"));
                }
            }
        }
        states
    }

    /// Where a page of events goes on.
    pub(crate) fn event_cursor(&mut self) -> Option<u64> {
        self.take("cursor", |text| decode_cursor(text).and_then(|id| id.parse().ok()).ok_or_else(not_ours))
    }

    /// Says everything that was wrong, parameters that nobody asked for included.
    pub(crate) fn finish(mut self) -> Result<(), ApiError> {
        for (name, _) in std::mem::take(&mut self.pairs) {
            let name: String = name.chars().take(NAME_ECHO_CHARS).collect();
            self.wrong(&name, "is not known here");
        }
        let Some(first) = self.errors.first() else { return Ok(()) };
        let detail = format!("`{}` {}", first.path, first.message);
        self.errors.truncate(ERRORS_MAX);
        Err(ApiError::new(ErrorCode::InvalidParameter, detail).with_errors(self.errors))
    }
}

/// How much of an unknown parameter's name, and how many wrong ones, an error repeats.
const NAME_ECHO_CHARS: usize = 64;
const ERRORS_MAX: usize = 16;

fn not_ours() -> String {
    "is not a cursor that this server gave".to_owned()
}

/// A cursor is opaque: what it holds is ours to change.
pub(crate) fn encode_cursor(position: &str) -> String {
    URL_SAFE_NO_PAD.encode(position)
}

fn decode_cursor(cursor: &str) -> Option<String> {
    String::from_utf8(URL_SAFE_NO_PAD.decode(cursor).ok()?).ok()
}

/// A whole number and its unit: `ms`, `s` or `m`.
fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let ms = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        _ => return None,
    };
    number.checked_mul(ms).map(Duration::from_millis)
}

/// Labels that one filter may name: each is a search of its own in one statement.
const FILTER_LABELS_MAX: usize = 16;

/// What is wrong with a filter's labels.
pub(crate) fn filter_problem<'a>(
    labels: impl ExactSizeIterator<Item = (&'a String, &'a String)>,
) -> Option<String> {
    if labels.len() > FILTER_LABELS_MAX {
        return Some(format!("names {} labels; at most {FILTER_LABELS_MAX} are taken", labels.len()));
    }
    let mut texts = labels.flat_map(|(name, value)| [name, value]);
    let odd = texts.any(|text| text.chars().any(char::is_control));
    odd.then(|| "has a control character, which no label has".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Query {
        Query::of(&format!("/x?{text}").parse().expect("a URI")).expect("decodes")
    }

    #[test]
    fn durations_have_units() {
        for (text, ms) in [("0s", 0), ("500ms", 500), ("10s", 10_000), ("1m", 60_000)] {
            assert_eq!(parse_duration(text), Some(Duration::from_millis(ms)), "{text}");
        }
        for text in
            ["", "10", "s", "-1s", "1.5s", "1h", "10 s", "99999999999999999999s", "18446744073709551615m"]
        {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn everything_wrong_is_named_at_once() {
        let mut query =
            query("wait=11s&limit=0&state=queued,odd&label=a&colour=red&since=yesterday&cursor=!");
        assert_eq!(query.wait(Duration::from_secs(10)), None);
        assert_eq!(query.limit(50, 100), 50);
        assert_eq!(query.states(), [State::Queued]);
        assert_eq!((query.labels(), query.since(), query.evaluation_cursor()), (vec![], None, None));
        let error = query.finish().expect_err("seven wrong");
        let paths: Vec<&str> = error.errors.iter().map(|error| error.path.as_str()).collect();
        assert_eq!(paths, ["wait", "limit", "state", "label", "since", "cursor", "colour"]);
    }

    #[test]
    fn what_is_right_is_read() {
        let mut query =
            query("label=a%3Db=c&label=d=e%3D&state=queued&state=running,failed&follow=true&wait=10s");
        assert_eq!(query.labels(), [("a".into(), "b=c".into()), ("d".into(), "e=".into())]);
        assert_eq!(query.states(), [State::Queued, State::Running, State::Failed]);
        assert!(query.flag("follow"));
        assert_eq!(query.wait(Duration::from_secs(10)), Some(Duration::from_secs(10)));
        query.finish().expect("all known");
    }

    #[test]
    fn a_filter_names_no_more_labels_than_it_may_and_none_that_cannot_be() {
        let of = |count: usize| {
            let labels: Vec<String> = (0..count).map(|n| format!("label=a{n}=b")).collect();
            let mut query = query(&labels.join("&"));
            (query.labels().len(), query.finish().map_err(|error| error.errors[0].path.clone()))
        };
        assert_eq!(of(FILTER_LABELS_MAX), (FILTER_LABELS_MAX, Ok(())));
        assert_eq!(of(FILTER_LABELS_MAX + 1), (0, Err("label".to_owned())));
        for odd in ["label=%00=b", "label=a=%00", "label=a%0a=b"] {
            let mut query = query(odd);
            assert_eq!(query.labels(), [], "{odd}");
            assert_eq!(query.finish().expect_err("is refused").errors[0].path, "label");
        }
    }

    #[test]
    fn once_means_once() {
        let mut query = query("limit=1&limit=2");
        query.limit(50, 100);
        assert_eq!(query.finish().expect_err("twice").errors[0].message, "is given more than once");
    }
}
