//! The dispatcher's HTTP side: who may call, what was called, and [`hood_dispatch::remote::Service`]
//! behind it. No token of a lease is ever logged here; they travel in bodies alone.

mod openapi;
mod problem;
mod routes;
mod serve;

pub use openapi::openapi;
pub use routes::{DispatcherState, router};
pub use serve::serve;
