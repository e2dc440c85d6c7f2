//! What crosses a border, as types only. Each edge has a module of its own, so that two edges'
//! ideas of the same noun can never be mistaken for each other.

pub mod agent;
#[cfg(feature = "api")]
pub mod api;
#[cfg(feature = "dispatch")]
pub mod dispatch;
pub mod unpack;
