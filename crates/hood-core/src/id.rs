//! Ids: UUIDv7, so that they sort by the time they were made, with a prefix in text so that an
//! evaluation's id can never be pasted where a batch's belongs.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

use crate::Timestamp;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {noun} id: it is `{prefix}` and 32 lowercase hexadecimal digits")]
pub struct IdError {
    text: String,
    noun: &'static str,
    prefix: &'static str,
}

/// How much of a wrong id an error repeats.
const ECHO_CHARS: usize = 64;

fn parse(text: &str, noun: &'static str, prefix: &'static str) -> Result<Uuid, IdError> {
    text.strip_prefix(prefix)
        .filter(|hex| hex.len() == 32 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
        .and_then(|hex| Uuid::try_parse(hex).ok())
        .ok_or_else(|| IdError { text: text.chars().take(ECHO_CHARS).collect(), noun, prefix })
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $noun:literal, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            /// A new id from the moment it is made and ten random bytes, both the caller's.
            pub fn new(at: Timestamp, random: [u8; 10]) -> Self {
                Self(uuid::Builder::from_unix_timestamp_millis(at.as_unix_millis(), &random).into_uuid())
            }

            pub const fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }

            pub const fn as_uuid(self) -> Uuid {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}{}", $prefix, self.0.simple())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                parse(text, $noun, $prefix).map(Self)
            }
        }
    };
}

id!(
    /// One evaluation: `ev_` and 32 lowercase hexadecimal digits.
    EvaluationId, "an evaluation", "ev_"
);
id!(
    /// One batch: `ba_` and 32 lowercase hexadecimal digits.
    BatchId, "a batch", "ba_"
);

/// Who a row belongs to. One tenant exists for now; every row and unique key carries it already, so
/// that a second one needs no migration of what was written before.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tenant(String);

impl Tenant {
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Tenant {
    fn default() -> Self {
        Self("default".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips_and_sorts_by_time() {
        let early = EvaluationId::new(Timestamp::from_micros(1_700_000_000_000_000), [0xff; 10]);
        let late = EvaluationId::new(Timestamp::from_micros(1_700_000_000_001_000), [0; 10]);
        assert!(early < late && early.to_string() < late.to_string());
        assert_eq!(early.to_string().parse::<EvaluationId>(), Ok(early));
        assert_eq!(early.to_string().len(), 35);
    }

    #[test]
    fn refuses_what_is_not_an_id() {
        for wrong in
            ["", "ev_", "ev_00", "ba_00000000000000000000000000000000", "ev_0000000000000000000000000000000G"]
        {
            assert!(wrong.parse::<EvaluationId>().is_err(), "{wrong}");
        }
        assert!("ev_0190163D8694739BAEA5966C26F8AD91".parse::<EvaluationId>().is_err(), "upper case");
    }
}
