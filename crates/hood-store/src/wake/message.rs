//! What is in an entry of a stream. Messages between processes carry a version: what a newer one
//! added is passed over, and what cannot be read at all makes everybody look.

use std::collections::{HashMap, HashSet};

use hood_core::EvaluationId;
use redis::{FromRedisValue as _, Value};
use uuid::Uuid;

use super::Signal;

/// Evaluations named in one entry; where there were more, everybody looks.
pub(super) const SIGNALS_MAX: usize = 1024;

const VERSION: u64 = 1;
const UUID_BYTES: usize = 16;

/// What a process tells the others, of one transaction or of several.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Notice {
    signals: HashSet<Signal>,
    /// More happened than is named.
    everything: bool,
}

impl Notice {
    pub(super) fn everything() -> Self {
        Self { signals: HashSet::new(), everything: true }
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.everything && self.signals.is_empty()
    }

    pub(super) fn is_everything(&self) -> bool {
        self.everything
    }

    pub(super) fn signals(&self) -> impl Iterator<Item = Signal> + '_ {
        self.signals.iter().copied()
    }

    pub(super) fn add(&mut self, signals: impl IntoIterator<Item = Signal>) {
        if !self.everything {
            self.signals.extend(signals);
        }
        if self.signals.len() > SIGNALS_MAX {
            *self = Self::everything();
        }
    }

    pub(super) fn add_everything(&mut self) {
        *self = Self::everything();
    }
}

/// One entry: who says it, the how manieth it is of theirs, and what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) origin: u64,
    pub(super) number: u64,
    pub(super) notice: Notice,
}

impl Message {
    pub(super) fn fields(&self) -> Vec<(&'static str, Vec<u8>)> {
        let text = |number: u64| number.to_string().into_bytes();
        let (mut changed, mut cancels) = (Vec::new(), Vec::new());
        let (mut work, mut deliveries) = (false, false);
        for signal in self.notice.signals() {
            match signal {
                Signal::Work => work = true,
                Signal::Deliveries => deliveries = true,
                Signal::Changed(id) => changed.extend_from_slice(id.as_uuid().as_bytes()),
                Signal::Cancel(id) => cancels.extend_from_slice(id.as_uuid().as_bytes()),
            }
        }
        vec![
            ("version", text(VERSION)),
            ("origin", text(self.origin)),
            ("number", text(self.number)),
            ("everything", text(self.notice.everything.into())),
            ("work", text(work.into())),
            ("deliveries", text(deliveries.into())),
            ("changed", changed),
            ("cancels", cancels),
        ]
    }

    pub(super) fn read(fields: &HashMap<String, Value>) -> Option<Self> {
        let number = |name: &str| fields.get(name).and_then(|value| u64::from_redis_value_ref(value).ok());
        if number("version")? != VERSION {
            return None;
        }
        let mut notice = Notice { signals: HashSet::new(), everything: number("everything")? != 0 };
        notice.add((number("work")? != 0).then_some(Signal::Work));
        // One that an older process wrote has none.
        notice.add((number("deliveries").unwrap_or(0) != 0).then_some(Signal::Deliveries));
        notice.add(ids(fields, "changed")?.map(Signal::Changed));
        notice.add(ids(fields, "cancels")?.map(Signal::Cancel));
        Some(Self { origin: number("origin")?, number: number("number")?, notice })
    }
}

fn ids<'a>(
    fields: &'a HashMap<String, Value>,
    name: &str,
) -> Option<impl Iterator<Item = EvaluationId> + use<'a>> {
    let Some(Value::BulkString(bytes)) = fields.get(name) else { return None };
    let whole = bytes.len() % UUID_BYTES == 0;
    let ids = bytes.chunks_exact(UUID_BYTES).filter_map(|id| Uuid::from_slice(id).ok());
    whole.then_some(ids.map(EvaluationId::from_uuid))
}

/// What was last heard of each sender: a number that does not follow was preceded by something that
/// the stream had dropped before it was read.
#[derive(Debug, Default)]
pub(super) struct Heard {
    numbers: HashMap<u64, u64>,
}

/// Senders remembered: processes alive at once, and those before them that are not forgotten yet.
const ORIGINS_MAX: usize = 1024;

impl Heard {
    /// False where something before it was missed.
    pub(super) fn follows(&mut self, message: &Message) -> bool {
        if self.numbers.len() >= ORIGINS_MAX && !self.numbers.contains_key(&message.origin) {
            self.numbers.clear();
        }
        // The first of a sender is taken as it comes: what was before it was before this listened.
        let before = self.numbers.insert(message.origin, message.number);
        before.is_none_or(|before| message.number == before + 1)
    }
}

#[cfg(test)]
mod tests {
    //! White box.

    use super::*;

    fn id(n: u8) -> EvaluationId {
        EvaluationId::from_uuid(Uuid::from_bytes([n; 16]))
    }

    fn message(number: u64, notice: Notice) -> Message {
        Message { origin: 7, number, notice }
    }

    fn sent(message: &Message) -> HashMap<String, Value> {
        let fields = message.fields().into_iter();
        fields.map(|(name, value)| (name.to_owned(), Value::BulkString(value))).collect()
    }

    #[test]
    fn what_is_written_is_read() {
        let mut notice = Notice::default();
        notice.add([
            Signal::Work,
            Signal::Deliveries,
            Signal::Changed(id(1)),
            Signal::Changed(id(2)),
            Signal::Cancel(id(1)),
        ]);
        for notice in [notice, Notice::everything(), Notice::default()] {
            let message = message(3, notice);
            assert_eq!(Message::read(&sent(&message)), Some(message));
        }
    }

    #[test]
    fn fields_that_are_not_known_are_passed_over_and_broken_ones_are_not_guessed_at() {
        let whole = sent(&message(1, Notice::everything()));
        let mut newer = whole.clone();
        newer.insert("added".to_owned(), Value::Int(1));
        assert!(Message::read(&newer).is_some());
        for (name, value) in [
            ("version", Value::BulkString(b"2".to_vec())),
            ("changed", Value::BulkString(vec![0; 17])),
            ("number", Value::Nil),
        ] {
            let mut broken = whole.clone();
            broken.insert(name.to_owned(), value);
            assert_eq!(Message::read(&broken), None, "{name}");
        }
    }

    #[test]
    fn more_than_an_entry_names_is_everything() {
        let mut notice = Notice::default();
        let id = |n: u32| Signal::Changed(EvaluationId::from_uuid(Uuid::from_u128(n.into())));
        notice.add((0..1024).map(id));
        assert!(!notice.is_everything());
        notice.add([Signal::Work]);
        assert_eq!(notice, Notice::everything());
    }

    #[test]
    fn a_gap_in_a_senders_numbers_shows() {
        let mut heard = Heard::default();
        let mut follows =
            |origin, number| heard.follows(&Message { origin, number, notice: Notice::default() });
        assert!(follows(1, 40), "what was before this listened is not missed");
        assert!(follows(1, 41) && follows(2, 1));
        assert!(!follows(1, 43));
        assert!(follows(1, 44) && follows(2, 2));
    }
}
