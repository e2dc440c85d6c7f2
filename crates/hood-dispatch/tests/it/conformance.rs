//! The suite of `Dispatch`, on every way to dispatch that needs no network.

#[macro_use]
mod cases;

use crate::bench::{self, Bench};
use crate::wire::Weather;

conformance!(in_process, Bench::new(0));
conformance!(over_the_wire, Bench::over_the_wire(Weather::CALM));
conformance!(over_a_bad_wire, Bench::over_the_wire(Weather::BAD));
