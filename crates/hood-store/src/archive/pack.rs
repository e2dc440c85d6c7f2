//! Making an object of many evaluations, and one evaluation of a part of it.

use hood_core::{EvaluationId, Tenant};

use super::Line;
use crate::error::StoreError;
use crate::ops::archive::{Entry, Seen};
use crate::rows::corrupt;

/// How hard to press: archives are written once and read seldom, and what is at hand has other work.
const LEVEL: i32 = 3;

#[derive(Debug, Default)]
pub(super) struct Pack {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

impl Pack {
    pub(super) fn add(
        &mut self,
        (tenant, evaluation): (Tenant, EvaluationId),
        (line, seen): (&Line, Seen),
    ) -> Result<(), StoreError> {
        let mut text = serde_json::to_vec(line).map_err(|error| corrupt(error.to_string()))?;
        text.push(b'\n');
        let frame = zstd::bulk::compress(&text, LEVEL).map_err(|error| corrupt(error.to_string()))?;
        let at = self.bytes.len() as u64;
        self.entries.push(Entry { tenant, evaluation, seen, at, bytes: frame.len() as u64 });
        self.bytes.extend_from_slice(&frame);
        Ok(())
    }

    pub(super) const fn bytes(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn finish(self) -> (Vec<u8>, Vec<Entry>) {
        (self.bytes, self.entries)
    }
}

pub(super) fn unpack(frame: &[u8]) -> Result<Line, StoreError> {
    let unreadable = |what: String| corrupt(format!("an archived evaluation cannot be read: {what}"));
    let text = zstd::decode_all(frame).map_err(|error| unreadable(error.to_string()))?;
    serde_json::from_slice(&text).map_err(|error| unreadable(error.to_string()))
}
