//! Names that a client gives, each of them once.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;

use serde::Deserializer;
use serde::de::{Error, MapAccess, Visitor};

/// A map whose names differ. Serde's own takes the last value of a name that is there twice, and two
/// readers of one document may differ in which they take.
pub(super) fn distinct<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, String>, D::Error> {
    from.deserialize_map(Distinct)
}

struct Distinct;

impl<'de> Visitor<'de> for Distinct {
    type Value = BTreeMap<String, String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut said: A) -> Result<Self::Value, A::Error> {
        let mut map = BTreeMap::new();
        while let Some(name) = said.next_key()? {
            match map.entry(name) {
                Entry::Vacant(place) => place.insert(said.next_value()?),
                Entry::Occupied(there) => {
                    return Err(A::Error::custom(format_args!("duplicate key `{}`", there.key())));
                }
            };
        }
        Ok(map)
    }
}

#[cfg(test)]
mod tests {
    use crate::api::Submission;

    fn read(text: &str) -> Result<Submission, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn a_name_that_is_there_twice_is_refused() {
        for field in ["env", "labels"] {
            let twice = format!(r#"{{"code": "", "{field}": {{"A": "1", "B": "2", "A": "1"}}}}"#);
            let said = read(&twice).expect_err("refused");
            assert!(said.starts_with("duplicate key `A`"), "{said}");
            let escaped = format!(r#"{{"code": "", "{field}": {{"A": "1", "\u0041": "2"}}}}"#);
            let said = read(&escaped).expect_err("refused");
            assert!(said.starts_with("duplicate key `A`"), "{said}");
        }
    }

    #[test]
    fn names_that_differ_are_taken() {
        let taken =
            read(r#"{"code": "", "env": {"B": "2", "A": "1", "a": "3"}, "labels": {}}"#).expect("taken");
        let names: Vec<_> = taken.env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(names, [("A", "1"), ("B", "2"), ("a", "3")]);
        assert!(taken.labels.is_empty());
        assert!(read(r#"{"code": ""}"#).expect("taken").env.is_empty());
    }

    #[test]
    fn what_is_no_map_is_refused_as_before() {
        let said = read(r#"{"code": "", "env": ["A"]}"#).expect_err("refused");
        assert!(said.starts_with("invalid type: sequence, expected a map"), "{said}");
    }
}
